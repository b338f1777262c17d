"""Which checkpoint and weight lead, which tie with them, and which is advised.

The rule, in full:

1. **Checks** (:mod:`lora_eval.scorecard.decision.checks`) exclude what must not be used.
2. **Rank.** What is left is ranked by the likeness gained over weight 0 (CLIP-I on all prompts with the trigger,
   paired by prompt and seed). Without references it is the movement of the picture, and the verdict says so.
   The lower end of the interval is not used: prompts differ far more from each other than weights do, so it would
   favour the weight that does least on every prompt.
3. **Ties.** A candidate ties with the first when the paired bootstrap interval of their difference contains 0
   and it reaches nine tenths of the first's gain, or when it comes within a fiftieth of it.

   - Of the checkpoints that tie, the latest is taken whose loss curve is sound (converged or still falling) and that
     keeps as much of the prompt's margin as the first (a difference of a twentieth counts as none): where likeness
     cannot separate them, more training that did no harm has mostly made better ones. Where no loss history says so,
     the earliest within a fiftieth of the first.
   - Of its weights, the lowest within a hundredth of its best. A weight is worth its likeness times the fourth root of
     the share of the prompt's margin that it keeps: what loses a tenth of the prompt must come a fortieth nearer. By
     the attribute reader of the validity bench that weight is the best one more often than the one of most likeness,
     and more often than with the root or the whole of that share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from lora_eval.scorecard.data import Measurement, RunData
from lora_eval.scorecard.decision.checks import failed_checks
from lora_eval.scorecard.dimensions import alignment, curve
from lora_eval.scorecard.dimensions.place import Place, SummaryIndex
from lora_eval.scorecard.grid import TRIGGERED_ROLES, Grid, grid_of
from lora_eval.statistics.bootstrap import Draws, balanced_means, resample

# a candidate ties when it reaches this share of the first's gain, and cannot be separated from it
TIE_GAIN = 0.9
# as good as the best
EQUAL_GAIN = 0.98
# of weights: as much worth as the best, and what the prompt counts beside likeness
EQUAL_WORTH = 0.99
PROMPT_POWER = 0.25
# a difference of the margin kept that counts as none
EQUAL_MARGIN = 0.05


@dataclass(frozen=True)
class Objective:
    """What candidates are ranked by.

    Attributes:
        draws: draws (C,) of the mean.
        cube: (C, P, M) values of the pictures.
        name: in words.
    """

    draws: Draws
    cube: np.ndarray
    name: str


@dataclass(frozen=True)
class Standing:
    """Who leads; conditions are indices into ``grid.conditions``.

    Attributes:
        grid, index: the run and its summary.
        objective: what is ranked by.
        failed: names of the failed checks of each condition.
        candidates: conditions of weight above 0 that were measured.
        gain: (C,) what is ranked by, -inf where it was not measured.
        worth: (C,) the same with the prompt considered, by which weights of one checkpoint are chosen.
        first: the condition that gains most, None when none is usable.
        tied: conditions that cannot be separated from it.
        chosen: the advised condition, None when none is usable.
    """

    grid: Grid
    index: SummaryIndex
    objective: Objective
    failed: list[list[str]]
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

    def place(self, condition: int) -> Place:
        """A condition as the dimensions read it."""
        return Place(self.grid.conditions[condition], self.index)

    def advised_of(self, conditions: list[int]) -> int:
        """The one that would be advised if only these weights of one checkpoint could be."""
        return _lowest_equal(self.grid, self.worth, conditions)

    def best_of(self, conditions: list[int]) -> int:
        """The one of most gain, the lower index of equals; the last condition of the run where none is given."""
        if not conditions:
            return len(self.grid.conditions) - 1
        return max(conditions, key=lambda i: (self.gain[i], -i))

    def order(self, condition: int) -> tuple[float, str]:
        """Position in training: step (infinite where unknown) and name of the checkpoint."""
        where = self.grid.conditions[condition]
        return (math.inf if where.step is None else where.step, where.checkpoint)


def standing(data: RunData, measurement: Measurement) -> Standing:
    """Checks, rank and ties of a measured run."""
    grid = grid_of(data)
    index = SummaryIndex(measurement)
    objective = _objective(grid, measurement)
    failed = failed_checks(grid, index)
    gain = np.where(np.isfinite(objective.draws.estimate), objective.draws.estimate, -np.inf)
    candidates = [i for i, c in enumerate(grid.conditions) if c.weight > 0 and np.isfinite(gain[i])]
    usable = [i for i in candidates if not failed[i]]
    first = max(usable, key=lambda i: (gain[i], -i)) if usable else None
    tied = _ties(objective, first, usable) if first is not None else []
    kept = np.array([_margin_kept(Place(condition, index)) for condition in grid.conditions])
    # less of a loss is no gain
    worth = np.where(gain > 0, gain * np.clip(kept, 0.0, None) ** PROMPT_POWER, gain)
    now = Standing(grid, index, objective, failed, candidates, gain, worth, first, tied, None)
    if first is None:
        return now
    return replace(now, chosen=now.advised_of(_of_checkpoint(now, first, usable)))


def _objective(grid: Grid, measurement: Measurement) -> Objective:
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
    return Objective(draws, cube, name)


def _of_checkpoint(now: Standing, first: int, usable: list[int]) -> list[int]:
    """The usable conditions of the checkpoint that is advised: rule 3 above."""
    grid, gain = now.grid, now.gain
    best: dict[str, int] = {}
    for i in sorted(usable, key=lambda i: (-gain[i], i)):
        best.setdefault(grid.conditions[i].checkpoint, i)
    leading = grid.conditions[first].checkpoint

    def sound(name: str) -> bool:
        return curve.read(now.place(best[name])).sound

    order = {name: now.order(i) for name, i in best.items()}
    enough = _margin_kept(now.place(first)) - EQUAL_MARGIN
    later = [
        name for name, i in best.items()
        if i in now.tied and order[name] > order[leading] and sound(name) and _margin_kept(now.place(i)) >= enough
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


def _margin_kept(place: Place) -> float:
    """Share of the base model's margin between prompts that is kept, at most all; 1 when not measured."""
    row = alignment.read(place).score
    return 1.0 if row is None or row.value is None else min(1.0, row.value)


def _ties(objective: Objective, first: int, usable: list[int]) -> list[int]:
    draws = objective.draws
    if not np.isfinite(draws.samples[:, first]).all():
        # no interval: nothing can be separated that reaches nine tenths of the best
        return [i for i in usable if i != first and draws.estimate[i] >= TIE_GAIN * draws.estimate[first]]
    tied = []
    for i in usable:
        if i == first:
            continue
        off = draws.samples[:, first] - draws.samples[:, i]
        low, high = np.quantile(off, [0.025, 0.975])
        separated = not low <= 0.0 <= high
        if draws.estimate[i] >= (EQUAL_GAIN if separated else TIE_GAIN) * draws.estimate[first]:
            tied.append(i)
    return tied
