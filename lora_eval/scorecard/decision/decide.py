"""Which checkpoint, which weight, and how sure that is.

The rule, in full:

1. **Gates** (:mod:`lora_eval.scorecard.decision.gates`) put aside what must not be used.
2. **Rank.** What is left is ranked by the likeness gained over weight 0 (CLIP-I on all prompts with the trigger,
   paired by prompt and seed). Without references it is the movement of the picture, and the verdict says so.
   Not by the lower end of its interval: prompts differ far more from each other than weights do, so that the
   lower end would favour the weight that does least on every prompt.
3. **Ties.** A candidate ties with the first when the paired bootstrap interval of their difference contains 0
   and it reaches nine tenths of the first's gain, or when it comes within a fiftieth of it.

   - Of the checkpoints that tie the latest is taken whose loss curve is sound, converged or still falling, and that
     keeps as much of the prompt's margin as the first (a twentieth counts as nothing): what likeness cannot tell
     apart, more training that did no harm has mostly made better. Where no loss history says so, the earliest
     within a fiftieth of the first.
   - Of its weights the lowest within a hundredth of its best, each worth its likeness times the fourth root of the
     share of the prompt's margin that it keeps: what loses a tenth of the prompt must come a fortieth nearer, and
     what is as good costs less. By the attribute reader of the validity bench that weight is the best one more often
     than the one of most likeness is, and more often than with the root or the whole of that share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_eval.scorecard.data import DIMENSIONS, Dimension, Measurement, RunData, Scorecard
from lora_eval.scorecard.decision.advice import advise
from lora_eval.scorecard.decision.findings import Rows, find, index_rows
from lora_eval.scorecard.decision.gates import gate_notes, shut_gates
from lora_eval.scorecard.decision.verdicts import describe
from lora_eval.scorecard.dimensions.context import number
from lora_eval.scorecard.grid import TRIGGERED_ROLES, Condition, Grid, grid_of
from lora_eval.statistics.bootstrap import Draws, balanced_means, resample
from lora_eval.statistics.significance import holm, sign_flip_test

TIE_GAIN = 0.9
# as good as the best
EQUAL_GAIN = 0.98
# of weights: as much worth as the best, and what the prompt counts beside likeness
EQUAL_WORTH = 0.99
PROMPT_POWER = 0.25
# a difference of the margin kept that is none
EQUAL_MARGIN = 0.05
# score of a loss curve that is converged (1) or still falling (.6); see measures/curve.py
SOUND_CURVE = 0.6


@dataclass(frozen=True)
class _Objective:
    """What candidates are ranked by: draws (C,), the pictures' values (C, P, M), and its name."""

    draws: Draws
    cube: np.ndarray
    name: str


@dataclass(frozen=True)
class Standing:
    """Who leads: indices into ``grid.conditions``; ``shut`` names the gates of each condition.

    ``first`` gains most, ``tied`` cannot be told from it, ``chosen`` is advised; None when no condition is
    usable. ``gain`` is what is ranked by, -inf where it was not measured, ``worth`` the same with the prompt
    considered, by which weights of one checkpoint are chosen.
    """

    grid: Grid
    rows: Rows
    objective: _Objective
    shut: list[list[str]]
    candidates: list[int]
    gain: np.ndarray
    worth: np.ndarray
    first: int | None
    tied: list[int]
    chosen: int | None

    @property
    def draws(self) -> Draws:
        """Draws (C,) of what is ranked by."""
        return self.objective.draws

    def advised_of(self, conditions: list[int]) -> int:
        """The one that would be advised if only these weights of one checkpoint could be."""
        return _lowest_equal(self.grid, self.worth, conditions)


