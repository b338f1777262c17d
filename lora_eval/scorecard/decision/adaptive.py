"""Which pictures to draw next, so that a part of the grid gives the whole grid's advice.

A sweep is drawn in rounds. The first draws every checkpoint at a few weights, with two seeds where that leaves half
of the budget, else with one. Each later one looks at what is there and draws, in this order, as far as the budget goes:

1. **weights**: the middle of the gap below the weight that would be advised, the gap in which pictures begin to
   break, and those beside the weight of most likeness; at the checkpoints that may still be the best;
2. **seeds**, when no such gap is left: up to twice as many for the best condition and for those that may be advised
   instead, as long as the paired 99 % interval of the difference to it contains 0. All of them are brought to the
   same number, what is left of the budget is shared evenly, and a condition whose interval lies wholly below the
   best's gets no more. The best one alone gets them while its interval still includes the base model, or has but one.

It ends when no interval overlaps the best's, when rivals have every seed (a tie), or when the budget is used up.
Dropping the worse and doubling the pictures of the rest is successive halving (Karnin, Koren and Somekh, ICML 2013),
here by intervals. Each round is kept in ``plan.json`` and follows from the pictures of those before it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_eval.errors import ConfigError
from lora_eval.scorecard.data import Measurement, RunData
from lora_eval.scorecard.plan.plan import Part, Plan, Round

if TYPE_CHECKING:
    from lora_eval.scorecard.grid import Grid

START_SEEDS = 2
COARSE = 3
# of the budget, what a first round with several seeds may take
FIRST_SHARE = 0.5
# a rival below this share of the best gain would not be advised even when it ties (standing.TIE_GAIN is .9)
RIVAL_GAIN = 0.8
# what is looked at several times, for many conditions, is believed to have lost at 99.5 %, not at 97.5 %
LOST = 0.005


@dataclass(frozen=True)
class Stop:
    """Why nothing more is drawn, and what more pictures would buy."""

    reason: str
    more: str


def with_budget(plan: Plan, budget: int) -> Plan:
    """The plan made adaptive: at most ``budget`` pictures, its first round filled in.

    Raises:
        ConfigError: not even the first round fits; says the least that does.
    """
    found = _begun(plan, budget, START_SEEDS)
    if len(found) > FIRST_SHARE * budget:
        found = _begun(plan, budget, 1)
    if len(found) > budget:
        raise ConfigError(
            f"budget {budget} is too small: the first round of {len(plan.loras)} checkpoint(s) and "
            f"{len(plan.prompts)} prompt(s) needs {len(found)} pictures; raise it or take fewer checkpoints or prompts"
        )
    # the run's name tells adaptive runs from full ones
    return replace(found, run=f"{plan.run.rsplit('-', 1)[0]}-{found.fingerprint[:8]}")


def _begun(plan: Plan, budget: int, count: int) -> Plan:
    """The plan with a first round of so many seeds."""
    seeds = plan.seeds[:count]
    weights = [w for w in plan.weights if w != 0]
    count = min(COARSE, len(weights))
    # the largest is always among them: whether anything breaks shows there
    coarse = [weights[round((k + 1) * len(weights) / count) - 1] for k in range(count)]
    parts = (Part("", 0.0, seeds), *(Part(lora.name, w, seeds) for lora in plan.loras for w in coarse))
    return replace(plan, budget=int(budget), rounds=(Round(parts, "every checkpoint at a few weights"),))


def next_round(plan: Plan, data: RunData, measurement: Measurement) -> Round | Stop:
    """What to draw after all rounds of ``plan``, or why to stop. Deterministic.

    Args:
        plan: adaptive, all its pictures drawn.
        data, measurement: of these pictures.
    """
    view = _View(plan, data, measurement)
    left = ((plan.budget or 0) - len(plan)) // max(1, len(plan.prompts))
    if left < 1:
        return Stop("the budget is used up", view.more())
    gaps = view.gaps()
    if gaps:
        parts = _fit([Part(name, weight, view.common_seeds(name)) for name, weight in gaps], left)
        if parts:
            return Round(parts, "between the weights that matter")
        return Stop("the budget is used up", view.more())
    if view.now.first is None:
        return Stop("no weight is usable", view.more())
    contenders = view.contenders()
    if not contenders:
        return Stop("one weight is surely the best", view.more())
    return view.more_seeds(contenders, left)


def _fit(parts: Sequence[Part], left: int) -> tuple[Part, ...]:
    """The first parts that fit into ``left`` pictures a prompt."""
    taken = []
    for part in parts:
        if len(part.seeds) > left:
            break
        taken.append(part)
        left -= len(part.seeds)
    return tuple(taken)


class _View:
    """A run half drawn: what is there, what leads, what may still win."""

    def __init__(self, plan: Plan, data: RunData, measurement: Measurement) -> None:
        # at the first use: the tabs ask for the size of a first round alone, while the WebUI starts
        from lora_eval.scorecard.decision.standing import standing

        self.plan = plan
        self.now = standing(data, measurement)
        self.grid: Grid = self.now.grid
        self.weights = sorted(w for w in plan.weights if w != 0)
        self.drawn: dict[tuple[str, float], list[int]] = {}
        for one in plan.rounds:
            for part in one.parts:
                self.drawn.setdefault((part.lora, part.weight), []).extend(part.seeds)
        checkpoints = data.cells["checkpoint"].tolist()
        rows = [int(r[r >= 0][0]) for r in self.grid.rows]
        self.names = [str(checkpoints[row]) for row in rows]
        self.gain = self.now.gain
        self.open = [not failed for failed in self.now.failed]

    def _of(self, name: str) -> list[int]:
        return [i for i, found in enumerate(self.names) if found == name and self.grid.conditions[i].weight != 0]

    def _best(self, name: str) -> int:
        """The checkpoint's condition of most likeness, open ones first."""
        return max(self._of(name), key=lambda i: (self.open[i], self.gain[i], -i))

    def _overlaps(self, index: int, first: int) -> bool:
        off = self.now.draws.samples[:, first] - self.now.draws.samples[:, index]
        return not np.isfinite(off).all() or bool(np.quantile(off, LOST) <= 0.0)

    def live(self) -> list[str]:
        """Checkpoints that may still be the best, the leading one first."""
        names = list(dict.fromkeys(self.names))
        first = self.now.first
        if first is None:
            return names
        found = [n for n in names if n == self.names[first] or self._overlaps(self._best(n), first)]
        return sorted(found, key=lambda n: (n != self.names[first], names.index(n)))

    def gaps(self) -> list[tuple[str, float]]:
        """(LoRA, weight) in the middle of each gap that matters, the most important first."""
        found: list[tuple[str, float]] = []
        by_rank: list[list[tuple[str, float]]] = []
        for name in self.live():
            mine = {self.grid.conditions[i].weight: i for i in self._of(name)}
            best = self._best(name)
            top = self.grid.conditions[best].weight
            usable = [i for i in mine.values() if self.open[i]]
            advised = self.grid.conditions[self.now.advised_of(usable)].weight if usable else top
            broken = [w for w, i in sorted(mine.items()) if not self.open[i] and w > 0]
            wanted = [self._below(mine, advised)]
            if broken and (not usable or broken[0] > advised):
                wanted.append(self._below(mine, broken[0]))
            wanted += [self._below(mine, top), self._above(mine, top)]
            by_rank.append([(name, w) for w in dict.fromkeys(wanted) if w is not None])
        for rank in range(max(map(len, by_rank), default=0)):
            found += [one[rank] for one in by_rank if rank < len(one)]
        return found

    def _below(self, drawn: dict[float, int], weight: float) -> float | None:
        lower = max((w for w in drawn if w < weight), default=0.0 if weight > 0 else -np.inf)
        return _middle([w for w in self.weights if lower < w < weight])

    def _above(self, drawn: dict[float, int], weight: float) -> float | None:
        upper = min((w for w in drawn if w > weight), default=np.inf)
        return _middle([w for w in self.weights if weight < w < upper])

    def common_seeds(self, name: str) -> tuple[int, ...]:
        """Seeds that the checkpoint's conditions have been drawn with from the start."""
        return self.plan.seeds[: min(len(s) for (lora, w), s in self.drawn.items() if lora == name and w != 0)]

    def rivals(self) -> list[int]:
        """Conditions that overlap with the first and could be advised instead of it, best first.

        Of the advised checkpoint any weight could; of the others the best one speaks for all.
        """
        first, chosen = self.now.first, self.now.chosen
        if first is None or chosen is None:
            return []
        near = [
            i for i in range(len(self.names))
            if i != first and self.open[i] and self.gain[i] >= RIVAL_GAIN * self.gain[first]
            and (self.names[i] == self.names[chosen] or i == self._best(self.names[i])) and self._overlaps(i, first)
        ]  # fmt: skip
        return sorted(near, key=lambda i: (-self.gain[i], i))

    def contenders(self) -> list[int]:
        """Conditions of which more seeds may change the advice, the first before the others; none when it stands."""
        first, chosen, rivals = self.now.first, self.now.chosen, self.rivals()
        if first is None or chosen is None or not (rivals or self._doubtful(first)):
            return []
        return list(dict.fromkeys([first, chosen, *rivals]))

    def _doubtful(self, index: int) -> bool:
        """Whether it has but one seed of several, or may be no better than the base model."""
        alone = len(self._seeds_of(index)) < min(2, len(self.plan.seeds))
        return alone or not float(np.quantile(self.now.draws.samples[:, index], LOST)) > 0.0

    def _key(self, index: int) -> tuple[str, float]:
        return self.names[index], self.grid.conditions[index].weight

    def _seeds_of(self, index: int) -> list[int]:
        return self.drawn[self._key(index)]

    def more_seeds(self, contenders: list[int], left: int) -> Round | Stop:
        """The contenders brought to the same number of seeds, at most twice that of the fewest, weight 0 before them.

        The last of them go without where not all can have one more; a single one of several gets none: it would be
        known better than those it is held against.
        """
        base, every = len(self.drawn[("", 0.0)]), self.plan.seeds
        have = {i: len(self._seeds_of(i)) for i in contenders}
        if min(have.values()) >= len(every):
            return Stop("a tie with every seed drawn" if len(contenders) > 1 else "every seed is drawn", self.more())
        for count in range(len(contenders), min(2, len(contenders)) - 1, -1):
            group = contenders[:count]
            fewest = min(have[i] for i in group)
            for wanted in range(min(2 * fewest, len(every)), fewest, -1):
                parts = [Part("", 0.0, every[base:wanted])] if wanted > base else []
                parts += [Part(*self._key(i), every[have[i] : wanted]) for i in group if have[i] < wanted]
                if sum(len(part.seeds) for part in parts) <= left:
                    return Round(tuple(parts), "seeds where intervals overlap")
        return Stop("the budget is used up", self.more())

    def more(self) -> str:
        """How well the leading gain is known and what more seeds would do for it."""
        from lora_eval.scorecard.dimensions.context import number

        first = self.now.first
        if first is None:
            return "no weight is usable; more pictures of these weights would not change that"
        low, high = (float(edge[first]) for edge in self.now.draws.interval())
        if not np.isfinite(low) or not np.isfinite(high):
            return "with one seed nothing is known about the error; draw at least two"
        half = (high - low) / 2
        rivals = len(self.rivals())
        seeds = len(self._seeds_of(first))
        # the error of a mean falls with the root of the number of seeds, where prompts agree
        return (
            f"the best gain is known to ±{number(round(half, 3))} with {seeds} seeds; {2 * seeds} would make it about "
            f"±{number(round(half / 2**0.5, 3))}; {rivals} other condition(s) cannot be told from it yet"
        )


def _middle(weights: list[float]) -> float | None:
    return weights[len(weights) // 2] if weights else None


def account(plan: Plan, stop: Stop) -> dict[str, Any]:
    """For the report: what was drawn of what, why it ended, what more would buy."""
    per = len(plan.prompts)
    return {
        "budget": plan.budget,
        "images": len(plan),
        "full_grid": plan.full_size,
        "rounds": [{"why": one.why, "images": per * sum(len(p.seeds) for p in one.parts)} for one in plan.rounds],
        "stopped": stop.reason,
        "more": stop.more,
    }
