"""Strength of a run: response over weight, usable range, onset of distortion, the weight to use."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lora_eval.scorecard.dimensions.context import Context, Estimate, number
from lora_eval.scorecard.dimensions.strength import formulas
from lora_eval.scorecard.grid import OPEN_ROLES, Condition
from lora_eval.statistics.bootstrap import Draws, resample
from lora_eval.statistics.intervals import wilson

NAME = "strength"
# statistics that must leave the spread of weight 0 before a weight counts as distorted
VOTES = 2
# a picture is blank where its thumb has no more than two of 255 levels between its darkest and lightest spot
BLANK_RANGE = 0.008
# share of the margin kept (see alignment) below which a weight ignores the prompt
ALIGNMENT_TOLERANCE = 0.75
# a LoRA should be undistorted up to weight 1; everyday weights are 0.4 to 0.8
FULL_WEIGHT = 1.0
# half of the likeness should not be there before this weight, or no room is left for lower ones (everyday: .4 to .8)
EARLIEST_HALF = 0.35
# from the weight that reaches this share of the best gain on, nothing needs to rise any more
FULL_GAIN = 0.95
# where the gain still rises by more than this share of its maximum, statistics move because the concept does
STILL_RISING = 0.05


class _Rows:
    """Rows that belong to a whole checkpoint.

    Args:
        context: the run.
        where: any condition of the checkpoint.
        n: number of pictures behind each row.
    """

    def __init__(self, context: Context, where: Condition, n: int) -> None:
        self.context, self.where, self.n = context, where, n

    def add(
        self,
        measure: str,
        value: float,
        interval: tuple[float, float] | None = None,
        verdict: str = "",
        score: float | None = None,
    ) -> None:
        """Append a row."""
        found = Estimate(value, interval, self.n, score=score, verdict=verdict)
        self.context.add(self.where, NAME, measure, found, whole_checkpoint=True)


def measure(context: Context) -> None:
    """Score: the smallest of four parts; it belongs to the checkpoint, not to one weight.

    The parts are monotony (Spearman), smoothness (1 less CSM over that of a switch), unbroken (onset of distortion over
    weight 1) and room (the weight that brings half of the likeness, over EARLIEST_HALF). 1 = every step of weight
    brings more of the concept, evenly, and nothing breaks up to weight 1; 0 = the weight has no orderly effect.
    """
    data, grid = context.data, context.grid
    prompts = grid.prompts_of(OPEN_ROLES) or grid.core()
    z = _departures(context, prompts)
    _blank(context)
    context.evidence[NAME] = {
        "statistics": list(data.pixel_names),
        "left_spread_at_z": formulas.LEFT_SPREAD,
        "votes_needed": VOTES,
    }
    curves: dict[str, Any] = {}
    for checkpoint in grid.checkpoints:
        chosen = [c for c in grid.of(checkpoint) if grid.conditions[c].weight > 0]
        if not chosen:
            continue
        curves[checkpoint] = _checkpoint(context, chosen, z)
    context.evidence[NAME]["curves"] = curves


def _departures(context: Context, prompts: list[int]) -> np.ndarray:
    """(C, K) median departure of each statistic from weight 0 per condition; fills ``distortion_z``."""
    data, grid = context.data, context.grid
    result = np.full((len(grid.conditions), max(1, data.pixels.shape[1] if data.pixels.ndim == 2 else 1)), np.nan)
    column = np.full(len(data.cells), np.nan)
    context.columns["distortion_z"] = column
    if data.pixels.ndim != 2 or not data.pixels.size or not context.has_base:
        return result
    pixels = data.pixels.astype(np.float64)
    base = np.where((grid.base[prompts] >= 0)[..., None], pixels[np.maximum(grid.base[prompts], 0)], np.nan)
    centre, spread = formulas._base_spread(base)
    allowed = None
    if _references_known(context) and data.references is not None and data.references.pixels is not None:
        allowed = np.quantile(data.references.pixels.astype(np.float64), [0.05, 0.95], axis=0)

    def fill(rows: np.ndarray) -> np.ndarray:
        value = np.where((rows >= 0)[..., None], pixels[np.maximum(rows, 0)], np.nan)
        z = formulas.departure(value, centre[:, None, :], spread, allowed)
        found = rows >= 0
        second = np.sort(np.where(np.isfinite(z), np.abs(z), 0.0), axis=-1)[..., -min(VOTES, z.shape[-1])]
        column[rows[found]] = second[found]
        return z

    fill(grid.base[prompts])
    for c in range(len(grid.conditions)):
        z = fill(grid.rows[c][prompts]).reshape(-1, pixels.shape[1])
        z = z[np.isfinite(z).all(axis=1)]
        if len(z):
            result[c] = np.median(z, axis=0)
    column[~np.isfinite(column)] = np.nan
    return result


def _blank(context: Context) -> None:
    """Rows of the share of pictures of a single shade, which is what a host draws from NaN."""
    data, grid = context.data, context.grid
    if data.thumbs.ndim != 3 or not data.thumbs.size:
        return
    flat = data.thumbs.reshape(len(data.thumbs), -1)
    blank = (flat.max(axis=1) - flat.min(axis=1)) < BLANK_RANGE
    base = grid.base[grid.base >= 0]
    at_zero = float(blank[base].mean()) if len(base) else None
    for c, condition in enumerate(grid.conditions):
        rows = grid.rows[c][grid.rows[c] >= 0]
        hits = int(blank[rows].sum())
        found = Estimate(hits / len(rows), wilson(hits, len(rows)), len(rows), at_zero)
        context.add(condition, NAME, "blank_share", found)


def _response(context: Context, chosen: list[int]) -> tuple[np.ndarray, str]:
    """Response of each picture at some conditions.

    Args:
        chosen: indices of the conditions, ascending in weight.

    Returns:
        (W, P, M) gain over weight 0 on plain prompts, and what it is a gain of: likeness to the references or, without
        any, movement along the mean change at the largest weight.
    """
    grid, core = context.grid, context.grid.core()
    if context.shared.likeness is not None:
        clip_i = context.shared.likeness.clip_i
        gain = context.paired(clip_i) - context.paired_base(clip_i)
        return gain[chosen][:, core], "likeness to the references (cosine)"
    features, twins = context.data.features.astype(np.float64), grid.twins()[:, core]

    def change(c: int) -> np.ndarray:
        rows, zero = grid.rows[c][core], twins[c]
        return np.where((zero >= 0)[..., None], features[np.maximum(rows, 0)] - features[np.maximum(zero, 0)], np.nan)

    top = change(chosen[-1])
    valid = np.isfinite(top).all(axis=-1)
    if not valid.any():
        return np.full((len(chosen), len(core), grid.rows.shape[2]), np.nan), ""
    direction = top[valid].mean(axis=0)
    length = np.linalg.norm(direction)
    if length < 1e-6:
        return np.full((len(chosen), len(core), grid.rows.shape[2]), np.nan), ""
    return np.stack(
        [change(c) @ (direction / length) for c in chosen]
    ), "movement along the LoRA's own direction (no references)"


def _checkpoint(context: Context, chosen: list[int], z: np.ndarray) -> dict[str, Any]:
    """Rows of one checkpoint.

    Args:
        chosen: indices of its conditions of weight above 0, ascending.
        z: (C, K) departures of the statistics from weight 0.

    Returns:
        The response curve, for the evidence.
    """
    grid = context.grid
    weights = np.array([grid.conditions[c].weight for c in chosen])
    response, meaning = _response(context, chosen)
    gain = resample(response, context.resamples, context.seed)
    low, high = gain.interval()
    off = _beyond_purpose(context, z[chosen], gain)
    votes = formulas.votes(off)
    still = _rising(gain)
    strongly = formulas.votes(off, 2 * formulas.LEFT_SPREAD) >= VOTES
    # while likeness still rises, statistics may move with it, but not far beyond the references' own
    excused = still & ~(strongly if _references_known(context) else np.zeros_like(strongly))
    left, strongly = (votes >= VOTES) & ~excused, strongly & ~excused
    ignoring = _ignores_prompt(context, chosen)
    pixels_known = bool(np.isfinite(z[chosen]).any())
    onset = formulas.onset(weights, left, strongly) if pixels_known else math.nan
    fine = ~ignoring & ~(weights >= onset)
    usable = formulas.usable(weights, gain.estimate, fine)
    best = formulas.middle(weights, usable)
    curve = {
        "response": meaning,
        "weights": [0.0, *map(float, weights)],
        "gain": [0.0, *map(number, gain.estimate)],
        "ci_low": [0.0, *map(number, low)],
        "ci_high": [0.0, *map(number, high)],
        "n": [int(gain.n.max(initial=0)), *map(int, gain.n)],
        "distortion_votes": [0, *map(int, votes)],
        "z": [[number(v) for v in z[c]] for c in chosen],
        "distorted": [False, *map(bool, left)],
        "deaf": [False, *map(bool, ignoring)],
        "onset": number(onset),
        "usable": [float(w) for w in weights[usable]],
        "recommended": number(best),
    }

    table = _Rows(context, grid.conditions[chosen[0]], int(gain.n.max(initial=0)))
    for i, c in enumerate(chosen):
        n = int(gain.n[i])
        response_here = Estimate(gain.estimate[i], (low[i], high[i]), n, 0.0)
        context.add(grid.conditions[c], NAME, "response", response_here)
        if pixels_known:
            voted = f"{int(votes[i])} of {z.shape[1]} statistics left the spread of weight 0"
            second = float(np.sort(np.abs(z[c]))[-min(VOTES, z.shape[1])])
            context.add(grid.conditions[c], NAME, "distortion_z", Estimate(second, n=n, baseline=0.0, verdict=voted))
    table.add("onset", onset, verdict="" if math.isfinite(onset) else _no_onset(pixels_known, weights))
    table.add("usable_low", float(weights[usable][0]) if usable.any() else math.nan)
    table.add("usable_high", float(weights[usable][-1]) if usable.any() else math.nan)
    table.add("recommended_weight", best)
    reason = _missing(context, weights, gain, low, _least_gain(context, chosen))
    if reason:
        table.add("score", math.nan, verdict=f"not measured: {reason}")
        return curve
    _judge(curve, table, weights, response, gain, onset)
    return curve


def _missing(context: Context, weights: np.ndarray, gain: Draws, low: np.ndarray, least: float) -> str:
    """Why a checkpoint has no score, "" where it has one. ``least``: the gain below which nothing rises."""
    if not context.has_base:
        return "no picture at weight 0; draw the same prompts and seeds without the LoRA"
    if len(weights) + 1 < formulas.WEIGHTS_NEEDED:
        return f"{len(weights) + 1} weights with weight 0; draw at least {formulas.WEIGHTS_NEEDED}, better 6"
    if not np.isfinite(gain.estimate).all():
        return "pictures are missing at some weights, or nothing changes with weight"
    if not np.nanmax(np.where(np.isfinite(low), low, gain.estimate)) > least:
        return "nothing rises with weight, so there is no response to judge"
    return ""


def _ignores_prompt(context: Context, chosen: list[int]) -> np.ndarray:
    """(W,) whether a weight keeps less than ALIGNMENT_TOLERANCE of the margin between prompts, interval and all."""
    if context.shared.prompt_margin is None:
        return np.zeros(len(chosen), dtype=bool)
    kept = context.shared.prompt_margin.kept
    _, high = kept.interval()
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(high[chosen]), high[chosen], kept.estimate[chosen]) < ALIGNMENT_TOLERANCE


def _judge(
    curve: dict[str, Any], table: _Rows, weights: np.ndarray, response: np.ndarray, gain: Draws, onset: float
) -> None:
    """Monotony, smoothness, knee and the score of a checkpoint with enough weights.

    Args:
        curve: its evidence, which gets more keys.
        table: takes the rows.
        weights: (W,) ascending, above 0; response: (W, P, M) gain of each picture; gain: draws (W,) of its mean.
        onset: weight from which pictures are distorted, NaN for none.
    """
    grid = np.concatenate([[0.0], weights])
    with_zero = np.concatenate([np.where(np.isfinite(response[:1]), 0.0, np.nan), response])
    rho = formulas.monotony(grid, np.moveaxis(with_zero, 0, -1))
    pairs = resample(rho, table.context.resamples, table.context.seed)
    mean = np.concatenate([[0.0], gain.estimate])
    means = np.concatenate([np.zeros((len(gain.samples), 1)), gain.samples], axis=1)
    # beyond full likeness the response may level off or decline: the usable range covers that
    full = int(np.argmax(gain.estimate >= FULL_GAIN * gain.estimate.max()))
    top = max(full + 1, formulas.WEIGHTS_NEEDED - 1)
    rise, mean_rise, means_rise = grid[: top + 1], mean[: top + 1], means[:, : top + 1]
    worst = formulas.switch_csm(top)
    smooth = 1.0 - formulas.csm_of_draws(rise, means_rise) / worst
    unbroken = min(1.0, onset / FULL_WEIGHT) if math.isfinite(onset) else 1.0
    # the onset lies between the last sound weight and the first broken one
    sound = weights[weights < onset] if math.isfinite(onset) else weights
    last_sound = (float(sound[-1]) if sound.size else 0.0) / FULL_WEIGHT if math.isfinite(onset) else 1.0
    half, halves = float(formulas.half_weight(grid, mean)), formulas.half_weight(grid, means)
    parts: dict[str, tuple[float, float, float]] = {
        "monotony": _spread(float(formulas.monotony(rise, mean_rise)), formulas.monotony(rise, means_rise)),
        "smoothness": _spread(1.0 - formulas.csm(rise, mean_rise) / worst, smooth),
        "unbroken": (unbroken, min(last_sound, unbroken), unbroken),
        "room": _spread(min(1.0, half / EARLIEST_HALF), np.minimum(1.0, halves / EARLIEST_HALF)),
    }
    name = min(parts, key=lambda key: (round(parts[key][0], 9), key))
    score, low, high = (min(1.0, max(0.0, value)) for value in parts[name])
    csm, knee = formulas.csm(grid, mean), formulas.knee(grid, mean)
    finite = rho[np.isfinite(rho)]
    curve.update(
        csm=number(csm),
        knee=number(knee),
        monotony=number(float(pairs.estimate)),
        median_monotony=number(float(np.median(finite))) if finite.size else None,
        parts={key: number(value[0]) for key, value in parts.items()},
        weakest=name,
    )
    pair_low, pair_high = pairs.interval(low=-1.0, high=1.0)
    table.add("monotony", float(pairs.estimate), (float(pair_low), float(pair_high)))
    table.add("half_weight", half)
    table.add("csm", csm)
    table.add("knee", knee)
    table.add("score", score, (low, high), score=score)


def _spread(value: float, draws: np.ndarray) -> tuple[float, float, float]:
    """A value with the 95 % percentile interval of its draws, widened to contain the value.

    The statistics are bounded, so that all draws may lie on one side of the value.
    """
    draws = draws[np.isfinite(draws)]
    if not draws.size:
        return value, value, value
    low, high = np.quantile(draws, [0.025, 0.975])
    return value, min(value, float(low)), max(value, float(high))


def _rising(gain: Draws) -> np.ndarray:
    """(W,) whether the gain at a weight exceeds that of all lower weights.

    It does where it is larger by STILL_RISING of the maximum, and the 95 % interval of the difference is above 0.
    """
    best = float(np.nanmax(gain.estimate)) if np.isfinite(gain.estimate).any() else 0.0
    result = np.zeros(gain.estimate.shape, dtype=bool)
    for i in range(len(result)):
        if i == 0:
            before, before_draws = 0.0, np.zeros(gain.samples.shape[0])
        else:
            top = int(np.argmax(np.where(np.isfinite(gain.estimate[:i]), gain.estimate[:i], -np.inf)))
            before, before_draws = max(0.0, float(gain.estimate[top])), np.maximum(gain.samples[:, top], 0.0)
        more = gain.samples[:, i] - before_draws
        least = float(np.quantile(more, 0.025)) if np.isfinite(more).all() and more.size else 0.0
        result[i] = gain.estimate[i] - before > STILL_RISING * best and least > 0
    return result


def _beyond_purpose(context: Context, z: np.ndarray, gain: Draws) -> np.ndarray:
    """Departures less those that belong to a style, where the references' own statistics are not known.

    A style may move statistics out of the spread of weight 0 on purpose. What it has moved by the weight that reaches
    most of the likeness counts as purpose; only what is beyond that counts as distortion.

    Args:
        z: (W, K) departures; gain: draws (W,) of the response.

    Returns:
        (W, K) departures.
    """
    if context.data.kind != "style" or _references_known(context):
        return z
    best = np.nanmax(gain.estimate) if np.isfinite(gain.estimate).any() else 0.0
    if not best > 0:
        return z
    reached = int(np.argmax(np.nan_to_num(gain.estimate, nan=-np.inf) >= formulas.KEPT_GAIN * best))
    return np.where(np.sign(z) == np.sign(z[reached]), np.sign(z) * np.clip(np.abs(z) - np.abs(z[reached]), 0, None), z)


def _least_gain(context: Context, chosen: list[int]) -> float:
    """The gain below which nothing rises.

    A twentieth of the distance to the references or, without any, a tenth of the distance between two seeds.
    """
    likeness, variety = context.shared.likeness, context.shared.variety
    if likeness is not None:
        room = likeness.ceiling - likeness.base.estimate[chosen]
        return float(0.05 * np.nanmax(room)) if np.isfinite(room).any() else 0.0
    spread = math.nan if variety is None else variety.seed_spread
    return 0.1 * spread if math.isfinite(spread) else 0.0


def _references_known(context: Context) -> bool:
    """Whether there are enough references to tell from their pixel statistics which departures are learnt."""
    references = context.data.references
    return references is not None and references.pixels is not None and len(references) >= 3


def _no_onset(pixels_known: bool, weights: np.ndarray) -> str:
    """Why there is no onset of distortion."""
    if not pixels_known:
        return "not measured: no distortion statistics or no weight 0; embed the run again"
    return f"no distortion up to weight {weights[-1]:g}"