def standing(data: RunData, measurement: Measurement) -> Standing:
    """Gates, rank and ties of a measured run."""
    grid = grid_of(data)
    rows = index_rows(measurement)
    objective = _objective(grid, measurement)
    shut = shut_gates(grid, rows)
    gain = np.where(np.isfinite(objective.draws.estimate), objective.draws.estimate, -np.inf)
    candidates = [i for i, c in enumerate(grid.conditions) if c.weight > 0 and np.isfinite(gain[i])]
    usable = [i for i in candidates if not shut[i]]
    first = max(usable, key=lambda i: (gain[i], -i)) if usable else None
    tied = _ties(objective, first, usable) if first is not None else []
    kept = np.array([_margin_kept(grid, rows, i) for i in range(len(grid.conditions))])
    # less of a loss is no gain
    worth = np.where(gain > 0, gain * np.clip(kept, 0.0, None) ** PROMPT_POWER, gain)
    chosen = None
    if first is not None:
        chosen = _lowest_equal(grid, worth, _of_checkpoint(grid, rows, gain, usable, first, tied))
    return Standing(grid, rows, objective, shut, candidates, gain, worth, first, tied, chosen)


def decide(data: RunData, measurement: Measurement) -> Scorecard:
    """Decide on a measured run.

    Args:
        data: the run that was measured.
        measurement: what :func:`lora_eval.scorecard.dimensions.measure.measure` gave for it.

    Returns:
        Scorecard: the verdict, the six dimensions at the recommended checkpoint and weight (at the
        least bad one when none is usable), advice, and which gates shut.
    """
    now = standing(data, measurement)
    grid, rows, objective, shut = now.grid, now.rows, now.objective, now.shut
    candidates, first, tied, chosen = now.candidates, now.first, now.tied, now.chosen
    shown = chosen if chosen is not None else _least_bad(grid, candidates, now.gain)
    gated = dict(zip(grid.conditions, shut, strict=True))
    free = _free(grid, candidates, now.gain, shown)
    dimensions = {
        name: describe(name, measurement, rows, grid.conditions[shown], gated, grid.conditions[free])
        for name in DIMENSIONS
    }
    names = {gate for i in candidates for gate in shut[i]} if chosen is None else set()
    where = grid.conditions[chosen] if chosen is not None else None
    return Scorecard(
        verdict=_sentence(grid, chosen, shown, tied, first, shut, dimensions, objective, rows),
        checkpoint=where.checkpoint if where else None,
        weight=where.weight if where else None,
        tie=[
            _entry(grid, objective, i) for i in sorted({*tied, *([first] if first is not None else [])}) if i != chosen
        ],
        dimensions=dimensions,
        advice=advise(dimensions, sorted(names), len(grid.checkpoints)),
        gates=gate_notes(grid, shut),
        leaderboard=_leaderboard(now),
    )


def _objective(grid: Grid, measurement: Measurement) -> _Objective:
    cells = measurement.cell_metrics
    name, column = "likeness gained", "clip_i_gain"
    if column not in cells.columns or not np.isfinite(cells[column].to_numpy(dtype=float)).any():
        name, column = "movement", "effect"
    prompts = grid.prompts_of(TRIGGERED_ROLES) or grid.core()
    cube = grid.cube(cells[column].to_numpy(dtype=float))[:, prompts]
    draws = resample(cube, measurement.resamples, measurement.seed)
    there = np.isfinite(cube)
    if (there != there.any(axis=0)).any():
        # an adaptive sweep gives some conditions more seeds than others
        off = balanced_means(cube) - draws.estimate
        draws = draws.map(lambda mean: mean + off)
    return _Objective(draws, cube, name)


def _of_checkpoint(
    grid: Grid, rows: Rows, gain: np.ndarray, usable: list[int], first: int, tied: list[int]
) -> list[int]:
    """The usable conditions of the checkpoint that is advised: rule 3 above."""
    best: dict[str, int] = {}
    for i in sorted(usable, key=lambda i: (-gain[i], i)):
        best.setdefault(grid.conditions[i].checkpoint, i)
    leading = grid.conditions[first].checkpoint

    def sound(name: str) -> bool:
        state = find(rows, grid.conditions[best[name]], "curve", "state")
        return state is not None and (state.value or 0.0) >= SOUND_CURVE

    order = {name: _order(grid, i)[:2] for name, i in best.items()}
    enough = _margin_kept(grid, rows, first) - EQUAL_MARGIN
    later = [
        name for name, i in best.items()
        if i in tied and order[name] > order[leading] and sound(name) and _margin_kept(grid, rows, i) >= enough
    ]  # fmt: skip
    if later:
        name = max(later, key=lambda name: order[name])
    elif sound(leading):
        name = leading
    else:
        # a gain below 0 is within a fiftieth of nothing but itself
        equal = [name for name, i in best.items() if i == first or gain[i] >= EQUAL_GAIN * gain[first] > 0]
        name = min(equal, key=lambda name: order[name])
    return [i for i in usable if grid.conditions[i].checkpoint == name]


