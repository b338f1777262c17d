"""Tests of paired differences, and the correction for several of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def sign_flip_test(differences: np.ndarray, resamples: int = 1000, seed: int = 0) -> float:
    """Test of paired differences against mean zero by flipping their signs (Fisher's randomisation test).

    Args:
        differences: (P, M) by prompt and seed, or (n,); NaN is ignored. With at least six prompts all signs of a prompt
            flip together (its seeds are not independent), otherwise those of each picture. Up to 12 units every
            pattern of signs is tried, which makes p exact.
        resamples, seed: of the random patterns for more units.

    Returns:
        p in (0, 1]; NaN without differences.
    """
    differences = np.asarray(differences, dtype=np.float64)
    valid = np.isfinite(differences)
    if differences.ndim == 2 and valid.any(axis=1).sum() >= 6:
        units = np.where(valid, differences, 0.0).sum(axis=1)[valid.any(axis=1)]
    else:
        units = differences[valid]
    count = units.size
    if count == 0:
        return math.nan
    if count <= 12:
        patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        totals = np.abs((2.0 * patterns - 1.0) @ units)
        return float(np.mean(totals >= abs(units.sum()) * (1 - 1e-12) - 1e-300))
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(resamples, count))
    totals = np.abs(signs @ units)
    return float((1 + np.sum(totals >= abs(units.sum()) * (1 - 1e-12))) / (1 + resamples))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for the family-wise error (Holm, Scand. J. Stat. 6, 1979).

    Args:
        p_values: NaN for tests that were not made.

    Returns:
        As many adjusted values in [0, 1], NaN where there was one.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = [int(i) for i in np.argsort(p, kind="stable") if np.isfinite(p[i])]
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * float(p[index])))
        adjusted[index] = running
    return [float(value) for value in adjusted]
