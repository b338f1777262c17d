"""Consistency of a run: CARLoS, style spread, similarity beside diversity, drifting pictures by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_eval.scorecard.dimensions.consistency import formulas as metric
from lora_eval.scorecard.dimensions.context import Context, number
from lora_eval.scorecard.grid import OPEN_ROLES
from lora_eval.statistics.bootstrap import Draws

DRIFTING = 4.0
# a change smaller than this share of the distance between two seeds is no effect
NO_EFFECT = 0.1
NAME = "consistency"


def measure(context: Context) -> None:
    """Score: CARLoS consistency of the draws over what the references would reach in their place.

    0 = the change differs from seed to seed like noise, 1 = as alike as if every picture had been
    replaced by one of the references (an unequal one each); without references 1 = the same change
    at every seed. A style spread over seeds that is surely larger than the base model's divides the
    score: draws that the LoRA makes less alike than they were are not consistent.
    """
    grid, data = context.grid, context.data
    prompts = grid.prompts_of(OPEN_ROLES) or grid.core()
    shape = (len(grid.conditions), len(prompts), grid.rows.shape[2])
    cubes = {
        name: np.full(shape, np.nan)
        for name in ("carlos", "strength", "similarity", "similarity_0", "style", "style_0", "drift")
    }
    across = {name: np.full((len(grid.conditions), len(prompts), 1), np.nan) for name in ("carlos", "style", "style_0")}
    diversity = {name: np.full((len(grid.conditions), len(prompts), 1), np.nan) for name in ("vendi", "vendi_0")}
    n_rows = len(data.cells)
    columns = {name: np.full(n_rows, np.nan) for name in ("effect", "carlos", "drift_z")}
    drifting: dict[str, list[dict[str, Any]]] = {}
    lines, lines_0 = np.full((2, len(grid.conditions), 2), np.nan)

    base_rows = grid.base[prompts]
    scale = _style_scale(data.styles, base_rows)
    styles = np.asarray(data.styles, dtype=np.float64) / scale if data.styles.size else np.zeros((n_rows, 0))
    base_features = data.features[np.maximum(base_rows, 0)].astype(np.float64)
    base_gram = base_features @ np.swapaxes(base_features, -1, -2)
    base_style = _distance(styles[np.maximum(base_rows, 0)])

    base_z = _drift(styles[np.maximum(base_rows, 0)], base_gram, base_rows >= 0, base_rows, columns["drift_z"])
    drift_base = float(np.mean(base_z[np.isfinite(base_z)] > DRIFTING)) if np.isfinite(base_z).any() else None

    for c, condition in enumerate(grid.conditions):
        rows = grid.rows[c][prompts]
        mask = rows >= 0
        features = data.features[np.maximum(rows, 0)].astype(np.float64)
        gram = features @ np.swapaxes(features, -1, -2)
        both = mask & (base_rows >= 0)
        difference = np.where(both[..., None], features - base_features, 0.0)
        length = np.linalg.norm(difference, axis=-1)
        moved = both & (length > 1e-5)
        cosine = metric.cosines(difference)
        cubes["strength"][c] = np.where(both, length, np.nan)
        columns["effect"][rows[both]] = length[both]
        if both.any() and moved.sum() >= both.sum() / 2:
            cubes["carlos"][c] = metric.pseudo_values(cosine, moved)
            columns["carlos"][rows[moved]] = metric.row_mean(cosine, moved)[moved]
            across["carlos"][c] = _across_prompts(difference, moved)
        cubes["similarity"][c] = metric.pseudo_values(gram, both if both.any() else mask)
        cubes["similarity_0"][c] = metric.pseudo_values(base_gram, both)
        diversity["vendi"][c, :, 0] = metric.vendi_of_sets(gram, both if both.any() else mask)
        diversity["vendi_0"][c, :, 0] = metric.vendi_of_sets(base_gram, both)
        style = styles[np.maximum(rows, 0)]
        cubes["style"][c] = metric.pseudo_values(_distance(style), both)
        cubes["style_0"][c] = metric.pseudo_values(base_style, both)
        across["style"][c] = _means_apart(style, both)
        across["style_0"][c] = _means_apart(styles[np.maximum(base_rows, 0)], both)
        lines[c] = metric.split(features, both)
        lines_0[c] = metric.split(base_features, both)
        z = _drift(style, gram, mask, rows, columns["drift_z"])
        # a prompt and seed that fall out of the row without the LoRA already are not its doing
        twin = base_rows[mask]
        odd = (twin >= 0) & (columns["drift_z"][np.maximum(twin, 0)] > DRIFTING)
        z = np.where(odd, 0.0, z)
        cubes["drift"][c][mask] = np.where(np.isfinite(z), z > DRIFTING, np.nan)
        order = np.argsort(-np.where(np.isfinite(z), z, -1.0), kind="stable")
        drifting[condition.key] = [
            {"image": context.image(int(rows[mask][i])), "z": number(z[i])} for i in order[:20] if z[i] > DRIFTING
        ]
    every = list(range(len(prompts)))
    carlos = context.draws(cubes["carlos"], every)
    strength = context.draws(cubes["strength"], every)
    seed_spread = _seed_spread(base_features, base_rows >= 0)
    ceiling = _carlos_ceiling(base_features, base_rows >= 0, context)
    style, style_0 = (context.draws(cubes[name], every).positive() for name in ("style", "style_0"))
    spread = style.map(lambda w, zero: w / zero, style_0)
    references = data.references

    context.columns.update(effect=columns["effect"], carlos=columns["carlos"], drift_z=columns["drift_z"])
    context.shared.update(effect=strength, seed_spread=seed_spread, diversity=diversity, triggered=prompts)
    context.add_draws(NAME, "carlos_consistency", carlos, 0.0, ceiling, bounds=(-1.0, 1.0))
    context.add_draws(NAME, "carlos_strength", strength, seed_spread, bounds=(0.0, 2.0))
    context.add_draws(
        NAME, "carlos_consistency_prompts", context.draws(across["carlos"], every), 0.0, bounds=(-1.0, 1.0)
    )
    similar = context.draws(cubes["similarity"], every)
    context.add_draws(
        NAME, "similarity_seeds", similar, context.draws(cubes["similarity_0"], every).estimate,
        _reference_similarity(context), bounds=(-1.0, 1.0),
    )  # fmt: skip
    context.add_draws(
        NAME, "diversity_vendi", context.draws(diversity["vendi"], every),
        context.draws(diversity["vendi_0"], every).estimate, _reference_vendi(context, diversity["vendi"]),
    )  # fmt: skip
    reference_spread = None
    if references is not None and len(references) >= 2 and data.styles.size:
        off = _distance(references.styles.astype(np.float64)[None] / scale)
        reference_spread = float(metric.pair_mean(off, np.ones((1, len(references)), dtype=bool))[0])
    context.add_draws(NAME, "style_spread_seeds", style, style_0.estimate, reference_spread, bounds=(0.0, np.inf))
    context.add_draws(
        NAME, "style_spread_prompts", context.draws(across["style"], every).positive(),
        context.draws(across["style_0"], every).estimate, reference_spread, bounds=(0.0, np.inf),
    )  # fmt: skip
    context.add_draws(NAME, "style_spread_ratio", spread, 1.0, bounds=(0.0, np.inf))
    drift = context.draws(cubes["drift"], every)
    few = "not measured: fewer than five pictures; draw more seeds"
    context.add_shares(NAME, "drift_share", drift, drift_base, verdicts=["" if n else few for n in drift.n])
    for c, condition in enumerate(grid.conditions):
        ratio = lines[c, 0] / lines_0[c, 0] if lines_0[c, 0] > 0 else np.nan
        context.add(condition, NAME, "split_ratio", ratio, n=int(carlos.n[c]), baseline=1.0)
        context.add(condition, NAME, "split_share", lines[c, 1], n=int(carlos.n[c]), baseline=lines_0[c, 1])
    _score(context, carlos, strength, spread, seed_spread, ceiling, shape[2])
    context.evidence[NAME] = {
        "drifting": drifting,
        "drifting_above_z": DRIFTING,
        "seed_spread_at_weight_0": number(seed_spread),
        "carlos_ceiling_from_references": number(ceiling),
        "prompts": [grid.prompts[p] for p in prompts],
        "interval_scope": carlos.scope,
    }


def _score(
    context: Context, carlos: Draws, strength: Draws, spread: Draws, seed_spread: float, ceiling: float, seeds: int
) -> None:
    low, _ = spread.interval()
    worse = np.where(np.isfinite(low) & (low > 1.0), low, 1.0)
    top = ceiling if np.isfinite(ceiling) and ceiling > 0.02 else 1.0
    _, effect = strength.interval()
    effect = np.where(np.isfinite(effect), effect, strength.estimate)
    with np.errstate(invalid="ignore"):
        silent = effect < NO_EFFECT * seed_spread
    score = carlos.map(lambda value: np.where(silent, np.nan, value / top / worse))
    verdicts = []
    for c in range(len(context.grid.conditions)):
        if not context.has_base:
            verdicts.append("not measured: no picture at weight 0; draw the same prompts and seeds without the LoRA")
        elif seeds < 2:
            verdicts.append("not measured: one seed; draw at least 4 seeds of every prompt")
        elif not np.isfinite(score.estimate[c]):
            verdicts.append(
                "not measured: the pictures hardly differ from weight 0, so there is no change to be consistent"
            )
        else:
            verdicts.append("")
    context.shared["style_spread_low"] = low
    context.add_draws(NAME, "score", score, 0.0, 1.0, score=score.estimate, verdicts=verdicts)


def _style_scale(styles: np.ndarray, base_rows: np.ndarray) -> np.ndarray:
    """Spread of each style statistic over the pictures of weight 0, (K,); over all of the run, where there are none.

    Root of half the mean squared difference of pictures of different prompts: over all pictures, those of one prompt
    among them, it would be the smaller the fewer prompts there are.
    """
    if not styles.size:
        return np.ones(styles.shape[1] if styles.ndim == 2 else 0)
    values = np.asarray(styles, dtype=np.float64)
    if (base_rows >= 0).sum() > 1:
        groups = [np.sort(values[rows[rows >= 0]], axis=0) for rows in base_rows]
    else:
        groups = [np.sort(values, axis=0)]
    # sorted, so that sums run in the same order however the table is ordered
    every = np.sort(np.concatenate(groups), axis=0)
    middle = every.mean(axis=0)

    def over_pairs(rows: np.ndarray) -> np.ndarray:
        """Squared differences, summed over pairs of rows."""
        off = rows - middle
        return np.asarray(len(rows) * (off**2).sum(axis=0) - off.sum(axis=0) ** 2)

    pairs = len(every) ** 2 - sum(len(group) ** 2 for group in groups)
    between = over_pairs(every) - np.sort([over_pairs(group) for group in groups], axis=0).sum(axis=0)
    deviation = np.sqrt(np.clip(between, 0.0, None) / pairs) if pairs else every.std(axis=0)
    return np.where(deviation > 1e-6, deviation, 1.0)


def _distance(styles: np.ndarray) -> np.ndarray:
    """(..., n, K) standardised -> (..., n, n) distance, root of half the mean squared difference of the statistics.

    Not its square: one prompt whose seeds fall out would then hold most of the mean over prompts, and with the
    handful of prompts of a suite no interval of such a mean holds the truth.
    """
    if not styles.shape[-1]:
        return np.full((*styles.shape[:-1], styles.shape[-2]), np.nan)
    # through the Gram matrix
    square = (styles**2).sum(axis=-1)
    gram = styles @ np.swapaxes(styles, -1, -2)
    total = np.clip(square[..., :, None] + square[..., None, :] - 2 * gram, 0.0, None)
    return np.asarray(np.sqrt(total / (2 * styles.shape[-1])))


def _across_prompts(difference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cosine between the mean changes of different prompts, as pseudo-values (T, 1)."""
    present = mask.any(axis=1)
    count = np.maximum(mask.sum(axis=1), 1)[:, None]
    means = np.where(mask[..., None], difference, 0.0).sum(axis=1) / count
    return metric.pseudo_values(metric.cosines(means)[None], (present & (np.linalg.norm(means, axis=1) > 1e-5))[None])[
        0
    ][:, None]


