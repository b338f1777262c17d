"""Two sides of a comparison: which pictures belong together, and whether their values differ.

Pictures of the same prompt and seed are pairs. Pictures drawn elsewhere need not have such a partner: where prompts
are shared but no seeds, each prompt's means are compared; where not even prompts are, the two sets as they are, each
picture against its own weight 0 as far as that was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from lora_eval.scorecard.comparison.runs import Key, Side
from lora_eval.scorecard.comparison.values import Values
from lora_eval.scorecard.comparison.verdict import BY_PROMPT, OPEN, PAIRED, Row
from lora_eval.scorecard.data import ROLES
from lora_eval.scorecard.dimensions.context import number as rounded
from lora_eval.statistics.bootstrap import CLUSTERS_NEEDED, Draws, resample
from lora_eval.statistics.significance import sign_flip_test

Roles = Sequence[Sequence[str]]
"""Sets of roles, the one wanted first; the next counts where there is no prompt of it."""
NO_INTERVAL = "one picture of each prompt: no interval; add seeds or prompts"
MOST_PATTERNS = 4096


@dataclass(frozen=True)
class Pair:
    """Two sides and the keys both have; ``alike`` whether likeness may be compared."""

    first: Side
    second: Side
    keys: list[Key]
    alike: bool

    @property
    def free(self) -> bool:
        """Whether pictures without a partner count: one side was drawn elsewhere and cannot just be drawn again."""
        return self.first.run.plan is None or self.second.run.plan is None

    def of(self, wanted: Roles) -> list[Key]:
        """Shared keys whose prompt has one of the roles."""
        for roles in wanted:
            if found := [key for key in self.keys if self.role(key) in roles]:
                return found
        return []

    def own(self, wanted: Roles) -> tuple[list[Key], list[Key]]:
        """Keys of each side, shared or not, whose prompt has one of the roles."""
        for roles in wanted:
            found = [
                sorted(key for key in side.pictures if self.role(key) in roles) for side in (self.first, self.second)
            ]
            if all(found):
                return found[0], found[1]
        return [], []

    def any(self, wanted: Roles) -> bool:
        """Whether there is anything to compare in these roles."""
        return bool(self.of(wanted) or (self.free and all(self.own(wanted))))

    def role(self, key: Key) -> str:
        """The prompt's role: a suite's counts more than a table's, which may have been filled in."""
        found = [(side.run.plan is None, side.run.prompts[key[:2]].role)
                 for side in (self.first, self.second) if key[:2] in side.run.prompts]  # fmt: skip
        suites = [role for table, role in found if not table]
        tables = [role for _, role in found if role != "plain"]
        return suites[0] if suites else min(tables, key=ROLES.index, default="plain")


@dataclass(frozen=True)
class Resampling:
    """Of the bootstrap: how often, from which seed; ``even``: with as many seeds of each prompt on both sides."""

    resamples: int
    seed: int
    even: bool = False


def tested(
    row: Row,
    pair: Pair,
    roles: Roles,
    values: Values,
    gains: Values | None,
    missing: str,
    how: Resampling,
) -> Row:
    """The row with values, difference, interval, p and who is ahead.

    Args:
        gains: the same against each picture's own weight 0, for prompts that are not shared.
        missing: why nothing was measured, if so.
        how: resamples, seed, and whether the value depends on how many seeds a prompt has.
    """
    resamples, seed, even = how.resamples, how.seed, how.even
    keys = pair.of(roles)
    found = replace(row, note=f"not measured: {missing}")
    if keys:
        found = _paired(row, keys, values(pair.first, keys), values(pair.second, keys), missing, resamples, seed)
    if not pair.free or found.ci_low is not None:
        return found
    first, second = pair.own(roles)
    if not first or not second:
        return found
    shared = {key[:2] for key in first} & {key[:2] for key in second}
    if shared:
        first, second = ([key for key in side if key[:2] in shared] for side in (first, second))
    if even:
        first, second = _even(first, second)
    note = "paired by prompt alone: no seed in common"
    here, there = values(pair.first, first), values(pair.second, second)
    if not shared:
        note = "unpaired: no prompt in common, so that what the prompts bring counts as well"
        if gains is not None:
            against = gains(pair.first, first), gains(pair.second, second)
            if _count(against[0]) == _count(here) and _count(against[1]) == _count(there):
                (here, there), note = against, "unpaired: no prompt in common; each picture against its own weight 0"
    other = _loose(replace(row, note=note), here, there, bool(shared), resamples, seed)
    if other is None or (other.ci_low is None and found.difference is not None):
        return found
    return other


