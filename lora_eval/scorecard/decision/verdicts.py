"""The answer of each dimension, in one word and one sentence, at one checkpoint and weight.

The word follows from the score and the limits of the dimension: "good" when the score reaches the first limit, "poor"
when even the interval's upper end is below the second, "weak" between. A score that is the smallest of several parts
lies below the truth, as the smallest of several noisy numbers does: it is "good" until the interval's upper end is
below the first limit. A fault that the dimension finds whatever the score (copies, drift beyond chance, elements lost)
lowers "good" to "weak".

A dimension judges the advised weight, and what everyday weights (up to 1) above it show: a fault that appears
there lowers "good" to "weak", and so does a check that fails there, to "poor" from weight .6 down. Which dimension a
failed check counts against, the check says itself: what breaks pictures counts against strength, for it is the weight
that breaks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_eval.scorecard.data import Dimension, Measure
from lora_eval.scorecard.decision.checks import SPOILING
from lora_eval.scorecard.dimensions.place import Place
from lora_eval.scorecard.dimensions.registry import CHECKS
from lora_eval.scorecard.dimensions.spec import EVERYDAY, Above, Advised, AnySpec, Failure
from lora_eval.scorecard.grid import Condition

# a check that fails at this weight or a lower one makes the dimension poor
POOR_FROM = 0.6


@dataclass(frozen=True)
class Judged:
    """A dimension, its result where it was judged, and its answer."""

    spec: AnySpec
    result: Any
    answer: Dimension


def advised(place: Place, free: Condition, failed: Mapping[Condition, Sequence[str]]) -> Advised:
    """The advised place and what was found around it.

    Args:
        place: the advised checkpoint and weight.
        free: the weight of the same checkpoint that likeness alone would have chosen.
        failed: names of the failed checks of each condition of the run.
    """
    mine = [(c, names) for c, names in failed.items() if c.checkpoint == place.where.checkpoint]
    above = [Above(place.at(c), SPOILING.isdisjoint(names)) for c, names in mine if place.weight < c.weight <= EVERYDAY]
    return Advised(
        place,
        place.at(free),
        tuple(Failure(c.weight, name) for c, names in mine if c.weight > 0 for name in names),
        tuple(sorted(above, key=lambda one: one.place.weight)),
    )


def judge(spec: AnySpec, where: Advised) -> Judged:
    """The answer of one dimension.

    Args:
        spec: the dimension.
        where: the advised checkpoint and weight. What fails or shows at its other weights is a finding about the LoRA
            too. Likeness that is low only because another dimension excludes the weight is no fault of fidelity.
    """
    shown = spec.read_at(where)
    row = shown.index.row(shown.where, spec.name, spec.headline)
    evidence, result = _evidence(spec, shown), spec.read(shown)
    if row is None or row.value is None:
        reason = row.verdict if row is not None and row.verdict else f"not measured: {spec.add}"
        reason = reason.removeprefix("not measured: ")
        n = row.n if row is not None else 0
        return Judged(spec, result, Dimension(spec.name, None, None, None, n, "not measured", reason, evidence))
    score = row.value if row.score is None else row.score
    verdict, finding = _word(spec, score, row), spec.explain(result)
    reason = finding.text
    if shown.where != where.place.where:
        reason = f"at weight {shown.weight:g}, where the concept shows: {reason}"
    if verdict == "good" and score < spec.limits.good - 1e-9 and not finding.fault:
        reason += "; too unsure to count by itself, draw more pictures"
    if finding.fault and verdict == "good":
        verdict = "weak"
    if verdict != "good" and not finding.fault and (excuse := spec.excuse(where, reason)) is not None:
        verdict, reason = "good", excuse
    if verdict == "good" and (later := spec.found_above(where)) is not None:
        verdict = "weak"
        reason += f"; from weight {later[0]:g} on {later[1]}"
    lowest = _lowest_failure(spec, where)
    if lowest is not None and lowest.weight <= EVERYDAY:
        verdict = "poor" if lowest.weight <= POOR_FROM or verdict == "poor" else "weak"
        reason += f"; {lowest.check} from weight {lowest.weight:g} on"
    low, high = (None if value is None else _clip(value) for value in (row.ci_low, row.ci_high))
    return Judged(spec, result, Dimension(spec.name, _clip(score), low, high, row.n, verdict, reason, evidence))


def _word(spec: AnySpec, score: float, row: Measure) -> str:
    upper = score if row.ci_high is None else row.ci_high
    reached = max(score, upper) if spec.weakest_part else score
    return "good" if reached >= spec.limits.good - 1e-9 else "poor" if upper < spec.limits.poor else "weak"


def _lowest_failure(spec: AnySpec, where: Advised) -> Failure | None:
    """The failed check of lowest weight that counts against this dimension, None where there is none."""
    mine = {
        check.name for _, check in CHECKS
        if check.counts_against is not None and check.counts_against(where) == spec.name
    }  # fmt: skip
    return min((failure for failure in where.failures if failure.check in mine), default=None)


def _clip(value: float) -> float:
    """A score for the radar; the unclipped number stays in the evidence."""
    return min(1.0, max(0.0, value))


def _evidence(spec: AnySpec, place: Place) -> dict[str, Any]:
    """The details of this checkpoint and weight, and every number of the dimension there."""
    found: dict[str, Any] = {}
    for key, value in place.evidence(spec.name).items():
        if isinstance(value, dict) and key in spec.by_condition:
            found[key] = place.here(value)
        elif isinstance(value, dict) and key == spec.by_checkpoint:
            found["curve"] = value.get(place.where.checkpoint)
        else:
            found[key] = value
    rows = place.index.of(place.where.checkpoint, spec.name)
    found["by_weight"] = [
        {"weight": m.weight, "score": m.value, "ci_low": m.ci_low, "ci_high": m.ci_high}
        for m in rows
        if m.measure == "score" and m.weight is not None
    ]
    found["measures"] = {
        m.measure: {
            "value": m.value, "ci_low": m.ci_low, "ci_high": m.ci_high, "n": m.n, "baseline": m.baseline,
            "ceiling": m.ceiling, "verdict": m.verdict,
        }
        for m in rows
        if m.weight in (None, place.weight)
    }  # fmt: skip
    return found
