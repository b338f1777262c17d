"""One word for a loss curve, and from which step it holds.

A diffusion loss is drawn at a random timestep, so it jumps by a third to two thirds of its level from
step to step and says nothing by the eye. Here it is read on the logarithm (the noise is roughly
log-normal, and a fall of ten percent counts the same at every level), in blocks whose error is known,
with robust slopes (Theil-Sen). A validation loss on fixed pictures, noise and timesteps is preferred
where there is one, as ratio to its value before training.

Limits were set on synthetic curves of known kind (``tests/training/test_curve.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from lora_eval.scorecard.statistics import theil_sen

STATES = ("converged", "still falling", "flat", "oscillating", "diverged", "overfit", "too short")
STEPS_NEEDED = 30
EVALUATIONS_NEEDED = 5
# a total fall of the loss below this share is no learning, whatever its significance
FALL_NEEDED = 0.03
# fall from the middle to the last third, over the whole fall: .33 for a straight line, .13 for an exponential
# that has spent 3.3 time constants, .01 for one that has spent ten
STILL_SHARE = 0.12
RISING_EVALUATIONS = 3
# times a swinging curve crosses its trend
TURNS_NEEDED = 6


@dataclass(frozen=True)
class Samples:
    """What was drawn at the checkpoints, to be asked before the word overfit is used.

    Attributes:
        step: (k,) ascending steps of the checkpoints.
        fidelity, diversity, alignment: (k,) scores, higher is better; NaN or None where not measured.
        tolerance: a fall by more than this counts as a fall.
    """

    step: Sequence[float]
    fidelity: Sequence[float] | None = None
    diversity: Sequence[float] | None = None
    alignment: Sequence[float] | None = None
    tolerance: float = 0.1

    def until(self, step: float) -> Samples | None:
        """The checkpoints up to ``step``; None below two."""
        keep = [i for i, s in enumerate(self.step) if s <= step]
        if len(keep) < 2:
            return None

        def pick(values: Sequence[float] | None) -> list[float] | None:
            return None if values is None else [float(values[i]) for i in keep]

        steps = [self.step[i] for i in keep]
        return Samples(steps, pick(self.fidelity), pick(self.diversity), pick(self.alignment), self.tolerance)

    def fell_after(self, step: float) -> list[str] | None:
        """Names of the scores that are lower at the end than at their best since ``step``; None: cannot say."""
        steps = np.asarray(self.step, dtype=float)
        if (steps > step).sum() < 1 or len(steps) < 2:
            return None
        fell, known = [], False
        # the checkpoint nearest the minimum is what the later ones are compared with
        start = int(np.abs(steps - step).argmin())
        for name in ("fidelity", "diversity", "alignment"):
            values = getattr(self, name)
            if values is None:
                continue
            later = np.array([math.nan if v is None else float(v) for v in values])[start:]
            later = later[np.isfinite(later)]
            if later.size < 2:
                continue
            known = True
            if later.max() - later[-1] > self.tolerance:
                fell.append(name)
        return fell if known else None


@dataclass(frozen=True)
class Diagnosis:
    """The word and what it rests on.

    Attributes:
        state: one of STATES.
        since_step: first step from which the state holds; None when nothing can be said.
        reason: one sentence with numbers.
        slope: change of the loss over the last third of the curve, as a share of its level before
            training (Theil-Sen), with ``slope_low`` and ``slope_high`` its 95 % interval.
        fall: fall of the whole curve as a share of the start, negative when it rose.
        series: ``validation`` or ``training``: which loss was read.
        n: points read.
        best_step: step of the lowest validation loss, None without one.
    """

    state: str
    since_step: int | None
    reason: str
    slope: float | None = None
    slope_low: float | None = None
    slope_high: float | None = None
    fall: float | None = None
    series: str = "training"
    n: int = 0
    best_step: int | None = None


@dataclass(frozen=True)
class _Series:
    """Block levels of a curve on the log scale: middle step, level, standard error; noise of one point."""

    step: np.ndarray
    level: np.ndarray
    error: np.ndarray
    noise: float


def diagnose(
    step: Sequence[float] | np.ndarray,
    loss: Sequence[float] | np.ndarray,
    val_loss: Sequence[float] | np.ndarray | None = None,
    samples: Samples | None = None,
    *,
    val_step: Sequence[float] | np.ndarray | None = None,
    val_error: Sequence[float] | np.ndarray | None = None,
    averaged: bool = False,
) -> Diagnosis:
    """Name the state of a loss curve.

    Args:
        step: (n,) steps of ``loss``; any order.
        loss: (n,) training loss. NaN means the loss was NaN, unless ``val_loss`` has a value in the same row.
        val_loss: validation loss on fixed pictures, noise and timesteps: (n,) beside ``loss`` with NaN
            where it was not evaluated, or (m,) with its own ``val_step``. Step 0 is its reference.
        samples: scores of what was drawn at the checkpoints. With them, "overfit" needs one of them to
            have fallen too; without, validation alone decides.
        val_step: (m,) steps of ``val_loss``.
        val_error: (m,) standard error of ``val_loss``, where known.
        averaged: ``loss`` is a running average: swings cannot be told from it.

    Returns:
        Diagnosis.

    Raises:
        ValueError: lengths differ, or nothing was given.
    """
    step, loss = np.asarray(step, dtype=float), np.asarray(loss, dtype=float)
    if step.shape != loss.shape or step.ndim != 1:
        raise ValueError(f"step and loss must have the same length, got {step.shape} and {loss.shape}")
    v_step: np.ndarray = np.zeros(0)
    v_loss: np.ndarray = np.zeros(0)
    v_error: np.ndarray = np.zeros(0)
    if val_loss is not None:
        v_loss = np.asarray(val_loss, dtype=float)
        v_step = np.asarray(step if val_step is None else val_step, dtype=float)
        if v_step.shape != v_loss.shape:
            raise ValueError(f"val_step and val_loss must have the same length, got {v_step.shape} and {v_loss.shape}")
        v_error = np.full(v_loss.shape, np.nan) if val_error is None else np.asarray(val_error, dtype=float)
        if val_step is None:
            # one table: a row of validation alone is no NaN loss
            only = ~np.isfinite(loss) & np.isfinite(v_loss)
            step, loss = step[~only], loss[~only]
        kept = ~np.isnan(v_loss)
        order = np.argsort(v_step[kept], kind="stable")
        v_step, v_loss, v_error = v_step[kept][order], v_loss[kept][order], v_error[kept][order]
    steps, losses = np.asarray(step, dtype=float), np.asarray(loss, dtype=float)
    order = np.argsort(steps, kind="stable")
    return _diagnose(steps[order], losses[order], v_step, v_loss, v_error, samples, averaged)


def _diagnose(
    step: np.ndarray,
    loss: np.ndarray,
    v_step: np.ndarray,
    v_loss: np.ndarray,
    v_error: np.ndarray,
    samples: Samples | None,
    averaged: bool,
) -> Diagnosis:
    n, m = len(loss), len(v_loss)
    broken = ~np.isfinite(loss)
    if broken.any() or np.isinf(v_loss).any():
        first = step[broken][0] if broken.any() else v_step[np.isinf(v_loss)][0]
        return Diagnosis("diverged", int(first), f"the loss is not a number from step {int(first)} on", n=n)
    by_validation = m >= EVALUATIONS_NEEDED
    if n < STEPS_NEEDED and not by_validation:
        needed = f"at least {STEPS_NEEDED} steps or {EVALUATIONS_NEEDED} validations are needed"
        return Diagnosis("too short", None, f"{n} steps and {m} validations; {needed}", n=n)
    train = _blocks(step, np.log(np.maximum(loss, 1e-12))) if n >= STEPS_NEEDED else None
    if train is not None and not by_validation:
        return _read(train, "training", n, None, averaged, step, loss)
    validation = _Series(v_step, np.log(np.maximum(v_loss, 1e-12)), np.zeros(m), 0.0)
    noise = _validation_noise(validation.level, v_error, v_loss)
    validation = _Series(v_step, validation.level, np.full(m, noise), noise)
    best = int(np.argmin(v_loss))
    best_step = int(v_step[best])
    if train is not None and not averaged:
        log = np.log(np.maximum(loss, 1e-12))
        unrest = _swings(step, log) or (None if _rose(validation, best, noise) else _restless(step, log))
        if unrest is not None:
            return _with(_read(validation, "validation", m, best_step, averaged), "oscillating", *unrest)
    if _rose(validation, best, noise):
        return _after_the_minimum(validation, train, best, noise, samples)
    return _read(validation, "validation", m, best_step, averaged)


def _with(base: Diagnosis, state: str, since: int, reason: str) -> Diagnosis:
    return Diagnosis(
        state,
        since,
        reason,
        base.slope,
        base.slope_low,
        base.slope_high,
        base.fall,
        base.series,
        base.n,
        base.best_step,
    )


def _blocks(step: np.ndarray, level: np.ndarray) -> _Series:
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
    return _Series(np.array(middle), np.array(means), np.array(errors), noise)


def _noise(level: np.ndarray) -> float:
    """Spread of one point: from neighbours' differences, so that the trend does not count."""
    off = np.diff(level)
    return max(
        1e-6,
        float(1.4826 * np.median(np.abs(off - np.median(off))) / math.sqrt(2.0)),
        0.7 * float(off.std() / math.sqrt(2)),
    )


