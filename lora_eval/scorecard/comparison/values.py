"""What is compared of one side: a number for each picture (or prompt) from the run folder alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lora_eval.scorecard.comparison.runs import Key, Side, number
from lora_eval.scorecard.dimensions.consistency.formulas import vendi
from lora_eval.statistics.ranks import spearman

# beyond this many robust deviations a picture left weight 0's spread (see measures.strength)
LEFT_SPREAD = 3.0
Values = Callable[[Side, list[Key]], dict[Key, float]]


def column(name: str) -> Values:
    """A metric column of ``cells.csv`` as it stands."""
    return lambda side, keys: {key: number(side.pictures[key], name) for key in keys}


def agreement(side: Side, keys: list[Key]) -> dict[Key, float]:
    """CARLoS consistency as jackknife pseudo-values, so that seeds of a prompt can be resampled.

    The table has each picture's mean cosine to the other seeds, and every cosine is in two of these. The
    pseudo-values (see ``metrics.consistency.pseudo_values``) undo that and have the same mean. Two seeds
    have one cosine: one number a prompt.
    """
    result: dict[Key, float] = {}
    for prompt in sorted({key[:2] for key in keys}):
        means = {key: number(row, "carlos") for key, row in side.pictures.items() if key[:2] == prompt}
        means = {key: value for key, value in means.items() if math.isfinite(value)}
        m, mean = len(means), math.fsum(means.values()) / max(len(means), 1)
        if m == 2:
            result[min(key for key in keys if key[:2] == prompt)] = mean
        elif m > 2:
            result.update((k, m * mean - (m - 1) * (m * mean - 2.0 * v) / (m - 2)) for k, v in means.items())
    return result


def distortion(side: Side, keys: list[Key]) -> dict[Key, float]:
    """How far the picture's pixel statistics left weight 0's spread; inside it nothing is lost or won."""
    return {
        key: max(0.0, z - LEFT_SPREAD) for key in keys if np.isfinite(z := number(side.pictures[key], "distortion_z"))
    }


def diversity(side: Side, keys: list[Key]) -> dict[Key, float]:
    """Vendi score of each prompt's draws, one number a prompt; more than weight 0's own counts for nothing."""
    result: dict[Key, float] = {}
    for prompt in sorted({key[:2] for key in keys}):
        draws = sorted(key for key in keys if key[:2] == prompt)
        stacks = []
        for rows in (side.pictures, side.base):
            hashes = [side.run.hash_of(rows[key]) for key in draws if key in rows]
            stacks.append([side.run.features[one] for one in hashes if one in side.run.features])
        if len(draws) > 1 and len(stacks[0]) == len(draws):
            here = vendi(np.stack(stacks[0]))
            result[draws[0]] = min(here, vendi(np.stack(stacks[1]))) if len(stacks[1]) == len(draws) else here
    return result


def leak(side: Side, keys: list[Key]) -> dict[Key, float]:
    """Length of the feature's change from weight 0, 0 to 2 (see ``effect`` in measure)."""
    result: dict[Key, float] = {}
    for key in keys:
        found = [
            side.run.features.get(side.run.hash_of(rows[key])) for rows in (side.pictures, side.base) if key in rows
        ]
        if len(found) == 2 and found[0] is not None and found[1] is not None:
            result[key] = float(np.linalg.norm(found[0].astype(np.float64) - found[1]))
    return result


def response(weights: list[float]) -> Values:
    """Rank correlation of likeness gained with the weight, picture by picture (see metrics.strength)."""

    def values(side: Side, keys: list[Key]) -> dict[Key, float]:
        tables = [side.base if weight == 0 else side.run.rows[side.checkpoint, weight] for weight in weights]
        gains = np.array([[number(table.get(key), "clip_i_gain") for table in tables] for key in keys])
        return dict(zip(keys, map(float, spearman(np.array(weights), gains)), strict=True))

    return values