def _means_apart(styles: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Distance between the prompts' mean styles, as pseudo-values (T, 1)."""
    present: np.ndarray = np.asarray(mask.any(axis=1))
    means = np.where(mask[..., None], styles, 0.0).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)[:, None]
    return metric.pseudo_values(_distance(means)[None], present[None])[0][:, None]


def _drift(style: np.ndarray, gram: np.ndarray, mask: np.ndarray, rows: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Drift of the masked pictures against the other seeds of their prompt; fills the cell column."""
    off_feature = 1.0 - metric.row_mean(gram, mask)
    enough = mask.sum(axis=1) >= 3
    residual = np.zeros_like(style)
    for p in np.flatnonzero(mask.any(axis=1)):
        residual[p] = style[p] - np.median(style[p][mask[p]], axis=0)
        middle = np.median(off_feature[p][mask[p]])
        off_feature[p] /= middle if middle > 1e-9 else np.nan
    judged = mask & enough[:, None]
    z = np.full(mask.shape, np.nan)
    z[judged] = metric.drift(residual[judged], off_feature[judged])
    column[rows[mask]] = z[mask]
    return z[mask]


def _seed_spread(features: np.ndarray, mask: np.ndarray) -> float:
    """Mean distance of two seeds of one prompt at weight 0: the yardstick of the LoRA's effect."""
    total, count = 0.0, 0
    for p in range(len(mask)):
        x = features[p][mask[p]]
        if len(x) >= 2:
            distance = np.sqrt(np.clip(2.0 - 2.0 * (x @ x.T), 0.0, None))[np.triu_indices(len(x), 1)]
            total, count = total + float(distance.sum()), count + distance.size
    return total / count if count else float("nan")


def _carlos_ceiling(base: np.ndarray, mask: np.ndarray, context: Context) -> float:
    """CARLoS consistency if each picture were a different reference: the mean over random assignments."""
    references = context.data.references
    if references is None or len(references) < 2:
        return float("nan")
    features = references.features.astype(np.float64)
    rng = np.random.default_rng(context.seed)
    values = []
    for p in range(len(mask)):
        x = base[p][mask[p]]
        size = min(len(x), len(features), 16)
        if size < 2:
            continue
        chosen = np.argsort(rng.random((32, len(features))), axis=1)[:, :size]
        values.append(
            metric.pair_mean(metric.cosines(features[chosen] - x[:size]), np.ones((32, size), dtype=bool)).mean()
        )
    return float(np.mean(values)) if values else float("nan")


def _reference_similarity(context: Context) -> float | None:
    references = context.data.references
    return metric.pairwise_similarity(references.features) if references is not None and len(references) >= 2 else None


def _reference_vendi(context: Context, vendi: np.ndarray) -> float | None:
    """Vendi score of as many references as there are seeds, so that like is compared with like."""
    references = context.data.references
    seeds = int(np.max((context.grid.base >= 0).sum(axis=1), initial=0)) or context.grid.rows.shape[2]
    if references is None or not np.isfinite(vendi).any():
        return None
    value = metric.expected_vendi(references.features, seeds, seed=context.seed)
    context.shared["vendi_reference"] = value
    return value