def _count(values: dict[Key, float]) -> int:
    return sum(map(math.isfinite, values.values()))


def _even(first: list[Key], second: list[Key]) -> tuple[list[Key], list[Key]]:
    """As many seeds of every prompt on both sides: those of the prompt that has the fewest."""
    sides = [_by_prompt(dict.fromkeys(side, 0.0)) for side in (first, second)]
    most = min(len(of_prompt) for side in sides for of_prompt in side.values())
    kept = [sorted(key for of_prompt in side.values() for key in sorted(of_prompt)[:most]) for side in sides]
    return kept[0], kept[1]


def _by_prompt(values: dict[Key, float]) -> dict[tuple[str, str], dict[Key, float]]:
    """Prompt -> key -> value, of those that were measured."""
    found: dict[tuple[str, str], dict[Key, float]] = {}
    for key in sorted(values):
        if math.isfinite(values[key]):
            found.setdefault(key[:2], {})[key] = values[key]
    return found


# -- pairs of pictures ---------------------------------------------------------------------------


def _paired(
    row: Row,
    keys: list[Key],
    first: dict[Key, float],
    second: dict[Key, float],
    missing: str,
    resamples: int,
    seed: int,
) -> Row:
    prompts = sorted({key[:2] for key in keys})
    nested = [sorted(key for key in keys if key[:2] == prompt) for prompt in prompts]
    values = np.full((2, len(prompts), max(map(len, nested))), np.nan)
    for p, of_prompt in enumerate(nested):
        for m, key in enumerate(of_prompt):
            values[:, p, m] = first.get(key, math.nan), second.get(key, math.nan)
    values[:, ~np.isfinite(values).all(axis=0)] = np.nan
    if not np.isfinite(values).any():
        return replace(row, note=f"not measured: {missing}")
    difference = values[0] - values[1]
    draws = resample(np.concatenate([values, difference[None]]), resamples, seed)
    valid = np.isfinite(difference)
    # with six prompts or more the test flips whole prompts
    units = np.where(valid, difference, 0.0).sum(axis=1) if valid.any(axis=1).sum() >= 6 else difference
    units = np.where(valid.any(axis=1), units, np.nan) if units.ndim == 1 else units
    return _filled(
        replace(row, pairing=PAIRED, n=int(draws.n[2]), prompts=int(valid.any(axis=1).sum())),
        draws,
        sign_flip_test(difference, resamples, seed),
        sign_flip_test(np.abs(units), resamples, seed),
    )


def _filled(row: Row, draws: Draws, p: float, p_best: float) -> Row:
    """The row with what the draws of (first, second, difference) say."""
    low, high = (float(edge[2]) for edge in draws.interval())
    values = [rounded(value) for value in draws.estimate]
    row = replace(
        row, first_value=values[0], second_value=values[1], difference=values[2], ci_low=rounded(low),
        ci_high=rounded(high), scope=draws.scope, p=rounded(p), p_best=rounded(p_best),
    )  # fmt: skip
    if not (math.isfinite(low) and math.isfinite(high)):
        return replace(row, note="; ".join(filter(None, (row.note, NO_INTERVAL))))
    if low <= 0 <= high:
        return replace(row, ahead="tie")
    return replace(row, ahead=row.first if (low > 0) == (row.better == "higher") else row.second)


# -- pictures without a partner --------------------------------------------------------------------


