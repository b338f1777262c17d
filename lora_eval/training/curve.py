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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lora_eval.statistics.ranks import theil_sen
from lora_eval.training.unrest import (
    Series,
    beyond_error,
    blocks,
    periodic,
    restless,
    running,
    swings,
    validation_noise,
)

STATES = ("converged", "still falling", "flat", "oscillating", "diverged", "overfit", "too short")
STEPS_NEEDED = 30
EVALUATIONS_NEEDED = 5
# a total fall of the loss below this share is no learning, whatever its significance
FALL_NEEDED = 0.03
# fall from the middle to the last third, over the whole fall: .33 for a straight line, .13 for an exponential
# that has spent 3.3 time constants, .01 for one that has spent ten
STILL_SHARE = 0.12
RISING_EVALUATIONS = 3


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
            Values that are not finite and are followed by finite ones are left out and counted in ``reason``;
            a curve that ends with such values has diverged.
        val_loss: validation loss on fixed pictures, noise and timesteps: (n,) beside ``loss`` with NaN
            where it was not evaluated, or (m,) with its own ``val_step``, where NaN means that it was NaN.
            Step 0 is its reference.
        samples: scores of what was drawn at the checkpoints. With them, "overfit" needs one of them to
            have fallen too; without, validation alone decides.
        val_step: (m,) steps of ``val_loss``.
        val_error: (m,) standard error of ``val_loss``, where known.
        averaged: ``loss`` is a running average: swings cannot be seen in it.

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
        kept = ~np.isnan(v_loss) if val_step is None else np.ones(v_loss.shape, dtype=bool)
        order = np.argsort(v_step[kept], kind="stable")
        v_step, v_loss, v_error = v_step[kept][order], v_loss[kept][order], v_error[kept][order]
    steps, losses = np.asarray(step, dtype=float), np.asarray(loss, dtype=float)
    order = np.argsort(steps, kind="stable")
    steps, losses = steps[order], losses[order]
    for at, values in ((steps, losses), (v_step, v_loss)):
        lost = _lost_from(at, values)
        if lost is not None:
            return Diagnosis("diverged", lost, f"the loss is not a number from step {lost} on", n=len(values))
    notes = _gaps(steps, losses, "training") + _gaps(v_step, v_loss, "validation")
    whole, v_whole = np.isfinite(losses), np.isfinite(v_loss)
    found = _diagnose(
        steps[whole], losses[whole], v_step[v_whole], v_loss[v_whole], v_error[v_whole], samples, averaged
    )
    return replace(found, reason=found.reason + notes) if notes else found


def _lost_from(step: np.ndarray, loss: np.ndarray) -> int | None:
    """First step of the values that are not finite up to the end; None where the last value is finite."""
    if not len(loss) or np.isfinite(loss[-1]):
        return None
    whole = np.flatnonzero(np.isfinite(loss))
    return int(step[whole[-1] + 1 if whole.size else 0])


def _gaps(step: np.ndarray, loss: np.ndarray, name: str) -> str:
    """What the reason says of values that were not finite and after which the loss went on; empty without any."""
    broken = step[~np.isfinite(loss)]
    if not broken.size:
        return ""
    count, first, last = len(broken), int(broken[0]), int(broken[-1])
    return (
        f"; {count} of {len(loss)} {name} values were not a number (steps {first} to {last}) and are left out: "
        "the loss recovered"
    )


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
    by_validation = m >= EVALUATIONS_NEEDED
    if n < STEPS_NEEDED and not by_validation:
        text = (
            f"{n} steps and {m} validations; at least {STEPS_NEEDED} steps or {EVALUATIONS_NEEDED} validations are "
            "needed"
        )
        return Diagnosis("too short", None, text, n=n)
    train = blocks(step, np.log(np.maximum(loss, 1e-12))) if n >= STEPS_NEEDED else None
    if train is not None and not by_validation:
        return _read(train, "training", n, None, averaged, step, loss)
    validation = Series(v_step, np.log(np.maximum(v_loss, 1e-12)), np.zeros(m), 0.0)
    noise = validation_noise(validation.level, v_error, v_loss)
    validation = Series(v_step, validation.level, np.full(m, noise), noise)
    best = int(np.argmin(v_loss))
    best_step = int(v_step[best])
    if train is not None and not averaged:
        log = np.log(np.maximum(loss, 1e-12))
        unrest = swings(step, log) or periodic(step, log, "training")
        unrest = unrest or (None if _rose(validation, best, noise) else restless(step, log))
        if unrest is not None:
            return _with(_read(validation, "validation", m, best_step, averaged), "oscillating", *unrest)
    shares = v_error / np.maximum(v_loss, 1e-12)
    swinging = periodic(v_step, validation.level, "validation") or beyond_error(v_step, validation.level, shares)
    if swinging is not None:
        return _with(_read(validation, "validation", m, best_step, averaged), "oscillating", *swinging)
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


def _thirds(series: Series) -> tuple[float, float, float, float]:
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
    series: Series,
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
    lowest = int(np.argmin(running(series.level)))
    rise = end - float(running(series.level)[lowest])
    rise_error = math.sqrt(2 * float(np.mean(series.error**2)) / 3)
    words = "validation loss" if name == "validation" else "training loss"

    log = np.log(np.maximum(loss, 1e-12)) if step is not None and loss is not None and not averaged else None
    found = (swings(step, log) or periodic(step, log, "training")) if step is not None and log is not None else None
    if found is not None:
        return Diagnosis("oscillating", *found, **common)
    if rise > max(0.26, 4.5 * rise_error) and (
        end > start - max(0.0, 0.5 * (start - series.level[lowest])) or rise > 0.6
    ):
        since = int(series.step[lowest])
        return Diagnosis("diverged", since, f"the {words} rises by {math.expm1(rise):.0%} after step {since}", **common)
    unrest = restless(step, log) if step is not None and log is not None else None
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


def _settled(series: Series, start: float, last: float, fall: float) -> int:
    """First step from which the smoothed curve is within a tenth of the fall (or its noise) of the end."""
    smooth = running(series.level)
    near = smooth - last <= max(0.1 * fall, 1.5 * float(np.mean(series.error)))
    index = int(np.argmax(near)) if near.any() else len(near) - 1
    return int(series.step[index])


def _rose(series: Series, best: int, noise: float) -> bool:
    """Whether the last three evaluations or more all lie more than two errors above the minimum."""
    after = series.level[best + 1 :]
    limit = max(2.0 * math.sqrt(2.0) * noise, 0.015)
    # the lowest of many evaluations is low by luck as well; its neighbours are asked too
    lowest = float(running(series.level).min())
    return len(after) >= RISING_EVALUATIONS and bool((after[-RISING_EVALUATIONS:] - lowest > limit).all())


def _after_the_minimum(
    validation: Series, train: Series | None, best: int, noise: float, samples: Samples | None
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
