"""Each dimension in one word and one sentence, at one checkpoint and weight.

| dimension | 0 is | 1 is | good from | poor below |
|---|---|---|---|---|
| consistency | the change differs by seed like noise | as alike as references in place of the draws | .50 | .25 |
| fidelity | the base model | the references among themselves | .55 | .30 |
| generalisation | nothing left beyond plain prompts, or copies | nothing lost | .60 | .30 |
| curve | diverged | converged (grades, see ``measures/curve.py``) | 1 | .40 |
| strength | the weight does nothing orderly, or breaks at once | even response, unbroken to weight 1 | .50 | .25 |
| alignment | the picture could belong to any prompt | the base model's own level | .80 | .60 |

"good" when the score reaches the first limit, "poor" when even the interval's upper end stays below the
second, "weak" between. The scores of generalisation and strength are the smallest of several parts, and the
smallest of several noisy numbers lies below the truth: they are "good" until the interval's upper end stays
below the first limit. Hard findings (copies, drift beyond chance, elements lost) lower "good" to "weak".

A dimension speaks of the advised weight, and of what an everyday weight (up to 1) above it shows: styles that
fall apart there are found by consistency, copies and collapse by generalisation, and pictures that break or stop
listening to the prompt by strength, for it is the weight that breaks them. Only where the prompt is lost as soon as
the concept shows (before the weight is raised by half), or where no weight shows the concept and listens, not
listening is alignment's.
"""

from __future__ import annotations

import math
from typing import Any

from lora_eval.scorecard.data import Dimension, Measurement
from lora_eval.scorecard.decision.advice import SPREAD_RATIO, varies_more
from lora_eval.scorecard.decision.findings import EXPLAIN, LIMITS, Rows, find, interval_text
from lora_eval.scorecard.grid import Condition

# scores that are the smallest of several parts
SMALLEST_OF_PARTS = ("generalisation", "strength")
# an everyday weight; what happens above it is the user's own wish
EVERYDAY = 1.0
# a weight is bearable when it can be raised by half before the prompt is lost; a LoRA that is merely too strong can be
ROOM_ABOVE = 1.5
# style that varies this much more between seeds is found even where pictures break: breaking alone does not do it
SURELY_MIXED = 3.0
# the advised weight shows the concept when it reaches this share of the likeness that any weight reaches
SHOWN = 0.8
NEEDED = {
    "consistency": "draw at least 4 seeds of every prompt, weight 0 too",
    "fidelity": "add reference pictures",
    "generalisation": "add challenge prompts, references and the training pictures",
    "curve": "name the training's history.csv or TensorBoard folder",
    "strength": "draw at least 3 weights, weight 0 among them",
    "alignment": "draw at least two different prompts, weight 0 too",
}


def describe(
    name: str,
    measurement: Measurement,
    rows: Rows,
    where: Condition,
    gated: dict[Condition, list[str]] | None = None,
    free: Condition | None = None,
) -> Dimension:
    """The answer of one dimension at one checkpoint and weight.

    Args:
        name: one of DIMENSIONS.
        measurement, rows: what was measured, and :func:`index_rows` of it.
        where: the checkpoint and weight that is advised.
        gated: gates shut at each condition. A gate that shuts at an everyday weight (up to 1) is a finding
            about the LoRA, even where the advised weight lies below it: the dimension that owns the gate
            is then at most "weak", and "poor" when it shuts from .6 or less.
        free: the condition that likeness alone would have chosen. Likeness that is low only because
            another dimension forbids that weight is no fault of fidelity.
    """
    shown = where
    if name == "generalisation" and free is not None and _nowhere_both(rows, where, free):
        # a weight that hardly shows the concept says nothing of how it generalises
        shown = free
    headline = "state" if name == "curve" else "score"
    row = rows.get((shown.checkpoint, shown.weight, name, headline)) or rows.get(
        (shown.checkpoint, None, name, headline)
    )
    evidence = _evidence(name, measurement, rows, shown)
    if row is None or row.value is None:
        reason = row.verdict if row is not None and row.verdict else f"not measured: {NEEDED[name]}"
        return Dimension(name, None, None, None, row.n if row is not None else 0, "not measured",
                         reason.removeprefix("not measured: "), evidence)  # fmt: skip
    score = row.value if row.score is None else row.score
    good, poor = LIMITS[name]
    upper = score if row.ci_high is None else row.ci_high
    reached = max(score, upper) if name in SMALLEST_OF_PARTS else score
    verdict = "good" if reached >= good - 1e-9 else "poor" if upper < poor else "weak"
    reason, worse = EXPLAIN[name](rows, shown, row, measurement)
    if shown != where:
        reason = f"at weight {shown.weight:g}, where the concept shows: {reason}"
    if verdict == "good" and score < good - 1e-9 and not worse:
        reason += "; too unsure to count by itself, draw more pictures"
    if worse and verdict == "good":
        verdict = "weak"
    if name == "fidelity" and free is not None and free != where and verdict != "good" and not worse:
        there = find(rows, free, name, "score")
        if there is not None and there.value is not None and there.value >= good:
            verdict = "good"
            reason = f"{there.value:.2f} at weight {free.weight:g}, which another dimension forbids; here {reason}"
    if verdict == "good" and name in _FOUND_ABOVE:
        later = _FOUND_ABOVE[name](rows, where, _everyday_above(where, gated or {}), measurement)
        if later is not None:
            verdict = "weak"
            reason += f"; from weight {later[0]:g} on {later[1]}"
    lowest = _gate_from(name, rows, where, gated or {}, free)
    if lowest is not None and lowest[0] <= EVERYDAY:
        verdict = "poor" if lowest[0] <= 0.6 or verdict == "poor" else "weak"
        reason += f"; {lowest[1]} from weight {lowest[0]:g} on"
    bounds = [None if value is None else _clip(value) for value in (row.ci_low, row.ci_high)]
    return Dimension(name, _clip(score), bounds[0], bounds[1], row.n, verdict, reason, evidence)


