"""Second opinions on fidelity, by the encoders that are on the machine beside the first one.

Nothing is downloaded and nothing is installed: what is missing is said, with how to get it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lora_eval.encoders.protocol import MissingEncoder
from lora_eval.encoders.registry import second_opinions
from lora_eval.errors import DatasetError
from lora_eval.scorecard.draw.store import RunFolder, content_hash
from lora_eval.scorecard.features.cache import FeatureCache, Source
from lora_eval.scorecard.features.references import fit


def measure_extras(
    folder: RunFolder, kind: str, sources: Sequence[Source], references: Sequence[Path], size: tuple[int, int]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, str]]:
    """Features of pictures and references by every second encoder that is there.

    Returns:
        name -> (N, D) of the pictures, name -> (R, D) of the references, name -> why not measured.
    """
    pictures: dict[str, np.ndarray] = {}
    of_references: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    for spec in second_opinions(kind):
        name = spec.second
        try:
            encoder = spec.load("cpu", 64)
        except MissingEncoder as why:
            missing[name] = f"not measured: {why}"
            continue
        readable = [path for path in references if _readable(path, size)]
        if not readable:
            missing[name] = "not measured: no reference pictures"
            continue
        cache = FeatureCache(folder, encoder.id, lambda encoder=encoder: encoder)  # type: ignore[misc]
        shown = [
            Source(f"{content_hash(path)}@{size[0]}x{size[1]}", lambda path=path: fit(path, size))  # type: ignore[misc]
            for path in readable
        ]
        pictures[name] = cache.pictures(sources).features
        of_references[name] = cache.pictures(shown).features
    return pictures, of_references, missing


def _readable(path: Path, size: tuple[int, int]) -> bool:
    try:
        fit(path, size)
    except DatasetError:
        return False
    return True