def _lowest_equal(grid: Grid, worth: np.ndarray, conditions: list[int]) -> int:
    """The one of lowest weight among those worth as much as the best, a hundredth aside."""
    top = max(conditions, key=lambda i: (worth[i], -i))
    # a worth below 0 is within a hundredth of nothing but itself
    equal = [i for i in conditions if i == top or worth[i] >= EQUAL_WORTH * worth[top] > 0]
    return min(equal, key=lambda i: grid.conditions[i].weight)


def _margin_kept(grid: Grid, rows: Rows, index: int) -> float:
    """Share of the base model's margin between prompts that a condition keeps, at most all; 1 when not measured."""
    row = find(rows, grid.conditions[index], "alignment", "score")
    return 1.0 if row is None or row.value is None else min(1.0, row.value)


def _order(grid: Grid, index: int) -> tuple[float, str, float]:
    c = grid.conditions[index]
    return (math.inf if c.step is None else c.step, c.checkpoint, c.weight)


def _ties(objective: _Objective, first: int, usable: list[int]) -> list[int]:
    draws = objective.draws
    if not np.isfinite(draws.samples[:, first]).all():
        # no interval: nothing can be told apart that reaches nine tenths of the best
        return [i for i in usable if i != first and draws.estimate[i] >= TIE_GAIN * draws.estimate[first]]
    tied = []
    for i in usable:
        if i == first:
            continue
        off = draws.samples[:, first] - draws.samples[:, i]
        low, high = np.quantile(off, [0.025, 0.975])
        told_apart = not low <= 0.0 <= high
        if draws.estimate[i] >= (EQUAL_GAIN if told_apart else TIE_GAIN) * draws.estimate[first]:
            tied.append(i)
    return tied


def _free(grid: Grid, candidates: list[int], gain: np.ndarray, shown: int) -> int:
    """The weight of the shown checkpoint that its likeness alone would choose."""
    mine = [i for i in candidates if grid.conditions[i].checkpoint == grid.conditions[shown].checkpoint]
    return _least_bad(grid, mine, gain) if mine else shown


def _least_bad(grid: Grid, candidates: list[int], gain: np.ndarray) -> int:
    if not candidates:
        return len(grid.conditions) - 1
    return max(candidates, key=lambda i: (gain[i], -i))


def _entry(grid: Grid, objective: _Objective, index: int) -> dict[str, Any]:
    c, draws = grid.conditions[index], objective.draws
    # differences of cosines, however wide few prompts make the interval
    low, high = draws.interval(low=-2.0, high=2.0)
    return {
        "checkpoint": c.checkpoint, "step": c.step, "weight": c.weight, "measure": objective.name,
        "value": number(draws.estimate[index]), "ci_low": number(low[index]), "ci_high": number(high[index]),
    }  # fmt: skip


def _leaderboard(now: Standing) -> list[dict[str, Any]]:
    """Each checkpoint at its best weight: gain, p against the winner (sign flips, Holm over checkpoints), gates."""
    grid, objective, shut, gain, first = now.grid, now.objective, now.shut, now.gain, now.first
    best: list[int] = []
    for checkpoint in grid.checkpoints:
        mine = [i for i in grid.of(checkpoint) if grid.conditions[i].weight > 0]
        open_ = [i for i in mine if not shut[i]] or mine
        if open_:
            best.append(max(open_, key=lambda i: (gain[i], -i)))
    p = [
        math.nan if first is None or i == first else sign_flip_test(objective.cube[first] - objective.cube[i])
        for i in best
    ]
    adjusted = holm(p)
    board = []
    for i, value in zip(best, adjusted, strict=True):
        board.append({**_entry(grid, objective, i), "p": number(value), "gates": shut[i],
                      "tied": i == first or i in now.tied, "recommended": now.chosen is not None
                      and grid.conditions[i].checkpoint == grid.conditions[now.chosen].checkpoint})  # fmt: skip
    return sorted(board, key=lambda entry: (bool(entry["gates"]), -_worth(entry), str(entry["checkpoint"])))


