"""Checkpoints at their best weight, with the test against the first."""

from __future__ import annotations

import math
from typing import Any

from lora_eval.scorecard.decision.standing import Standing
from lora_eval.scorecard.dimensions.context import number
from lora_eval.statistics.significance import holm, sign_flip_test


def entry(now: Standing, condition: int) -> dict[str, Any]:
    """A condition as one entry of the leaderboard or of the ties: where it is, and what it gains."""
    c, draws = now.grid.conditions[condition], now.draws
    # differences of cosines, however wide few prompts make the interval
    low, high = draws.interval(low=-2.0, high=2.0)
    return {
        "checkpoint": c.checkpoint, "step": c.step, "weight": c.weight, "measure": now.objective.name,
        "value": number(draws.estimate[condition]), "ci_low": number(low[condition]),
        "ci_high": number(high[condition]),
    }  # fmt: skip


def leaderboard(now: Standing) -> list[dict[str, Any]]:
    """Each checkpoint at its best weight, best first: its entry, p against the first, failed checks.

    ``p`` is that of the sign-flip test of the paired differences to the first, corrected over checkpoints (Holm). A
    checkpoint at which every weight fails a check is shown at its best weight all the same, after the others.
    """
    grid, first = now.grid, now.first
    best: list[int] = []
    for checkpoint in grid.checkpoints:
        mine = [i for i in grid.of(checkpoint) if grid.conditions[i].weight > 0]
        passed = [i for i in mine if not now.failed[i]] or mine
        if passed:
            best.append(now.best_of(passed))
    cube = now.objective.cube
    p = [math.nan if first is None or i == first else sign_flip_test(cube[first] - cube[i]) for i in best]
    advised = None if now.chosen is None else grid.conditions[now.chosen].checkpoint
    board = [
        {
            **entry(now, i),
            "p": number(value),
            "gates": now.failed[i],
            "tied": i == first or i in now.tied,
            "recommended": grid.conditions[i].checkpoint == advised,
        }
        for i, value in zip(best, holm(p), strict=True)
    ]
    return sorted(board, key=lambda one: (bool(one["gates"]), -_gain(one), str(one["checkpoint"])))


def _gain(one: dict[str, Any]) -> float:
    return -math.inf if one["value"] is None else float(one["value"])