def _loose(
    row: Row, first: dict[Key, float], second: dict[Key, float], shared: bool, resamples: int, seed: int
) -> Row | None:
    """Two sets that share prompts (``shared``) or nothing; None where nothing was measured.

    Every prompt counts once. From CLUSTERS_NEEDED prompts on they are what is resampled, else the seeds inside each.
    """
    here, there = _by_prompt(first), _by_prompt(second)
    if shared:
        common = here.keys() & there.keys()
        here, there = ({p: side[p] for p in side if p in common} for side in (here, there))
    if not here or not there:
        return None
    lists = [[np.array(list(of_prompt.values())) for of_prompt in side.values()] for side in (here, there)]
    means = [np.array([values.mean() for values in side]) for side in lists]
    p = p_best = math.nan
    if min(map(len, means)) < CLUSTERS_NEEDED:
        drawn = [
            [resample(values[None], resamples, (seed, side, at)) for at, values in enumerate(of_side)]
            for side, of_side in enumerate(lists, 1)
        ]
        sides = [one[0].map(lambda *parts: np.mean(parts, axis=0), *one[1:]) for one in drawn]
        if shared:
            # labels may be swapped inside a prompt; between prompts that differ they say nothing
            p = permutation_test(*lists, resamples=resamples, seed=seed)
            p_best = permutation_test(*_apart(lists), resamples=resamples, seed=seed)
        draws = _together(sides[0], sides[1])
    elif shared:
        difference = means[0] - means[1]
        draws = resample(np.stack([*means, difference])[..., None], resamples, seed)
        p, p_best = (sign_flip_test(one, resamples, seed) for one in (difference, np.abs(difference)))
    else:
        one, two = (resample(mean[:, None], resamples, (seed, side)) for side, mean in enumerate(means, 1))
        draws = _together(one, two)
        units = [[mean] for mean in means]
        p = permutation_test(*units, resamples=resamples, seed=seed)
        p_best = permutation_test(*_apart(units), resamples=resamples, seed=seed)
    pictures = min(sum(map(len, side)) for side in lists)
    prompts = min(map(len, means))
    return _filled(replace(row, pairing=BY_PROMPT if shared else OPEN, n=pictures, prompts=prompts), draws, p, p_best)


def _together(first: Draws, second: Draws) -> Draws:
    """(first, second, difference) of two independent sets of draws."""
    return first.map(lambda one, two: np.stack([one, two, one - two], axis=-1), second)


def _apart(lists: Sequence[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """The same sizes with all of the first above all of the second: no two sets could be separated better."""
    return [[np.full(len(values), float(side == 0)) + 1e-6 * np.arange(len(values)) for values in of_side]
            for side, of_side in enumerate(lists)]  # fmt: skip


def permutation_test(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], *, resamples: int = 1000, seed: int = 0
) -> float:
    """Two-sided p that two independent samples have equal means (Pitman, Suppl. JRSS 4, 1937), labels
    swapped inside strata.

    Args:
        first, second: stratum by stratum the (n,) and (m,) values, finite. The statistic is the mean over strata of
            the difference of means. Up to 4096 patterns every one is tried, which makes p exact.

    Returns:
        p in (0, 1].
    """
    strata = [(np.concatenate([one, two]), len(one)) for one, two in zip(first, second, strict=True)]

    def share(total: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
        return np.asarray(total / n - (values.sum() - total) / (len(values) - n))

    observed = sum(float(share(values[:n].sum(), values, n)) for values, n in strata)
    if math.prod(math.comb(len(values), n) for values, n in strata) <= MOST_PATTERNS:
        found = np.zeros(1)
        for values, n in strata:
            totals = np.array([values[list(chosen)].sum() for chosen in combinations(range(len(values)), n)])
            found = (found[:, None] + share(totals, values, n)[None]).ravel()
        return float(np.mean(np.abs(found) >= abs(observed) * (1 - 1e-9) - 1e-12))
    rng = np.random.default_rng(seed)
    found = np.zeros(resamples)
    for values, n in strata:
        shuffled = rng.permuted(np.tile(values, (resamples, 1)), axis=1)
        found += share(shuffled[:, :n].sum(axis=1), values, n)
    return float((1 + np.sum(np.abs(found) >= abs(observed) * (1 - 1e-9) - 1e-12)) / (1 + resamples))
