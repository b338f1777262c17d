"""Consistency of a run: CARLoS, style spread, similarity beside diversity, drifting pictures by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_eval.scorecard.dimensions.consistency import formulas
from lora_eval.scorecard.dimensions.context import Context, Estimate, Series, number
from lora_eval.scorecard.dimensions.shared import Variety
from lora_eval.scorecard.grid import OPEN_ROLES
from lora_eval.statistics.bootstrap import Draws

NAME = "consistency"
# a picture drifts above this modified z
DRIFTING = 4.0
# a change smaller than this share of the distance between two seeds is no effect
NO_EFFECT = 0.1
# a ceiling below this cosine cannot be divided by
CEILING_NEEDED = 0.02
COSINE = (-1.0, 1.0)
POSITIVE = (0.0, np.inf)


class _Values:
    """Values of the pictures of the prompts with the trigger, each array (C, P, M) or, of a whole prompt, (C, P, 1)."""

    def __init__(self, conditions: int, prompts: int, seeds: int) -> None:
        def cube(width: int) -> np.ndarray:
            return np.full((conditions, prompts, width), np.nan)

        self.carlos, self.strength, self.drift = cube(seeds), cube(seeds), cube(seeds)
        self.similarity, self.similarity_0 = cube(seeds), cube(seeds)
        self.style, self.style_0 = cube(seeds), cube(seeds)
        self.carlos_prompts, self.style_prompts, self.style_prompts_0 = cube(1), cube(1), cube(1)
        self.vendi, self.vendi_0 = cube(1), cube(1)
        # variance along the main line of what seeds change, and its share of all variance
        self.lines, self.lines_0 = np.full((2, conditions, 2), np.nan)


def measure(context: Context) -> None:
    """Score: CARLoS consistency of the pictures over what the references would reach in their place.

    0 = the change differs from seed to seed like noise, 1 = as alike as if every picture had been replaced by one of
    the references, a different one each. Without references 1 = the same change at every seed. Where the 95 % interval
    of the ratio of style spreads lies above 1, its lower end divides the score: pictures that the LoRA makes less
    alike than the base model's are not consistent.
    """
    grid, data = context.grid, context.data
    prompts = grid.prompts_of(OPEN_ROLES) or grid.core()
    every = list(range(len(prompts)))
    values = _Values(len(grid.conditions), len(prompts), grid.rows.shape[2])
    columns = {name: np.full(len(data.cells), np.nan) for name in ("effect", "carlos", "drift_z")}
    base_rows = grid.base[prompts]
    base_features = data.features[np.maximum(base_rows, 0)].astype(np.float64)
    scale = formulas.style_scale(data.styles, base_rows)
    drift_base, drifting = _fill(context, prompts, scale, values, columns)
    context.columns.update(columns)

    carlos = context.draws(values.carlos, every)
    strength = context.draws(values.strength, every)
    seed_spread = formulas.seed_spread(base_features, base_rows >= 0)
    ceiling = _carlos_ceiling(base_features, base_rows >= 0, context)
    style, style_0 = (context.draws(cube, every).positive() for cube in (values.style, values.style_0))
    spread = style.map(lambda w, zero: w / zero, style_0)
    reference_vendi = _reference_vendi(context, values.vendi)
    context.shared.variety = Variety(values.vendi, values.vendi_0, seed_spread, reference_vendi)

    def add(name: str, series: Series) -> None:
        context.add_series(NAME, name, series)

    add("carlos_consistency", Series(carlos, 0.0, ceiling, bounds=COSINE))
    add("carlos_strength", Series(strength, seed_spread, bounds=(0.0, 2.0)))
    add("carlos_consistency_prompts", Series(context.draws(values.carlos_prompts, every), 0.0, bounds=COSINE))
    similar_0 = context.draws(values.similarity_0, every).estimate
    similar = Series(context.draws(values.similarity, every), similar_0, _reference_similarity(context), bounds=COSINE)
    add("similarity_seeds", similar)
    vendi_0 = context.draws(values.vendi_0, every).estimate
    add("diversity_vendi", Series(context.draws(values.vendi, every), vendi_0, reference_vendi))
    reference_spread = _reference_spread(context, scale)
    add("style_spread_seeds", Series(style, style_0.estimate, reference_spread, bounds=POSITIVE))
    across = context.draws(values.style_prompts, every).positive()
    across_0 = context.draws(values.style_prompts_0, every).estimate
    add("style_spread_prompts", Series(across, across_0, reference_spread, bounds=POSITIVE))
    add("style_spread_ratio", Series(spread, 1.0, bounds=POSITIVE))
    drift = context.draws(values.drift, every)
    few = "not measured: fewer than five pictures; draw more seeds"
    add("drift_share", Series(drift, drift_base, verdicts=["" if n else few for n in drift.n], interval="wilson"))
    for c, condition in enumerate(grid.conditions):
        (along, share), (along_0, share_0), n = values.lines[c], values.lines_0[c], int(carlos.n[c])
        ratio = along / along_0 if along_0 > 0 else np.nan
        context.add(condition, NAME, "split_ratio", Estimate(ratio, n=n, baseline=1.0))
        context.add(condition, NAME, "split_share", Estimate(share, n=n, baseline=share_0))
    _score(context, carlos, strength, spread, ceiling)
    context.evidence[NAME] = {
        "drifting": drifting,
        "drifting_above_z": DRIFTING,
        "seed_spread_at_weight_0": number(seed_spread),
        "carlos_ceiling_from_references": number(ceiling),
        "prompts": [grid.prompts[p] for p in prompts],
        "interval_scope": carlos.scope,
    }


def _fill(
    context: Context, prompts: list[int], scale: np.ndarray, values: _Values, columns: dict[str, np.ndarray]
) -> tuple[float | None, dict[str, list[dict[str, Any]]]]:
    """Values of every condition, and the columns of the cells.

    Args:
        prompts: indices of the prompts that are measured.
        scale: (K,) unit of each style statistic.
        values, columns: are filled.

    Returns:
        The share of pictures of weight 0 that drift, None where it is not known; and the drifting pictures by
        condition, the farthest first.
    """
    grid, data = context.grid, context.data
    styles = np.asarray(data.styles, dtype=np.float64) / scale if data.styles.size else np.zeros((len(data.cells), 0))
    base_rows = grid.base[prompts]
    base_features = data.features[np.maximum(base_rows, 0)].astype(np.float64)
    base_gram = base_features @ np.swapaxes(base_features, -1, -2)
    base_styles = styles[np.maximum(base_rows, 0)]
    base_distances = formulas.style_distances(base_styles)
    base_z = _drift(base_styles, base_gram, base_rows >= 0, base_rows, columns["drift_z"])
    drift_base = float(np.mean(base_z[np.isfinite(base_z)] > DRIFTING)) if np.isfinite(base_z).any() else None
    drifting: dict[str, list[dict[str, Any]]] = {}
    for c, condition in enumerate(grid.conditions):
        rows = grid.rows[c][prompts]
        mask = rows >= 0
        features = data.features[np.maximum(rows, 0)].astype(np.float64)
        gram = features @ np.swapaxes(features, -1, -2)
        both = mask & (base_rows >= 0)
        compared = both if both.any() else mask
        difference = np.where(both[..., None], features - base_features, 0.0)
        length = np.linalg.norm(difference, axis=-1)
        moved = both & (length > 1e-5)
        cosine = formulas.cosines(difference)
        values.strength[c] = np.where(both, length, np.nan)
        columns["effect"][rows[both]] = length[both]
        if both.any() and moved.sum() >= both.sum() / 2:
            values.carlos[c] = formulas.pseudo_values(cosine, moved)
            columns["carlos"][rows[moved]] = formulas.row_mean(cosine, moved)[moved]
            values.carlos_prompts[c] = formulas.across_prompts(difference, moved)
        values.similarity[c] = formulas.pseudo_values(gram, compared)
        values.similarity_0[c] = formulas.pseudo_values(base_gram, both)
        values.vendi[c, :, 0] = formulas.vendi_of_sets(gram, compared)
        values.vendi_0[c, :, 0] = formulas.vendi_of_sets(base_gram, both)
        style = styles[np.maximum(rows, 0)]
        values.style[c] = formulas.pseudo_values(formulas.style_distances(style), both)
        values.style_0[c] = formulas.pseudo_values(base_distances, both)
        values.style_prompts[c] = formulas.means_apart(style, both)
        values.style_prompts_0[c] = formulas.means_apart(base_styles, both)
        values.lines[c] = formulas.split(features, both)
        values.lines_0[c] = formulas.split(base_features, both)
        z = _drift(style, gram, mask, rows, columns["drift_z"])
        # a prompt and seed that drifts at weight 0 already does not drift because of the LoRA
        twin = base_rows[mask]
        odd = (twin >= 0) & (columns["drift_z"][np.maximum(twin, 0)] > DRIFTING)
        z = np.where(odd, 0.0, z)
        values.drift[c][mask] = np.where(np.isfinite(z), z > DRIFTING, np.nan)
        order = np.argsort(-np.where(np.isfinite(z), z, -1.0), kind="stable")
        drifting[condition.key] = [
            {"image": context.image(int(rows[mask][i])), "z": number(z[i])} for i in order[:20] if z[i] > DRIFTING
        ]
    return drift_base, drifting


def _score(context: Context, carlos: Draws, strength: Draws, spread: Draws, ceiling: float) -> None:
    """Rows of the score: CARLoS consistency over the ceiling and over the excess of style spread."""
    low, _ = spread.interval()
    worse = np.where(np.isfinite(low) & (low > 1.0), low, 1.0)
    top = ceiling if np.isfinite(ceiling) and ceiling > CEILING_NEEDED else 1.0
    _, effect = strength.interval()
    effect = np.where(np.isfinite(effect), effect, strength.estimate)
    assert context.shared.variety is not None
    with np.errstate(invalid="ignore"):
        silent = effect < NO_EFFECT * context.shared.variety.seed_spread
    score = carlos.map(lambda value: np.where(silent, np.nan, value / top / worse))
    verdicts = []
    for c in range(len(context.grid.conditions)):
        if not context.has_base:
            verdicts.append("not measured: no picture at weight 0; draw the same prompts and seeds without the LoRA")
        elif context.grid.rows.shape[2] < 2:
            verdicts.append("not measured: one seed; draw at least 4 seeds of every prompt")
        elif not np.isfinite(score.estimate[c]):
            verdicts.append(
                "not measured: the pictures hardly differ from weight 0, so there is no change to be consistent"
            )
        else:
            verdicts.append("")
    context.add_series(NAME, "score", Series(score, 0.0, 1.0, score.estimate, verdicts))


def _drift(style: np.ndarray, gram: np.ndarray, mask: np.ndarray, rows: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Modified z of each picture against the other seeds of its prompt; prompts are pooled.

    Args:
        style: (P, M, K) standardised style statistics; gram: (P, M, M) cosines of the features.
        mask: (P, M) which pictures exist; rows: (P, M) their rows of the cells.
        column: (N,) is filled at these rows.

    Returns:
        z of the pictures in the mask, flat; NaN where a prompt has fewer than three pictures, or all have fewer than 5.
    """
    off_feature = 1.0 - formulas.row_mean(gram, mask)
    enough = mask.sum(axis=1) >= 3
    residual = np.zeros_like(style)
    for p in np.flatnonzero(mask.any(axis=1)):
        residual[p] = style[p] - np.median(style[p][mask[p]], axis=0)
        middle = np.median(off_feature[p][mask[p]])
        off_feature[p] /= middle if middle > 1e-9 else np.nan
    judged = mask & enough[:, None]
    z = np.full(mask.shape, np.nan)
    z[judged] = formulas.drift(residual[judged], off_feature[judged])
    column[rows[mask]] = z[mask]
    return z[mask]


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
        cosine = formulas.cosines(features[chosen] - x[:size])
        values.append(formulas.pair_mean(cosine, np.ones((32, size), dtype=bool)).mean())
    return float(np.mean(values)) if values else float("nan")


def _reference_similarity(context: Context) -> float | None:
    """Mean cosine of the references among themselves, None with fewer than two."""
    references = context.data.references
    return (
        formulas.pairwise_similarity(references.features) if references is not None and len(references) >= 2 else None
    )


def _reference_spread(context: Context, scale: np.ndarray) -> float | None:
    """Mean style distance of the references among themselves, None with fewer than two."""
    references = context.data.references
    if references is None or len(references) < 2 or not context.data.styles.size:
        return None
    off = formulas.style_distances(references.styles.astype(np.float64)[None] / scale)
    return float(formulas.pair_mean(off, np.ones((1, len(references)), dtype=bool))[0])


def _reference_vendi(context: Context, vendi: np.ndarray) -> float | None:
    """Vendi score of as many references as there are seeds, so that sets of equal size are compared."""
    references = context.data.references
    seeds = int(np.max((context.grid.base >= 0).sum(axis=1), initial=0)) or context.grid.rows.shape[2]
    if references is None or not np.isfinite(vendi).any():
        return None
    return formulas.expected_vendi(references.features, seeds, seed=context.seed)