def _validation_noise(level: np.ndarray, error: np.ndarray, loss: np.ndarray) -> float:
    """Error of one validation: as given, else from second differences (a smooth curve has none)."""
    second = np.diff(level, 2) / math.sqrt(6.0)
    seen = float(1.4826 * np.median(np.abs(second))) if second.size else 0.0
    given = error[np.isfinite(error)] / max(1e-12, float(np.median(loss)))
    given = given[given > 0]
    return max(2e-3, seen, 0.5 * float(np.median(given)) if given.size else 0.0)


def _thirds(series: _Series) -> tuple[float, float, float, float]:
    """Level of the first block, of the middle and last third, and the error of the last difference."""
    span = series.step[-1] - series.step[0]
    place = (series.step - series.step[0]) / span
    middle, last = (place >= 1 / 3 - 1e-9) & (place < 2 / 3), place >= 2 / 3 - 1e-9
    if not middle.any() or not last.any():
        half = len(series.level) // 2
        middle, last = np.arange(len(place)) < half, np.arange(len(place)) >= half
    error = math.sqrt(
        float((series.error[middle] ** 2).sum()) / middle.sum() ** 2
        + float((series.error[last] ** 2).sum()) / last.sum() ** 2
    )
    return float(series.level[0]), float(series.level[middle].mean()), float(series.level[last].mean()), error


