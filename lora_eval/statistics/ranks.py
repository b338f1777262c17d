"""Statistics of order: ranks, rank correlation, median slope, median-based z-score; wild values hardly move them."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from lora_eval.statistics.intervals import LEVEL


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, from 1, ties averaged: (..., n) without NaN -> (..., n)."""
    values = np.asarray(values, dtype=np.float64)
    below = (values[..., None, :] < values[..., :, None]).sum(axis=-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(axis=-1)
    return below + (equal + 1) / 2.0


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis.

    Args:
        x: (n,) or (..., n); y: (..., n).

    Returns:
        (...) in [-1, 1]; NaN where either is constant or has a NaN, or n is below 3.
    """
    y = np.asarray(y, dtype=np.float64)
    x = np.broadcast_to(np.asarray(x, dtype=np.float64), y.shape)
    if y.shape[-1] < 3:
        return np.full(y.shape[:-1], np.nan)
    rx, ry = ranks(x), ranks(y)
    rx, ry = rx - rx.mean(axis=-1, keepdims=True), ry - ry.mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = (rx * ry).sum(axis=-1) / np.sqrt((rx**2).sum(axis=-1) * (ry**2).sum(axis=-1))
    bad = ~(np.isfinite(x).all(axis=-1) & np.isfinite(y).all(axis=-1))
    return np.where(bad, np.nan, np.clip(rho, -1.0, 1.0))


def theil_sen(x: np.ndarray, y: np.ndarray, level: float = LEVEL) -> tuple[float, float, float]:
    """Median of the pairwise slopes with its interval (Sen, JASA 63, 1968).

    The interval inverts Kendall's test. A third of wild points hardly moves either.

    Args:
        x, y: (n,); points with a NaN are left out.
        level: of confidence.

    Returns:
        Slope, lower and upper end; NaN with fewer than three points, or where all x are equal.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    kept = np.isfinite(x) & np.isfinite(y)
    x, y = x[kept], y[kept]
    n = x.size
    if n < 3:
        return math.nan, math.nan, math.nan
    i, j = np.triu_indices(n, 1)
    apart = x[i] != x[j]
    if not apart.any():
        return math.nan, math.nan, math.nan
    slopes = np.sort((y[j] - y[i])[apart] / (x[j] - x[i])[apart])
    half = NormalDist().inv_cdf(0.5 + level / 2.0) * math.sqrt(n * (n - 1) * (2 * n + 5) / 18.0)
    lower = int(np.clip(math.floor((slopes.size - half) / 2.0), 0, slopes.size - 1))
    upper = int(np.clip(math.ceil((slopes.size + half) / 2.0), 0, slopes.size - 1))
    return float(np.median(slopes)), float(slopes[lower]), float(slopes[upper])


def robust_z(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Modified z-score, ``(x - median) / (1.4826 MAD)`` (Iglewicz and Hoaglin, 1993).

    Args:
        values: any shape; NaN is ignored.
        axis: along which median and MAD are taken, None for all values.

    Returns:
        The same shape. Where the MAD is 0, 0 for the median itself and infinity for other values.
    """
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = values - np.nanmedian(values, axis=axis, keepdims=True)
        spread = 1.4826 * np.nanmedian(np.abs(off), axis=axis, keepdims=True)
        return np.where(off == 0, 0.0, off / spread)
