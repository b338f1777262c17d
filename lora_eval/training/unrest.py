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
# Periodic swings. Fewer than three periods are a trend; the chance that noise alone shows such a peak is per curve.
# Chosen on the seeds below 10 000 of ``python -m benchmarks curves``; its figures are of seeds above.
FEWEST_PERIODS = 3
CHANCE = 1e-3
FEWEST_POINTS = 10
# smallest half swing, as a share of the level: of a validation on fixed pictures, of a training loss
LEAST_SWING = {"validation": 0.05, "training": 0.1}
# how far above its past, on the logarithm, a curve ends that ran away: by 30 %, as for the word diverged
RUN_AWAY = 0.26


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


def periodic(step: np.ndarray, level: np.ndarray, name: str) -> tuple[int, str] | None:
    """Swings of any period, (since, reason) or None: a sine wave about the smooth curve that noise would not show.

    The noise that the wave is compared with is what the wave leaves of this curve. The chance that noise alone shows as
    good a wave is ``M (1 - R2)^((n - 7) / 2)`` for M frequencies, n points and the wave's share R2 of the variance
    (Scargle 1982, doi:10.1086/160554, with the variance left over as Baluev 2008, arXiv:0711.0330; the smooth curve
    and the wave take seven degrees of freedom).

    Args:
        step: (n,) ascending. level: (n,) logarithm of the loss. name: ``validation`` or ``training``.
    """
    n = len(level)
    most = (n - 1) / 2
    if n < FEWEST_POINTS or most < FEWEST_PERIODS or ran_away(level):
        return None
    basis, smooth = _smooth_basis(step, level)
    off = level - smooth
    variance = float(off.var())
    if variance <= 0:
        return None
    periods = np.arange(FEWEST_PERIODS, most + 1e-9, 0.25)
    shares = _wave_shares(step, off, periods, basis)
    best = int(shares.argmax())
    left = max(1e-12, 1 - float(shares[best]))
    chance = len(periods) * left ** ((n - 7) / 2)
    swing = math.sqrt(2 * variance * float(shares[best]))
    if chance > CHANCE or swing < LEAST_SWING[name]:
        return None
    since = int(step[0] + (step[-1] - step[0]) / periods[best] / 2)
    share, times = f"{math.expm1(swing):.0%}", f"{periods[best]:.0f}"
    return since, f"the {name} loss swings by {share} about its trend, {times} times over the run"


def ran_away(level: np.ndarray) -> bool:
    """Whether the end lies far above everything before the last third: no smooth curve fits that, nor is it a swing."""
    n = len(level)
    size = max(1, n // 36)
    means = np.array([level[at : at + size].mean() for at in range(0, n - size + 1, size)])
    end, before = float(np.median(means[-3:])), float(running(means[: max(3, len(means) * 2 // 3)]).max())
    return end - before > max(RUN_AWAY, 4.5 * _noise(level) / math.sqrt(size))


def _wave_shares(step: np.ndarray, off: np.ndarray, periods: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Share of the variance of ``off`` that the best sine wave with each number of periods over the run takes.

    Many points by FFT on their order, padded so that quarter periods are met. Few by least squares at their steps, the
    smooth curve fitted anew beside each wave: it had taken a part of the wave.
    """
    n = len(off)
    centred = off - off.mean()
    if n > 400:
        power = np.abs(np.fft.rfft(centred, 4 * n)) ** 2
        return np.minimum(1.0, 2 * power[np.rint(4 * periods).astype(int)] / (n * (centred**2).sum()))
    t = 2 * np.pi * (step - step[0]) / (step[-1] - step[0]) * (n - 1) / n
    found = []
    for count in periods:
        wave = np.concatenate([basis, np.cos(count * t)[:, None], np.sin(count * t)[:, None]], axis=1)
        weights, *_ = np.linalg.lstsq(wave, centred, rcond=None)
        found.append(1 - float(((centred - wave @ weights) ** 2).sum() / (centred**2).sum()))
    return np.array(found)


def beyond_error(step: np.ndarray, level: np.ndarray, error: np.ndarray) -> tuple[int, str] | None:
    """Swings of a validation whose error is known, also where it has too few points for a spectrum."""
    if len(level) < 6 or not np.isfinite(error).all() or not (error > 0).all():
        return None
    off = level - running(running(level))
    turns = int(np.count_nonzero(np.diff(np.sign(off[off != 0]))))
    swing = float(np.abs(off).max())
    if turns < 4 or swing < LEAST_SWING["validation"] or float(np.median(np.abs(off))) < 3 * float(np.median(error)):
        return None
    return int(step[0]), f"the validation loss swings by {math.expm1(swing):.0%}, far beyond its error"


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
    """The smooth curve under ``level``, see :func:`_smooth_basis`."""
    return _smooth_basis(step, level)[1]


def _smooth_basis(step: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(basis (n, 4), fit (n,)): the best of ``a + b exp(-t / tau) + c t + d max(0, t - k)``
    over tau and k: falls, plateaus, one turn, no swings.
    """
    t = (step - step[0]) / max(1e-12, step[-1] - step[0])
    # a smooth curve is as well fitted to a few hundred means of neighbours
    size = max(1, len(t) // 300)
    count = len(t) // size
    short_t, short = (x[: count * size].reshape(count, size).mean(axis=1) for x in (t, level))

    best = math.inf
    basis, result = np.zeros((len(level), 4)), np.full(level.shape, level.mean())
    for tau in (0.01, 0.03, 0.08, 0.2, 0.6):
        for knot in (0.4, 0.55, 0.7):
            part = _basis(short_t, tau, knot)
            gram = part.T @ part + 1e-9 * count * np.eye(4)
            weights = np.linalg.solve(gram, part.T @ short)
            error = float(((short - part @ weights) ** 2).sum())
            if error < best:
                best, basis = error, _basis(t, tau, knot)
                result = basis @ weights
    return basis, result
