"""Strength of a run: response over weight, usable range, onset of distortion, the weight to use."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lora_eval.scorecard.dimensions.context import Context, number
from lora_eval.scorecard.dimensions.strength import formulas as metric
from lora_eval.scorecard.grid import OPEN_ROLES, Condition
from lora_eval.statistics.bootstrap import Draws, resample
from lora_eval.statistics.intervals import wilson

NAME = "strength"
VOTES = 2
# two of 255 levels between the darkest and the lightest spot of a thumb
BLANK_RANGE = 0.008
# the margin kept (see alignment) below which a weight counts as deaf to the prompt
ALIGNMENT_TOLERANCE = 0.75
# a LoRA should stand weight 1 undistorted; the article's everyday range is 0.4 to 0.8
FULL_WEIGHT = 1.0
# half of the likeness should not be there before this weight, or the dial has no room left (everyday weights: .4 to .8)
EVERYDAY = 0.35
# from the weight that reaches this share of the best gain on, nothing needs to rise any more
FULL_GAIN = 0.95
# gain still rising by more than this share of its maximum is a style on its way, not a break
STILL_RISING = 0.05


def measure(context: Context) -> None:
    """Score: the smallest of monotony (Spearman), smoothness (1 - CSM over a switch's), onset (over weight 1) and
    room (the weight that brings half of the likeness, over EVERYDAY).

    1 = every step of weight brings more of the concept, evenly, and nothing breaks up to weight 1;
    0 = the weight does nothing orderly. It belongs to the checkpoint, not to one weight.
    """
    data, grid = context.data, context.grid
    prompts = grid.prompts_of(OPEN_ROLES) or grid.core()
    z = _departures(context, prompts)
    _blank(context)
    context.evidence[NAME] = {
        "statistics": list(data.pixel_names),
        "left_spread_at_z": metric.LEFT_SPREAD,
        "votes_needed": VOTES,
    }
    curves: dict[str, Any] = {}
    for checkpoint in grid.checkpoints:
        chosen = [c for c in grid.of(checkpoint) if grid.conditions[c].weight > 0]
        if not chosen:
            continue
        curves[checkpoint] = _checkpoint(context, checkpoint, chosen, z)
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
    centre, spread = metric._base_spread(base)
    allowed = None
    if _references_known(context) and data.references is not None and data.references.pixels is not None:
        allowed = np.quantile(data.references.pixels.astype(np.float64), [0.05, 0.95], axis=0)

    def fill(rows: np.ndarray) -> np.ndarray:
        value = np.where((rows >= 0)[..., None], pixels[np.maximum(rows, 0)], np.nan)
        z = metric.departure(value, centre[:, None, :], spread, allowed)
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
    """Share of pictures of one single shade: what a host draws when numbers have become NaN."""
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
        context.add(condition, NAME, "blank_share", hits / len(rows), wilson(hits, len(rows)), len(rows), at_zero)


def _response(context: Context, chosen: list[int]) -> tuple[np.ndarray, str]:
    """(W, P, M) gain over weight 0 of each picture, and of what: likeness or, without references, own direction."""
    grid, core = context.grid, context.grid.core()
    clip_i = context.shared.get("clip_i")
    if clip_i is not None:
        return (context.paired(clip_i) - context.paired_base(clip_i))[chosen][
            :, core
        ], "likeness to the references (cosine)"
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


def _checkpoint(context: Context, checkpoint: str, chosen: list[int], z: np.ndarray) -> dict[str, Any]:
    grid = context.grid
    where: Condition = grid.conditions[chosen[0]]
    weights = np.array([grid.conditions[c].weight for c in chosen])
    response, meaning = _response(context, chosen)
    gain = resample(response, context.resamples, context.seed)
    low, high = gain.interval()
    off = _beyond_purpose(context, z[chosen], gain)
    votes = metric.votes(off)
    still = _rising(gain)
    strongly = metric.votes(off, 2 * metric.LEFT_SPREAD) >= VOTES
    # a likeness still on its way may move statistics too; far beyond the references' own it may not
    excused = still & ~(strongly if _references_known(context) else np.zeros_like(strongly))
    left, strongly = (votes >= VOTES) & ~excused, strongly & ~excused
    kept: Draws | None = context.shared.get("kept")
    deaf = np.zeros(len(chosen), dtype=bool)
    if kept is not None:
        _, kept_high = kept.interval()
        with np.errstate(invalid="ignore"):
            deaf = (
                np.where(np.isfinite(kept_high[chosen]), kept_high[chosen], kept.estimate[chosen]) < ALIGNMENT_TOLERANCE
            )
    pixels_known = bool(np.isfinite(z[chosen]).any())
    onset = metric.onset(weights, left, strongly) if pixels_known else math.nan
    fine = ~deaf & ~(weights >= onset)
    usable = metric.usable(weights, gain.estimate, fine)
    best = metric.middle(weights, usable)
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
        "deaf": [False, *map(bool, deaf)],
        "onset": number(onset),
        "usable": [float(w) for w in weights[usable]],
        "recommended": number(best),
    }

    def row(
        measure: str, value: float, interval: tuple[float, float] | None = None, verdict: str = "", score: Any = None
    ) -> None:
        context.add(where, NAME, measure, value, interval, int(gain.n.max(initial=0)), score=score, verdict=verdict,
                    whole_checkpoint=True)  # fmt: skip

    for c, i in zip(chosen, range(len(chosen)), strict=True):
        context.add(grid.conditions[c], NAME, "response", gain.estimate[i], (low[i], high[i]), int(gain.n[i]), 0.0)
        if pixels_known:
            voted = f"{int(votes[i])} of {z.shape[1]} statistics left the spread of weight 0"
            context.add(grid.conditions[c], NAME, "distortion_z", float(np.sort(np.abs(z[c]))[-min(VOTES, z.shape[1])]),
                        n=int(gain.n[i]), baseline=0.0, verdict=voted)  # fmt: skip
    context.shared.setdefault("onset", {})[checkpoint] = onset
    row("onset", onset, verdict="" if math.isfinite(onset) else _no_onset(pixels_known, weights))
    row("usable_low", float(weights[usable][0]) if usable.any() else math.nan)
    row("usable_high", float(weights[usable][-1]) if usable.any() else math.nan)
    row("recommended_weight", best)
    reason = ""
    if not context.has_base:
        reason = "no picture at weight 0; draw the same prompts and seeds without the LoRA"
    elif len(weights) + 1 < metric.WEIGHTS_NEEDED:
        reason = f"{len(weights) + 1} weights with weight 0; draw at least {metric.WEIGHTS_NEEDED}, better 6"
    elif not np.isfinite(gain.estimate).all():
        reason = "pictures are missing at some weights, or nothing changes with weight"
    elif not np.nanmax(np.where(np.isfinite(low), low, gain.estimate)) > _least_gain(context, chosen):
        reason = "nothing rises with weight, so there is no response to judge"
    if reason:
        row("score", math.nan, verdict=f"not measured: {reason}")
        return curve
    _judge(curve, row, weights, response, gain, onset, context)
    return curve


def _judge(
    curve: dict[str, Any],
    row: Any,
    weights: np.ndarray,
    response: np.ndarray,
    gain: Draws,
    onset: float,
    context: Context,
) -> None:
    """Monotony, smoothness, knee and the score of one checkpoint with enough weights."""
    grid = np.concatenate([[0.0], weights])
    with_zero = np.concatenate([np.where(np.isfinite(response[:1]), 0.0, np.nan), response])
    rho = metric.monotony(grid, np.moveaxis(with_zero, 0, -1))
    pairs = resample(rho, context.resamples, context.seed)
    mean = np.concatenate([[0.0], gain.estimate])
    means = np.concatenate([np.zeros((len(gain.samples), 1)), gain.samples], axis=1)
    # once the concept is all there a LoRA may level off or decline: that is what the usable range is for
    full = int(np.argmax(gain.estimate >= FULL_GAIN * gain.estimate.max()))
    top = max(full + 1, metric.WEIGHTS_NEEDED - 1)
    rise, mean_rise, means_rise = grid[: top + 1], mean[: top + 1], means[:, : top + 1]
    worst = metric.switch_csm(top)
    smooth = 1.0 - _csm_of_draws(rise, means_rise) / worst
    unbroken = min(1.0, onset / FULL_WEIGHT) if math.isfinite(onset) else 1.0
    # the onset lies between the last sound weight and the first broken one
    sound = weights[weights < onset] if math.isfinite(onset) else weights
    last_sound = (float(sound[-1]) if sound.size else 0.0) / FULL_WEIGHT if math.isfinite(onset) else 1.0
    half = float(metric.half_weight(grid, mean))
    parts: dict[str, tuple[float, float, float]] = {
        "monotony": _spread(float(metric.monotony(rise, mean_rise)), metric.monotony(rise, means_rise)),
        "smoothness": _spread(1.0 - metric.csm(rise, mean_rise) / worst, smooth),
        "unbroken": (unbroken, min(last_sound, unbroken), unbroken),
        "room": _spread(min(1.0, half / EVERYDAY), np.minimum(1.0, metric.half_weight(grid, means) / EVERYDAY)),
    }
    name = min(parts, key=lambda key: (round(parts[key][0], 9), key))
    score, low, high = (min(1.0, max(0.0, value)) for value in parts[name])
    csm, knee = metric.csm(grid, mean), metric.knee(grid, mean)
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
    row("monotony", float(pairs.estimate), (float(pair_low), float(pair_high)))
    row("half_weight", half)
    row("csm", csm)
    row("knee", knee)
    row("score", score, (low, high), score=score)


def _csm_of_draws(weights: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """CSM of every bootstrapped curve, (R, W) -> (R,); see :func:`metrics.strength.csm`."""
    span = curves.max(axis=1) - curves.min(axis=1)
    step = np.diff(weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.std(np.diff(curves, axis=1) / span[:, None] * (step.mean() / step), axis=1)


def _spread(value: float, draws: np.ndarray) -> tuple[float, float, float]:
    """A value with the percentile interval of its draws, widened to hold it (both statistics are bounded)."""
    draws = draws[np.isfinite(draws)]
    if not draws.size:
        return value, value, value
    low, high = np.quantile(draws, [0.025, 0.975])
    return value, min(value, float(low)), max(value, float(high))


def _rising(gain: Draws) -> np.ndarray:
    """(W,) whether the gain at a weight surely passes that of all lower weights by a share that matters."""
    best = float(np.nanmax(gain.estimate)) if np.isfinite(gain.estimate).any() else 0.0
    result = np.zeros(gain.estimate.shape, dtype=bool)
    for i in range(len(result)):
        if i == 0:
            before, before_draws = 0.0, np.zeros(gain.samples.shape[0])
        else:
            top = int(np.argmax(np.where(np.isfinite(gain.estimate[:i]), gain.estimate[:i], -np.inf)))
            before, before_draws = max(0.0, float(gain.estimate[top])), np.maximum(gain.samples[:, top], 0.0)
        more = gain.samples[:, i] - before_draws
        sure = float(np.quantile(more, 0.025)) if np.isfinite(more).all() and more.size else 0.0
        result[i] = gain.estimate[i] - before > STILL_RISING * best and sure > 0
    return result


def _beyond_purpose(context: Context, z: np.ndarray, gain: Draws) -> np.ndarray:
    """Departures less what a style moves on purpose, when the references' own statistics are not known.

    A style may well leave the spread of weight 0 (that is what it is for), and stay there. What it has
    moved by the weight at which most of its likeness is reached counts as purpose; only what comes
    after that is distortion.
    """
    if context.data.kind != "style" or _references_known(context):
        return z
    best = np.nanmax(gain.estimate) if np.isfinite(gain.estimate).any() else 0.0
    if not best > 0:
        return z
    reached = int(np.argmax(np.nan_to_num(gain.estimate, nan=-np.inf) >= metric.KEPT_GAIN * best))
    return np.where(np.sign(z) == np.sign(z[reached]), np.sign(z) * np.clip(np.abs(z) - np.abs(z[reached]), 0, None), z)


def _least_gain(context: Context, chosen: list[int]) -> float:
    """The gain below which nothing rises: a twentieth of the way to the references, or a tenth of seed noise."""
    if "clip_i" in context.shared:
        room = context.shared["ceiling"] - context.shared["base_clip_i"].estimate[chosen]
        return float(0.05 * np.nanmax(room)) if np.isfinite(room).any() else 0.0
    spread = context.shared.get("seed_spread", math.nan)
    return 0.1 * spread if math.isfinite(spread) else 0.0


def _references_known(context: Context) -> bool:
    """Whether the references' own pixel statistics can say which departures are learnt."""
    references = context.data.references
    return references is not None and references.pixels is not None and len(references) >= 3


def _no_onset(pixels_known: bool, weights: np.ndarray) -> str:
    if not pixels_known:
        return "not measured: no distortion statistics or no weight 0; embed the run again"
    return f"no distortion up to weight {weights[-1]:g}"
