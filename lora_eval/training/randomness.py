"""Chance without state: every draw is named by (seed, purpose, position).

Nothing is read from or written to the global generators, and resuming at step n draws what an undisturbed run
draws at step n, because no generator lives longer than one step.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *name: object) -> int:
    """A 63-bit seed for a purpose: SHA-256 of the seed and the name's parts."""
    text = "\x1f".join([str(seed), *(str(part) for part in name)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_random(seed: int, *name: object) -> torch.Generator:
    """A CPU generator; noise is drawn on the CPU so that it does not depend on the device."""
    return torch.Generator().manual_seed(derive(seed, *name))


def python_random(seed: int, *name: object) -> random.Random:
    """A generator for choices and shuffles."""
    return random.Random(derive(seed, *name))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Foreign code may draw from the global generators of Python, numpy and torch: they are put back on leaving."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
