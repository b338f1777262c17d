"""What a noisy curve hides: levels of blocks, the noise of one point, swings beyond it.

Curves are read on the logarithm, where the noise of a diffusion loss is about normal and even.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# times a swinging curve crosses its trend
TURNS_NEEDED = 6


@dataclass(frozen=True)
class Series:
    """Block levels of a curve on the log scale: middle step, level, standard error; noise of one point."""

    step: np.ndarray
    level: np.ndarray
    error: np.ndarray
    noise: float


def blocks(step: np.ndarray, level: np.ndarray) -> Series:
    """Up to 36 blocks of equal count, their trimmed means and errors."""
    count = int(np.clip(len(level) // 8, 3, 36))
    noise = _noise(level)
    edges = np.linspace(0, len(level), count + 1).astype(int)
    middle, means, errors = [], [], []
    for a, b in pairwise(edges):
        part = np.sort(level[a:b])
        cut = len(part) // 10
        part = part[cut : len(part) - cut]
        middle.append(float(np.mean(step[a:b])))
        means.append(float(part.mean()))
        errors.append(noise / math.sqrt(b - a))
    return Series(np.array(middle), np.array(means), np.array(errors), noise)


def _noise(level: np.ndarray) -> float:
    """Spread of one point: from neighbours' differences, so that the trend does not count."""
    off = np.diff(level)
    return max(
        1e-6,
        float(1.4826 * np.median(np.abs(off - np.median(off))) / math.sqrt(2.0)),
        0.7 * float(off.std() / math.sqrt(2)),
    )


def validation_noise(level: np.ndarray, error: np.ndarray, loss: np.ndarray) -> float:
    """Error of one validation: as given, else from second differences (a smooth curve has none)."""
    second = np.diff(level, 2) / math.sqrt(6.0)
    seen = float(1.4826 * np.median(np.abs(second))) if second.size else 0.0
    given = error[np.isfinite(error)] / max(1e-12, float(np.median(loss)))
    given = given[given > 0]
    return max(2e-3, seen, 0.5 * float(np.median(given)) if given.size else 0.0)


def running(level: np.ndarray) -> np.ndarray:
    """Median of three neighbours, ends of two."""
    padded = np.concatenate([level[:1], level, level[-1:]])
    return np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)


def swings(step: np.ndarray, level: np.ndarray) -> tuple[int, str] | None:
    """Swings beyond the step noise, (since, reason) or None: means of short blocks that scatter about the
    smooth curve by more than their error allows, at any of several block lengths, time and again.
    """
    n = len(level)
    if n < 60:
        return None
    off = level - _smooth_fit(step, level)
    scale = _noise(level)
    kept = slice(n // 5, n)
    for size in (6, 12, 24, 48):
        part = off[kept]
        blocks = len(part) // size
        if blocks < 8:
            continue
        means = np.array([_trimmed(part[i * size : (i + 1) * size]) for i in range(blocks)])
        swing = float(1.4826 * np.median(np.abs(means - np.median(means))))
        swing = max(swing, 0.8 * float(means.std()))
        ratio = swing / (scale / math.sqrt(size))
        high = means > np.median(means) + scale / math.sqrt(size)
        low = means < np.median(means) - scale / math.sqrt(size)
        turns = int(np.count_nonzero(np.diff(high[high | low].astype(int))))
        # a curve that turns once and runs away is off its smooth trend as well, but it does not swing
        if ratio > 2.1 + 4.0 / math.sqrt(blocks) and swing > 0.1 and turns >= TURNS_NEEDED:
            far = np.flatnonzero(np.abs(means - np.median(means)) > 2.0 * scale / math.sqrt(size))
            since = int(step[n // 5 + (int(far[0]) if far.size else 0) * size])
            size_text = f"{math.expm1(swing):.0%} about its trend, {ratio:.1f} times its step noise"
            return since, f"the training loss swings by {size_text}"
    return None


def restless(step: np.ndarray, level: np.ndarray) -> tuple[int, str] | None:
    """Step noise that grows, or neighbours that alternate: (since, reason) or None."""
    n = len(level)
    if n < 60:
        return None
    third = n // 3
    early, late = _noise(level[:third]), _noise(level[-third:])
    # a loss near its floor is noisier in proportion; only where it swings wider in full size does it oscillate
    wider = _noise(np.exp(level[-third:])) > 1.2 * _noise(np.exp(level[:third]))
    if n >= 120 and wider and late / early > 1.5 + 4.0 / math.sqrt(third):
        return int(step[-third]), f"the step noise of the training loss grows {late / early:.1f} times"
    part = (level - _smooth_fit(step, level))[n // 5 :]
    r = float(np.corrcoef(part[:-1], part[1:])[0, 1]) if len(part) > 3 and part.std() > 0 else 0.0
    if r < -0.3 - 2.0 / math.sqrt(len(part)):
        return int(step[n // 5]), f"neighbouring steps of the training loss alternate (correlation {r:.2f})"
    return None


def _trimmed(values: np.ndarray) -> float:
    values = np.sort(values)
    cut = max(1, len(values) // 8) if len(values) > 4 else 0
    return float(values[cut : len(values) - cut].mean())


def _basis(t: np.ndarray, tau: float, knot: float) -> np.ndarray:
    return np.stack([np.ones_like(t), np.exp(-t / tau), t, np.maximum(t - knot, 0.0)], axis=1)


def _smooth_fit(step: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Best of ``a + b exp(-t / tau) + c t + d max(0, t - k)`` over tau and k: falls, plateaus, one turn, no swings."""
    t = (step - step[0]) / max(1e-12, step[-1] - step[0])
    # a smooth curve is as well fitted to a few hundred means of neighbours
    size = max(1, len(t) // 300)
    count = len(t) // size
    short_t, short = (x[: count * size].reshape(count, size).mean(axis=1) for x in (t, level))

    best, result = math.inf, np.full(level.shape, level.mean())
    for tau in (0.01, 0.03, 0.08, 0.2, 0.6):
        for knot in (0.4, 0.55, 0.7):
            part = _basis(short_t, tau, knot)
            gram = part.T @ part + 1e-9 * count * np.eye(4)
            weights = np.linalg.solve(gram, part.T @ short)
            error = float(((short - part @ weights) ** 2).sum())
            if error < best:
                best, result = error, _basis(t, tau, knot) @ weights
    return result