def _worth(entry: dict[str, Any]) -> float:
    return -math.inf if entry["value"] is None else float(entry["value"])


def _sentence(
    grid: Grid, chosen: int | None, shown: int, tied: list[int], first: int | None, shut: list[list[str]],
    dimensions: dict[str, Dimension], objective: _Objective, rows: Rows,
) -> str:  # fmt: skip
    if chosen is None:
        found = [gates for gates, c in zip(shut, grid.conditions, strict=True) if c.weight > 0]
        reasons = list(dict.fromkeys(gate for gates in found for gate in gates))
        if reasons and all("no effect" in gates for gates in found):
            return (
                "The LoRA has no effect: at its largest weight the pictures differ from weight 0 by less than two "
                "seeds do."
            )
        if not reasons:
            return "Nothing can be recommended: no picture with the LoRA could be compared with weight 0."
        return f"No checkpoint and weight is usable: {', '.join(reasons)} at every weight."
    where: Condition = grid.conditions[chosen]
    fidelity = dimensions["fidelity"]
    likeness = find(rows, where, "fidelity", "score")
    # the gate shuts only on what is surely too little; what may still be nothing must not sound like an advice
    proven = likeness is None or likeness.ci_low is None or likeness.ci_low > 0
    advice = "Use" if proven else "Not surely better than no LoRA; the best guess is"
    text = f"{advice} {where.checkpoint} at weight {where.weight:g}"
    if fidelity.score is not None and likeness is not None:
        text += f": likeness {likeness.value:.2f}"
        if likeness.ci_low is not None and likeness.ci_high is not None:
            text += f" (95 % interval {likeness.ci_low:.2f} to {likeness.ci_high:.2f})"
        text += " between the base model (0) and your own pictures (1)"
    elif objective.name == "movement":
        text += ": judged by effect, alignment and distortion alone, because likeness could not be measured"
    else:
        entry = _entry(grid, objective, chosen)
        text += f": likeness gained {entry['value']:+.3f}"
        if entry["ci_low"] is not None:
            text += f" (95 % interval {entry['ci_low']:+.3f} to {entry['ci_high']:+.3f})"
    # where one is chosen, one leads
    assert first is not None
    rivals = sorted({first, *tied} - {chosen})
    if grid.conditions[first].checkpoint == where.checkpoint and chosen not in (first, *tied):
        # it surely comes nearer, but not by as much as it neglects the prompt
        text += f"; weight {grid.conditions[first].weight:g} comes nearer and follows the prompt less"
    elif rivals:
        checkpoints = list(
            dict.fromkeys(
                grid.conditions[i].checkpoint for i in rivals if grid.conditions[i].checkpoint != where.checkpoint
            )
        )
        same = [grid.conditions[i].weight for i in rivals if grid.conditions[i].checkpoint == where.checkpoint]
        parts = ([f"weight {', '.join(f'{w:g}' for w in same)}"] if same else []) + checkpoints[:3]
        more = len(checkpoints) - 3
        earlier = any(_order(grid, i)[:2] < _order(grid, chosen)[:2] for i in rivals)
        text += f"; cannot be told from {' and '.join(parts)}" + (f" and {more} more" if more > 0 else "")
        if earlier:
            text += ", of equals the later is taken, whose loss curve is sound"
        elif any(weight < where.weight for weight in same):
            text += ", likeness and prompt together speak for this one"
        else:
            text += ", of equals the earlier and lower is taken"
    scored = [d for d in dimensions.values() if d.verdict in ("weak", "poor") and d.score is not None]
    if scored:
        worst = min(scored, key=lambda d: (d.verdict != "poor", d.score if d.score is not None else 9.0, d.name))
        text += f"; weakest: {worst.name} ({worst.verdict})"
    return text + "."
