"""Formulas of strength: the response of the pictures over a grid of weights.

References: FreeSliders (arXiv 2511.00103) for conceptual smoothness; Kneedle (Satopaa et al.,
ICDCSW 2011) for the knee; Spearman's rank correlation for monotony.
"""

from __future__ import annotations

import math

import numpy as np

from lora_eval.statistics.ranks import spearman

WEIGHTS_NEEDED = 3
# a statistic has left the spread of weight 0 at three of its standard deviations
LEFT_SPREAD = 3.0
KEPT_GAIN = 0.8


def monotony(weights: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of weight and response.

    Args:
        weights: (W,) ascending, at least three.
        response: (..., W) one curve or several.

    Returns:
        (...) in [-1, 1].

    Raises:
        ValueError: fewer than three weights, or not ascending.
    """
    weights = _ascending(weights)
    return spearman(weights, response)


def csm(weights: np.ndarray, response: np.ndarray) -> float:
    """Conceptual smoothness (FreeSliders, arXiv 2511.00103): how unevenly the response rises.

    Standard deviation of the successive gaps of the response, normalised to the range 0 to 1. Each gap is scaled to an
    even step of weight, so that uneven grids can be compared.

    Args:
        weights: (W,) ascending, at least three; response: (W,).

    Returns:
        0 where every step brings the same, :func:`switch_csm` for a switch; NaN where the response does not move.

    Raises:
        ValueError: fewer than three weights, not ascending, or lengths differ.
    """
    weights, response = _ascending(weights), np.asarray(response, dtype=np.float64)
    check_length(weights, response)
    span = response.max() - response.min()
    if not np.isfinite(span) or span <= 0:
        return math.nan
    step = np.diff(weights)
    return float(np.std(np.diff(response) / span * (step.mean() / step)))


def csm_of_draws(weights: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """:func:`csm` of several curves, for example bootstrap draws.

    Args:
        weights: (W,) ascending; curves: (R, W).

    Returns:
        (R,); NaN where a curve does not move.
    """
    span = curves.max(axis=1) - curves.min(axis=1)
    step = np.diff(weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.std(np.diff(curves, axis=1) / span[:, None] * (step.mean() / step), axis=1)


def switch_csm(gaps: int) -> float:
    """CSM of a switch, the whole response in one of ``gaps`` steps: the largest that a monotone curve can have."""
    return math.sqrt(1.0 / gaps - 1.0 / gaps**2)


def half_weight(weights: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The weight at which half of the largest response is first reached, interpolated between the drawn weights.

    Args:
        weights: (W,) ascending, weight 0 first; response: (..., W), 0 at weight 0.

    Returns:
        (...,) weights; NaN where the response never rises above 0.

    Raises:
        ValueError: fewer than three weights, not ascending, or lengths differ.
    """
    weights, response = _ascending(weights), np.asarray(response, dtype=np.float64)
    check_length(weights, response.reshape(-1, response.shape[-1])[0])
    top = response.max(axis=-1)
    above = response >= 0.5 * top[..., None]
    first = np.maximum(above.argmax(axis=-1), 1)
    low, high = (np.take_along_axis(response, i[..., None], axis=-1)[..., 0] for i in (first - 1, first))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.clip((0.5 * top - low) / (high - low), 0.0, 1.0)
    return np.where(top > 0, weights[first - 1] + share * (weights[first] - weights[first - 1]), np.nan)


def knee(weights: np.ndarray, response: np.ndarray) -> float:
    """The weight from which more weight brings little: where the curve is farthest above its chord (Kneedle).

    Args:
        weights: (W,) ascending, at least three; response: (W,).

    Returns:
        One of the weights; NaN where the response never rises above its chord.

    Raises:
        ValueError: fewer than three weights, not ascending, or lengths differ.
    """
    weights, response = _ascending(weights), np.asarray(response, dtype=np.float64)
    check_length(weights, response)
    top = int(np.argmax(response))
    if top < 1 or not np.isfinite(response).all():
        return math.nan
    x, y = weights[: top + 1], response[: top + 1]
    x, y = (x - x[0]) / (x[-1] - x[0]), (y - y[0]) / (y[-1] - y[0]) if y[-1] > y[0] else y * 0
    above = y - x
    return float(weights[int(np.argmax(above))]) if above.max() > 1e-9 else math.nan


def base_spread(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and spread of the distortion statistics at weight 0.

    The centre is each prompt's median. Four seeds say little about a prompt's own spread, so the deviations of all
    prompts are pooled: 1.4826 MAD, corrected for the mean that is subtracted in each prompt, and at least a tenth of
    the spread of the prompts' centres.

    Args:
        pixels: (P, M, K) statistics, NaN where there is no picture.

    Returns:
        Centre (P, K) and spread (K,).

    Raises:
        ValueError: not three axes.
    """
    pixels = np.asarray(pixels, dtype=np.float64)
    if pixels.ndim != 3:
        raise ValueError(f"pixels must be (prompts, seeds, statistics), got {pixels.shape}")
    return _base_spread(pixels)


def _base_spread(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore"):
        count = np.isfinite(pixels).all(axis=2).sum(axis=1)
        usable = count >= 2
        centre = np.full((pixels.shape[0], pixels.shape[2]), np.nan)
        for p in np.flatnonzero(count):
            centre[p] = np.nanmedian(pixels[p], axis=0)
        if not usable.any():
            return centre, np.full(pixels.shape[2], np.nan)
        # about the mean: about the median of four, the correction below would still leave a quarter too little
        off = pixels[usable] - np.nanmean(pixels[usable], axis=1, keepdims=True)
        small = np.sqrt(count[usable] / np.maximum(count[usable] - 1.0, 1.0))[:, None, None]
        off = (off * small).reshape(-1, pixels.shape[2])
        mad = 1.4826 * np.nanmedian(np.abs(off), axis=0)
        # MAD is 0 when most pictures agree exactly (clipped fraction 0): the standard deviation is used then
        deviation = np.sqrt(np.nanmean(off**2, axis=0))
        between = np.nanstd(centre, axis=0)
    spread = np.where(mad > 0, np.maximum(mad, 0.5 * deviation), deviation)
    return centre, np.maximum(spread, np.maximum(0.1 * between, 1e-6))


def departure(
    pixels: np.ndarray, centre: np.ndarray, spread: np.ndarray, allowed: np.ndarray | None = None
) -> np.ndarray:
    """How far each statistic departs from weight 0, in units of the spread there.

    Args:
        pixels: (..., K) statistics; centre: (..., K) of the same prompt; spread: (K,).
        allowed: (2, K) lowest and highest value of the references, or None. A LoRA that moves a statistic to where the
            references are has learnt it, which is no distortion.

    Returns:
        (..., K) signed z; 0 between the centre and the allowed range.
    """
    value = np.asarray(pixels, dtype=np.float64)
    low, high = np.broadcast_arrays(centre, centre)
    if allowed is not None:
        low, high = np.fmin(centre, allowed[0]), np.fmax(centre, allowed[1])
    return np.where(value > high, value - high, np.where(value < low, value - low, 0.0 * value)) / spread


def votes(z: np.ndarray, limit: float = LEFT_SPREAD) -> np.ndarray:
    """How many statistics depart by more than ``limit``: (..., K) -> (...) integers; NaN does not count."""
    with np.errstate(invalid="ignore"):
        return (np.abs(z) > limit).sum(axis=-1)


def onset(weights: np.ndarray, left: np.ndarray, strongly: np.ndarray | None = None) -> float:
    """The onset of distortion: the smallest weight that is distorted together with the next one.

    Args:
        weights: (W,) ascending.
        left: (W,) bool, whether the pictures at that weight are distorted.
        strongly: (W,) bool, whether strongly so; the last weight has no next one and counts alone where it is.

    Returns:
        One of the weights; NaN where there is none.

    Raises:
        ValueError: lengths differ or weights do not ascend.
    """
    weights, left = _ascending(weights, needed=1), np.asarray(left, dtype=bool)
    check_length(weights, left)
    for i in range(len(weights)):
        if left[i] and (
            (i + 1 < len(weights) and left[i + 1]) or (i + 1 == len(weights) and strongly is not None and strongly[i])
        ):
            return float(weights[i])
    return math.nan


def usable(weights: np.ndarray, gain: np.ndarray, fine: np.ndarray, kept: float = KEPT_GAIN) -> np.ndarray:
    """The usable weights: neither distorted nor ignoring the prompt, with most of the gain.

    Args:
        weights: (W,) ascending.
        gain: (W,) response less that of weight 0.
        fine: (W,) bool, whether a weight is neither distorted nor ignores the prompt.
        kept: share of the best gain among the fine weights that is needed.

    Returns:
        (W,) bool: the longest unbroken run of such weights, the lower one of two equal runs.

    Raises:
        ValueError: lengths differ or weights do not ascend.
    """
    weights, gain = _ascending(weights, needed=1), np.asarray(gain, dtype=np.float64)
    fine = np.asarray(fine, dtype=bool)
    check_length(weights, gain)
    check_length(weights, fine)
    best = np.max(np.where(fine & np.isfinite(gain), gain, -np.inf))
    if not best > 0:
        return np.zeros(len(weights), dtype=bool)
    good = fine & (gain >= kept * best)
    result, start = np.zeros(len(weights), dtype=bool), None
    longest = 0.0
    for i in range(len(weights) + 1):
        if i < len(weights) and good[i]:
            start = i if start is None else start
        elif start is not None:
            length = weights[i - 1] - weights[start] + 1e-9 * (i - start)
            if length > longest + 1e-12:
                longest, result = length, np.zeros(len(weights), dtype=bool)
                result[start:i] = True
            start = None
    return result


def middle(weights: np.ndarray, chosen: np.ndarray) -> float:
    """The chosen weight nearest to the middle of the chosen ones, the lower of two; NaN where none is chosen.

    Args:
        weights: (W,) ascending; chosen: (W,) bool.
    """
    mine = np.asarray(weights, dtype=np.float64)[np.asarray(chosen, dtype=bool)]
    if not mine.size:
        return math.nan
    return float(mine[int(np.argmin(np.abs(mine - (mine[0] + mine[-1]) / 2.0).round(9)))])


def check_length(weights: np.ndarray, values: np.ndarray) -> None:
    """Check that there is one value for each weight.

    Raises:
        ValueError: the shapes differ.
    """
    if np.shape(values) != np.shape(weights):
        raise ValueError(f"one value per weight is needed, got {np.shape(values)} for {np.shape(weights)}")


def _ascending(weights: np.ndarray, needed: int = WEIGHTS_NEEDED) -> np.ndarray:
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 1 or weights.size < needed or np.any(np.diff(weights) <= 0):
        raise ValueError(f"at least {needed} ascending weights are needed, got {weights.tolist()}")
    return weights
