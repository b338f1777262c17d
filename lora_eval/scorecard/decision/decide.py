"""From measured rows to a scorecard: what to use, the six answers, and the advice."""

from __future__ import annotations

from lora_eval.scorecard.data import Measurement, RunData, Scorecard
from lora_eval.scorecard.decision.advice import advise
from lora_eval.scorecard.decision.checks import check_notes
from lora_eval.scorecard.decision.leaderboard import entry, leaderboard
from lora_eval.scorecard.decision.sentence import verdict_sentence
from lora_eval.scorecard.decision.standing import standing
from lora_eval.scorecard.decision.verdicts import advised, judge
from lora_eval.scorecard.dimensions.registry import DIMENSIONS


def decide(data: RunData, measurement: Measurement) -> Scorecard:
    """Decide on a measured run; the rule is that of :mod:`lora_eval.scorecard.decision.standing`.

    Args:
        data: the run that was measured.
        measurement: what :func:`lora_eval.scorecard.dimensions.measure.measure` gave for it.

    Returns:
        Scorecard: the verdict, the six dimensions at the recommended checkpoint and weight (at the one of most gain
        when none is usable), advice, and where which check failed.
    """
    now = standing(data, measurement)
    grid, chosen = now.grid, now.chosen
    shown = chosen if chosen is not None else now.best_of(now.candidates)
    same = [i for i in now.candidates if grid.conditions[i].checkpoint == grid.conditions[shown].checkpoint]
    free = now.best_of(same) if same else shown
    failed = dict(zip(grid.conditions, now.failed, strict=True))
    around = advised(now.place(shown), grid.conditions[free], failed)
    judged = [judge(spec, around) for spec in DIMENSIONS]
    dimensions = {one.spec.name: one.answer for one in judged}
    everywhere = {name for i in now.candidates for name in now.failed[i]} if chosen is None else set()
    where = grid.conditions[chosen] if chosen is not None else None
    tied = {*now.tied, *([now.first] if now.first is not None else [])}
    return Scorecard(
        verdict=verdict_sentence(now, dimensions),
        checkpoint=where.checkpoint if where else None,
        weight=where.weight if where else None,
        tie=[entry(now, i) for i in sorted(tied) if i != chosen],
        dimensions=dimensions,
        advice=advise(judged, everywhere, len(grid.checkpoints)),
        gates=check_notes(grid, now.failed),
        leaderboard=leaderboard(now),
    )
