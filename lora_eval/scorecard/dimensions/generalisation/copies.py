"""Copies of training pictures, pair by pair."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_eval.scorecard.dimensions.context import Context, Estimate, number
from lora_eval.scorecard.dimensions.generalisation import formulas
from lora_eval.scorecard.dimensions.shared import Copies
from lora_eval.statistics.intervals import LEVEL, wilson

NAME = "generalisation"
# the smallest of the parts counts: each has an interval at a level at which all hold at once in 95 % (Bonferroni)
PART_COUNT = 7
PART_LEVEL = 1.0 - (1.0 - LEVEL) / PART_COUNT


def miss(context: Context, measure: str, reason: str) -> None:
    """Add rows without a value, and a note, that say why a part was not measured.

    Args:
        measure: name of the measure.
        reason: what is missing, and what to add.
    """
    context.notes[f"{NAME}.{measure}"] = reason
    context.not_measured(NAME, measure, reason)


def find_copies(context: Context) -> None:
    """Find the copies of training pictures, before anything else is measured.

    Alignment leaves copies out: a copy ignores its prompt, but it counts against generalisation alone. A picture whose
    twin at weight 0 is a copy of the same training picture is none: the base model draws it without training.
    """
    context.evidence.setdefault(NAME, {})
    training, grid, data = context.data.training, context.grid, context.data
    if training is None or len(training) < 3:
        return miss(context, "copies", "no training pictures; name the folder the LoRA was trained on")
    if data.thumbs.ndim != 3 or min(data.thumbs.shape[1:]) < formulas.SSIM_WINDOW:
        return miss(context, "copies", "no thumbnails of the drawn pictures; embed the run again")
    references = data.references
    unseen = references.features if references is not None and references.held_out else None
    limits = formulas.copy_limits(training.features, training.thumbs, unseen)
    index, cosine, structure, copy = formulas.find_copies(
        data.features, data.thumbs, training.features, training.thumbs, limits
    )
    twins = np.full(len(copy), -1)
    found = grid.twins() >= 0
    twins[grid.rows[found]] = grid.twins()[found]
    own = (twins >= 0) & copy[np.maximum(twins, 0)] & (index == index[np.maximum(twins, 0)])
    by_chance = copy & own
    copy = copy & ~own
    context.columns.update(
        nn_train=cosine,
        nn_name=np.array([training.names[i] for i in index], dtype=object),
        nn_ssim=structure,
        copy=copy,
    )
    pairs: dict[str, list[dict[str, Any]]] = {}
    values = np.full((4, len(grid.conditions)), np.nan)
    base = grid.base[grid.base >= 0]
    chance = float(copy[base].mean()) if len(base) else 0.0
    for c, condition in enumerate(grid.conditions):
        rows = grid.rows[c][grid.rows[c] >= 0]
        hits = rows[copy[rows]]
        low, high = wilson(len(hits), len(rows))
        context.add(condition, NAME, "copies", Estimate(len(hits) / len(rows), (low, high), len(rows), chance))
        wide = wilson(len(hits), len(rows), PART_LEVEL)
        values[:, c] = 1.0 - len(hits) / len(rows), 1.0 - wide[1], 1.0 - wide[0], len(rows)
        order = hits[np.argsort(-structure[hits], kind="stable")]
        pairs[condition.key] = [
            {"image": context.image(int(r)), "training": training.names[int(index[r])],
             "cosine": number(cosine[r]), "ssim": number(structure[r])} for r in order[:50]
        ]  # fmt: skip
    context.shared.copies = Copies(copy, values)
    context.evidence[NAME].update(
        copies=pairs,
        copy_limits={"cosine": number(limits.feature), "ssim": number(limits.ssim)},
        alike_at_weight_0_too=int(by_chance.sum()),
    )