_GATE_OWNER = {"copies": "generalisation", "collapse": "generalisation", "distortion": "strength"}


def _gate_from(
    name: str, rows: Rows, where: Condition, gated: dict[Condition, list[str]], free: Condition | None
) -> tuple[float, str] | None:
    """Lowest weight of the checkpoint at which a gate of this dimension shuts, and which."""
    shut = [
        (condition.weight, gate)
        for condition, gates in gated.items()
        for gate in gates
        if condition.checkpoint == where.checkpoint and condition.weight > 0
    ]
    deaf_from = min((weight for weight, gate in shut if gate == "prompt ignored"), default=math.inf)
    at_once = _at_once(deaf_from, where)
    owner = {
        **_GATE_OWNER,
        "prompt ignored": "alignment" if at_once or _nowhere_both(rows, where, free) else "strength",
    }
    return min(((weight, gate) for weight, gate in shut if owner.get(gate) == name), default=None)


def _at_once(weight: float, where: Condition) -> bool:
    """Whether a weight is reached before the advised one is raised by half."""
    return weight < ROOM_ABOVE * where.weight - 1e-9


def _nowhere_both(rows: Rows, where: Condition, free: Condition | None) -> bool:
    """Whether the weights that listen to the prompt (``where`` is the best of them) hardly show the concept."""
    if free is None or free == where:
        return False
    here, there = (find(rows, c, "fidelity", "clip_i_gain") for c in (where, free))
    if here is None or there is None or here.value is None or there.value is None:
        return False
    return here.value < SHOWN * there.value


_Above = list[tuple[Condition, bool]]


def _everyday_above(where: Condition, gated: dict[Condition, list[str]]) -> _Above:
    """Everyday weights of the checkpoint above the advised one, and whether pictures there are whole and listen."""
    found = [
        (c, not {"distortion", "prompt ignored", "blank pictures"} & set(gates))
        for c, gates in gated.items()
        if c.checkpoint == where.checkpoint and where.weight < c.weight <= EVERYDAY
    ]
    return sorted(found, key=lambda pair: pair[0].weight)


def _mixed_above(rows: Rows, where: Condition, above: _Above, measurement: Measurement) -> tuple[float, str] | None:
    for condition, whole in above:
        ratio = find(rows, condition, "consistency", "style_spread_ratio")
        limit = SPREAD_RATIO if whole else SURELY_MIXED
        if ratio is not None and varies_more(ratio.value, ratio.ci_low, ratio.n, limit):
            return condition.weight, f"the style varies {ratio.value:.1f} times as much between seeds"
    return None


def _lost_above(rows: Rows, where: Condition, above: _Above, measurement: Measurement) -> tuple[float, str] | None:
    for condition, whole in above:
        row = find(rows, condition, "generalisation", "score")
        if whole and row is not None and row.ci_high is not None and row.ci_high < LIMITS["generalisation"][0]:
            return condition.weight, EXPLAIN["generalisation"](rows, condition, row, measurement)[0]
    return None


def _deaf_above(rows: Rows, where: Condition, above: _Above, measurement: Measurement) -> tuple[float, str] | None:
    """A prompt that gets lost as soon as the concept shows; with more room above it is a matter of strength.

    Where the advised weight itself does not show the concept well there is no such room: the prompt is lost on the way.
    """
    good = LIMITS["alignment"][0]
    likeness = find(rows, where, "fidelity", "score")
    shown = likeness is None or likeness.value is None or likeness.value >= LIMITS["fidelity"][0]
    for condition, _ in above:
        row = find(rows, condition, "alignment", "score")
        if (shown and not _at_once(condition.weight, where)) or row is None or row.value is None:
            continue
        if row.value < good and row.ci_high is not None and row.ci_high < (1.0 + good) / 2:
            return condition.weight, f"only {interval_text(row)} of the margin is kept"
    return None


# what an everyday weight above the advised one may bring to light
_FOUND_ABOVE = {"consistency": _mixed_above, "generalisation": _lost_above, "alignment": _deaf_above}


def _clip(value: float) -> float:
    """A score for the radar; the unclipped number stays in the evidence."""
    return min(1.0, max(0.0, value))


def _evidence(name: str, measurement: Measurement, rows: Rows, where: Condition) -> dict[str, Any]:
    """The details of this checkpoint and weight, and every number of the dimension there."""
    found: dict[str, Any] = {}
    for key, value in measurement.evidence.get(name, {}).items():
        if isinstance(value, dict) and key in _BY_CONDITION:
            found[key] = value.get(where.key)
        elif isinstance(value, dict) and key in ("curves", "histories"):
            found["curve"] = value.get(where.checkpoint)
        else:
            found[key] = value
    found["by_weight"] = [
        {"weight": m.weight, "score": m.value, "ci_low": m.ci_low, "ci_high": m.ci_high}
        for m in rows.values()
        if m.dimension == name and m.measure == "score" and m.checkpoint == where.checkpoint and m.weight is not None
    ]
    found["measures"] = {
        m.measure: {
            "value": m.value, "ci_low": m.ci_low, "ci_high": m.ci_high, "n": m.n, "baseline": m.baseline,
            "ceiling": m.ceiling, "verdict": m.verdict,
        }
        for m in rows.values()
        if m.dimension == name and m.checkpoint == where.checkpoint and m.weight in (None, where.weight)
    }  # fmt: skip
    return found


_BY_CONDITION = ("drifting", "best_and_worst", "weakest", "copies", "elements", "negative", "by_prompt")
