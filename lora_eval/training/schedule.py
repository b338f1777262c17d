"""Learning-rate schedules in closed form: the factor depends on the step alone, so resuming needs no state."""

from __future__ import annotations

import math


def lr_factor(step: int, total: int, warmup: int = 0, kind: str = "constant", cycles: int = 1) -> float:
    """Factor on the learning rate for the update number ``step`` (0-based) of ``total``.

    Warm-up rises linearly, ``(step + 1) / warmup``, so that the first update is not wasted on a rate of 0. With
    ``p`` the share of the rest that is done:

    * ``constant``: 1;
    * ``linear``: 1 - p;
    * ``cosine``: (1 + cos(pi p)) / 2 (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983);
    * ``cosine_with_restarts``: the same over ``cycles`` equal parts (SGDR with T_mult = 1).

    Returns a number in [0, 1].
    """
    if step < warmup:
        return (step + 1) / warmup
    rest = max(total - warmup, 1)
    progress = min((step - warmup) / rest, 1.0)
    if kind == "constant":
        return 1.0
    if kind == "linear":
        return 1.0 - progress
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if kind == "cosine_with_restarts":
        return 0.0 if progress >= 1 else 0.5 * (1 + math.cos(math.pi * (progress * cycles % 1.0)))
    raise ValueError(f"unknown schedule {kind!r}")
