"""Prompt alignment of a run, compared with the base model: the margin between prompts, elements, negative prompt."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_eval.scorecard.dimensions.alignment import formulas
from lora_eval.scorecard.dimensions.context import Context, Series, number
from lora_eval.scorecard.dimensions.shared import PromptMargin
from lora_eval.scorecard.grid import OPEN_ROLES
from lora_eval.statistics.intervals import wilson

NAME = "alignment"
# cosine by which the own prompt must beat the others at weight 0, or the encoder cannot judge these prompts
MARGIN_NEEDED = 0.005
# an element that the base model itself does not draw cannot be lost by the LoRA
BASE_WINS = 0.75
NO_BASE = "no picture at weight 0; draw the same prompts and seeds without the LoRA"
NO_TEXTS = "the prompts' texts were not encoded; embed the run again"
BASE_DEAF = (
    "by this encoder the base model's pictures do not fit their own prompts either; use prompts the base model can "
    "draw, or another encoder"
)
ONE_PROMPT = "one prompt; add prompts that ask for something else, so that chance is known"


def measure(context: Context) -> None:
    """Score: margin kept, ``(t_w - o_w) / (t_0 - o_0)``, t the cosine with the own text, o with the other prompts'.

    1 = the picture fits its own prompt better than the others by as much as the base model's picture does, 0 = it could
    belong to any of them. The other prompts are those whose pictures are judged: prompts are then exchangeable, and
    resampling them includes all of the error. A text without pictures would be the same in all resamples.
    """
    data, grid = context.data, context.grid
    context.evidence[NAME] = {"encoder": data.encoder}
    own_text = [data.prompts[name].class_text if name in data.prompts else "" for name in grid.prompts]
    texts = sorted({text for text in own_text if text in data.texts})
    if not texts:
        for name in ("clip_t", "elements_kept", "negative_effect", "score"):
            context.not_measured(NAME, name, data.notes.get("texts", NO_TEXTS))
        return
    matrix = np.stack([data.texts[text] for text in texts]).astype(np.float64)
    similarity = data.features.astype(np.float64) @ matrix.T
    n = len(data.cells)
    own = np.full(n, -1)
    for p, text in enumerate(own_text):
        if text in data.texts:
            for rows in (grid.rows[:, p], grid.base[p]):
                own[rows[rows >= 0]] = texts.index(text)
    known = own >= 0
    clip_t = np.full(n, np.nan)
    clip_t[known] = similarity[known, own[known]]
    margin, rank = np.full(n, np.nan), np.full(n, np.nan)
    prompts = grid.prompts_of(OPEN_ROLES) or grid.core()
    if len(texts) > 1:
        rank[known] = formulas._retrieval_rank(similarity[known], own[known])
    judging = sorted({texts.index(own_text[p]) for p in prompts if own_text[p] in data.texts})
    if len(judging) < 2:
        judging = list(range(len(texts)))
    # columns of the others' texts, and which of them is a picture's own, -1 for none
    against = similarity[:, judging]
    mine = np.where(np.isin(own, judging), np.searchsorted(judging, own), -1)
    if len(judging) > 1:
        counted = mine >= 0
        others = (against.sum(axis=1) - np.where(counted, clip_t, 0.0)) / (len(judging) - counted)
        margin = clip_t - others
    # a copied picture ignores its prompt, but that counts against generalisation
    copies = context.shared.copies
    judged = np.ones(n) if copies is None else np.where(copies.copied, np.nan, 1.0)
    context.columns.update(
        clip_t=clip_t, clip_t_delta=context.difference_column(clip_t), clip_t_margin=margin, retrieval_rank=rank
    )
    cube = context.paired(clip_t * judged) if context.has_base else grid.cube(clip_t)
    here, base = context.draws(cube, prompts), context.draws(context.paired_base(clip_t, cube), prompts)
    context.add_series(NAME, "clip_t", Series(here, base.estimate, bounds=(-1.0, 1.0)))
    delta = here.map(lambda w, zero: w - zero, base)
    context.add_series(NAME, "clip_t_delta", Series(delta, 0.0, bounds=(-2.0, 2.0)))
    if len(texts) > 1:
        cube = context.paired(rank * judged) if context.has_base else grid.cube(rank)
        rank_0 = context.draws(context.paired_base(rank, cube), prompts).estimate
        ranks = Series(context.draws(cube, prompts), rank_0, bounds=(1.0, float(len(texts))))
        context.add_series(NAME, "retrieval_rank", ranks)
    own_margin = context.paired(margin * judged)
    there = context.paired_base(margin, own_margin)
    rows, twins = grid.rows, np.broadcast_to(grid.base, grid.rows.shape)
    kept = context.draws(own_margin - formulas.as_others(against, mine, rows, own_margin, prompts), prompts).map(
        lambda w, zero: np.where(zero < MARGIN_NEEDED, np.nan, w / zero),
        context.draws(there - formulas.as_others(against, mine, twins, there, prompts), prompts),
    )
    reason = ""
    if not context.has_base:
        reason = NO_BASE
    elif len(texts) < 2:
        reason = ONE_PROMPT
    verdicts = []
    for c in range(len(grid.conditions)):
        if reason:
            verdicts.append(f"not measured: {reason}")
        elif not np.isfinite(own_margin[c][prompts]).any():
            verdicts.append("not measured: every picture is a copy of a training picture, see generalisation")
        elif not np.isfinite(kept.estimate[c]):
            verdicts.append(f"not measured: {BASE_DEAF}")
        else:
            verdicts.append("")
    context.add_series(NAME, "score", Series(kept, 1.0, score=kept.estimate, verdicts=verdicts))
    context.shared.prompt_margin = PromptMargin(kept, margin * judged)
    context.evidence[NAME].update(
        prompts=[grid.prompts[p] for p in prompts],
        interval_scope=kept.scope,
        elements=_elements(context, judged),
        negative=_negative(context),
        by_prompt=_by_prompt(context, clip_t, prompts),
    )


def _by_prompt(context: Context, clip_t: np.ndarray, prompts: list[int]) -> dict[str, dict[str, Any]]:
    """Mean change of CLIP-T of each prompt, by condition.

    Args:
        clip_t: (N,) cosines with the own text; prompts: indices of the prompts.
    """
    with np.errstate(invalid="ignore"):
        delta = context.grid.cube(context.difference_column(clip_t))
        valid = np.isfinite(delta)
        mean = np.where(valid, delta, 0.0).sum(axis=2) / np.maximum(valid.sum(axis=2), 1)
    return {
        condition.key: {context.grid.prompts[p]: number(mean[c, p]) for p in prompts if valid[c, p].any()}
        for c, condition in enumerate(context.grid.conditions)
    }


def _elements(context: Context, own: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Rows and evidence of the elements of prompts, each tested against captions in which it is swapped (foils).

    Args:
        own: (N,) 1 for pictures that count, NaN for copies.

    Returns:
        By condition, for each element: in how many pictures it beats all its foils, with the LoRA and at weight 0.
    """
    data, grid = context.data, context.grid
    per_condition: dict[str, list[dict[str, Any]]] = {condition.key: [] for condition in grid.conditions}
    n = len(data.cells)
    won, tried = np.zeros(n), np.zeros(n)
    share = np.full((len(grid.conditions), len(grid.prompts), grid.rows.shape[2]), np.nan)
    share_0 = share.copy()
    features = data.features.astype(np.float64)
    judged: list[tuple[int, np.ndarray]] = []
    for p, name in enumerate(grid.prompts):
        if name not in data.prompts or grid.roles[p] == "negative":
            continue
        kept_here, kept_base = [], []
        for element in data.prompts[name].elements:
            foils = [foil for foil in element.foils if foil in data.texts]
            if element.text not in data.texts or not foils:
                continue
            right = data.texts[element.text].astype(np.float64)
            wrong = np.stack([data.texts[foil] for foil in foils]).astype(np.float64)
            rows = np.concatenate([grid.rows[:, p].ravel(), grid.base[p]])
            rows = rows[rows >= 0]
            wins = np.full(n, np.nan)
            wins[rows] = formulas._foil_wins(features[rows] @ right, features[rows] @ wrong.T)
            all_won = np.where(np.isfinite(wins), wins == 1.0, False)
            won[rows] += all_won[rows]
            tried[rows] += 1
            plane = _nan_mean(grid.base_plane(wins)[p])
            base_all = grid.base_plane(all_won.astype(float))[p]
            for c, condition in enumerate(grid.conditions):
                mine = grid.rows[c, p]
                mine = mine[mine >= 0]
                if not len(mine):
                    continue
                hits = int(all_won[mine].sum())
                low, high = wilson(hits, len(mine))
                per_condition[condition.key].append({
                    "prompt": name, "element": element.name, "won": hits, "of": len(mine),
                    "ci_low": number(low), "ci_high": number(high), "chance": number(1.0 / (1 + len(foils))),
                    "weight_0_won": int(np.nansum(base_all)), "weight_0_of": int(np.isfinite(base_all).sum()),
                    "foils_beaten": number(np.mean(wins[mine])), "weight_0_foils_beaten": number(plane),
                })  # fmt: skip
            if np.isfinite(plane) and plane >= BASE_WINS:
                kept_here.append(context.paired(wins * own)[:, p])
                kept_base.append(context.paired_base(wins, context.paired(wins * own))[:, p])
        if kept_here:
            share[:, p] = np.mean(kept_here, axis=0)
            share_0[:, p] = np.mean(kept_base, axis=0)
            judged.append((p, share[:, p]))
    if tried.any():
        with np.errstate(invalid="ignore"):
            context.columns["elements_won"] = np.where(tried > 0, won / tried, np.nan)
    if not judged:
        reason = "no prompt has foils; add elements with foils to a composition prompt" if not tried.any() else (
            "the base model itself does not draw any tested element better than its foils")  # fmt: skip
        context.not_measured(NAME, "elements_kept", reason)
        return per_condition
    prompts = [p for p, _ in judged]
    here, base = context.draws(share, prompts), context.draws(share_0, prompts)
    change = here.map(lambda w, zero: w - zero, base)
    beaten = Series(here, base.estimate, bounds=(0.0, 1.0), interval="widened")
    context.add_series(NAME, "foils_beaten", beaten)
    beaten_delta = Series(change, 0.0, bounds=(-1.0, 1.0), interval="widened")
    context.add_series(NAME, "foils_beaten_delta", beaten_delta)
    hits_each, tries = (grid.cube(np.where(tried > 0, values, np.nan)) for values in (won, tried))
    with_elements = [p for p in range(len(grid.prompts)) if np.isfinite(tries[:, p]).any()]
    rate = context.draws(hits_each, with_elements).map(lambda a, b: a / b, context.draws(tries, with_elements))
    zero = np.array([sum(e["weight_0_won"] for e in found) / max(1, sum(e["weight_0_of"] for e in found))
                     for found in (per_condition[c.key] for c in grid.conditions)])  # fmt: skip
    context.add_series(NAME, "element_win_rate", Series(rate, zero, interval="wilson"))
    return per_condition