def _read(
    series: _Series,
    name: str,
    n: int,
    best_step: int | None,
    averaged: bool,
    step: np.ndarray | None = None,
    loss: np.ndarray | None = None,
) -> Diagnosis:
    """Diverged, oscillating, flat, still falling or converged, from one series."""
    start, middle, last, error = _thirds(series)
    fall = start - last
    tail = series.step >= series.step[0] + (series.step[-1] - series.step[0]) * 2 / 3 - 1e-9
    if tail.sum() < 4:
        tail = np.arange(len(series.step)) >= len(series.step) - 4
    window = float(series.step[tail][-1] - series.step[tail][0])
    slope, low, high = (value * window for value in theil_sen(series.step[tail], series.level[tail]))
    # on the log scale a change d is a share of exp(d) - 1; relative to the start: times level now over level then
    now = math.exp(last - start)
    shares = [None if not math.isfinite(v) else math.expm1(v) * now for v in (slope, low, high)]
    common: dict[str, Any] = {
        "slope": shares[0],
        "slope_low": shares[1],
        "slope_high": shares[2],
        "fall": -math.expm1(-fall),
        "series": name,
        "n": n,
        "best_step": best_step,
    }
    first_error = float(series.error[0])
    end = float(np.median(series.level[-3:]))
    lowest = int(np.argmin(_running(series.level)))
    rise = end - float(_running(series.level)[lowest])
    rise_error = math.sqrt(2 * float(np.mean(series.error**2)) / 3)
    words = "validation loss" if name == "validation" else "training loss"

    log = np.log(np.maximum(loss, 1e-12)) if step is not None and loss is not None and not averaged else None
    swings = _swings(step, log) if step is not None and log is not None else None
    if swings is not None:
        return Diagnosis("oscillating", *swings, **common)
    if rise > max(0.26, 4.5 * rise_error) and (
        end > start - max(0.0, 0.5 * (start - series.level[lowest])) or rise > 0.6
    ):
        since = int(series.step[lowest])
        return Diagnosis("diverged", since, f"the {words} rises by {math.expm1(rise):.0%} after step {since}", **common)
    unrest = _restless(step, log) if step is not None and log is not None else None
    if unrest is not None:
        return Diagnosis("oscillating", *unrest, **common)
    if fall < max(FALL_NEEDED, 2.5 * math.sqrt(first_error**2 + error**2 / 2)):
        text = f"the {words} falls by {-math.expm1(-fall):.1%} in all, no more than its noise or {FALL_NEEDED:.0%}"
        return Diagnosis("flat", int(series.step[0]), text, **common)
    drop = middle - last
    if drop > max(2.0 * error, STILL_SHARE * fall, 0.004):
        part, whole = -math.expm1(-drop), -math.expm1(-fall)
        text = f"the {words} still falls: {part:.1%} from the middle to the last third, of {whole:.1%} in all"
        return Diagnosis("still falling", int(series.step[0]), text, **common)
    since = _settled(series, start, last, fall)
    text = f"the {words} fell by {-math.expm1(-fall):.1%} and is level from step {since} on"
    return Diagnosis("converged", since, text, **common)


def _running(level: np.ndarray) -> np.ndarray:
    """Median of three neighbours, ends of two."""
    padded = np.concatenate([level[:1], level, level[-1:]])
    return np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)


def _settled(series: _Series, start: float, last: float, fall: float) -> int:
    """First step from which the smoothed curve is within a tenth of the fall (or its noise) of the end."""
    smooth = _running(series.level)
    near = smooth - last <= max(0.1 * fall, 1.5 * float(np.mean(series.error)))
    index = int(np.argmax(near)) if near.any() else len(near) - 1
    return int(series.step[index])


def _swings(step: np.ndarray, level: np.ndarray) -> tuple[int, str] | None:
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


def _restless(step: np.ndarray, level: np.ndarray) -> tuple[int, str] | None:
    """Step noise that grows, or neighbours that alternate: (since, reason) or None."""
    n = len(level)
    if n < 60:
        return None
    third = n // 3
    early, late = _noise(level[:third]), _noise(level[-third:])
    if n >= 120 and late / early > 1.5 + 4.0 / math.sqrt(third):
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


def _rose(series: _Series, best: int, noise: float) -> bool:
    """Whether the last three evaluations or more all lie more than two errors above the minimum."""
    after = series.level[best + 1 :]
    limit = max(2.0 * math.sqrt(2.0) * noise, 0.015)
    # the lowest of many evaluations is low by luck as well; its neighbours are asked too
    lowest = float(_running(series.level).min())
    return len(after) >= RISING_EVALUATIONS and bool((after[-RISING_EVALUATIONS:] - lowest > limit).all())


def _after_the_minimum(
    validation: _Series, train: _Series | None, best: int, noise: float, samples: Samples | None
) -> Diagnosis:
    """Validation rose: overfit, diverged, or past the minimum with pictures still fine."""
    read = _read(validation, "validation", len(validation.level), int(validation.step[best]), True)
    since = int(validation.step[best])
    rise = math.expm1(float(np.median(validation.level[-RISING_EVALUATIONS:]) - validation.level[best]))
    text = f"validation is lowest at step {since} and {rise:.1%} above that at the end"
    if train is not None:
        before = train.step <= max(since, train.step[0])
        after = ~before
        if after.sum() >= 2 and before.any():
            near = train.level[before][-max(2, int(after.sum())) :]
            error = math.sqrt(float(np.mean(train.error**2)) * (1 / after.sum() + 1 / len(near)))
            late = train.level[after][-max(2, int(after.sum()) // 2) :]
            if late.mean() - near.mean() > max(3.0 * error, 0.1):
                return _with(read, "diverged", since, f"{text}, and the training loss rises with it")
    if samples is not None:
        fell = samples.fell_after(since)
        if fell:
            return _with(read, "overfit", since, f"{text}; in the pictures {' and '.join(fell)} fell as well")
        if fell is not None:
            return _with(
                read,
                "converged",
                since,
                f"{text}, but the pictures have not become worse: past the minimum, still usable",
            )
        text += "; no pictures of later checkpoints to check it against"
    return _with(read, "overfit", since, text)