def _nan_mean(values: np.ndarray) -> float:
    """Mean of the finite values, NaN without any."""
    valid = values[np.isfinite(values)]
    return float(valid.mean()) if valid.size else float("nan")


def _negative(context: Context) -> dict[str, Any]:
    """Rows and evidence of the negative prompt: the change of its concept's cosine against the twin without it.

    Returns:
        By condition, the change with the LoRA and at weight 0, paired by seed.
    """
    data, grid = context.data, context.grid
    result: dict[str, Any] = {}
    effect = np.full(grid.rows.shape, np.nan)
    effect_0 = np.full(grid.rows.shape, np.nan)
    prompts = []
    for p in grid.prompts_of(("negative",)):
        prompt = data.prompts.get(grid.prompts[p])
        if prompt is None or not prompt.negative_concept or prompt.negative_concept not in data.texts:
            continue
        twins = [
            q for q, name in enumerate(grid.prompts)
            if q != p and name in data.prompts and data.prompts[name].text == prompt.text
            and not data.prompts[name].negative_concept and grid.seeds[q] == grid.seeds[p]
        ]  # fmt: skip
        if not twins:
            continue
        presence = data.features.astype(np.float64) @ data.texts[prompt.negative_concept].astype(np.float64)
        here, plane = grid.cube(presence), grid.base_plane(presence)
        effect[:, p] = here[:, p] - here[:, twins[0]]
        effect_0[:, p] = np.where(np.isfinite(effect[:, p]), plane[p] - plane[twins[0]], np.nan)
        prompts.append(p)
    if not prompts:
        reason = (
            "no negative prompt with a twin without it"
            if grid.prompts_of(("negative",))
            else "the suite has no negative prompt"
        )
        context.not_measured(NAME, "negative_effect", f"{reason}; draw the same prompt and seeds with and without it")
        return result
    draws, base = context.draws(effect, prompts), context.draws(effect_0, prompts)
    context.add_series(NAME, "negative_effect", Series(draws, base.estimate, bounds=(-2.0, 2.0)))
    low, high = draws.interval()
    for c, condition in enumerate(grid.conditions):
        result[condition.key] = {
            "change": number(draws.estimate[c]), "ci_low": number(low[c]), "ci_high": number(high[c]),
            "weight_0": number(base.estimate[c]), "works": bool(high[c] < 0) if np.isfinite(high[c]) else None,
        }  # fmt: skip
    return result
