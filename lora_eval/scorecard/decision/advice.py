"""What to change next time: the rows of each weak dimension's table that apply."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lora_eval.scorecard.data import Advice
from lora_eval.scorecard.decision.verdicts import Judged
from lora_eval.scorecard.dimensions import curve
from lora_eval.scorecard.dimensions.registry import CHECKS

# rows of one dimension that are advised at most
MOST_ROWS = 2


def advise(judged: Sequence[Judged], failed: Collection[str], checkpoint_count: int) -> list[Advice]:
    """Advice for every weak or poor dimension, the weakest first; what was not measured comes last.

    Args:
        judged: the dimensions with their answers.
        failed: names of the checks that failed where nothing can be recommended, for example ``no effect``.
        checkpoint_count: checkpoints measured; with one there is no earlier one to go back to.
    """
    found = [check.advice for _, check in CHECKS if check.advice is not None and check.name in failed]
    weak = [one for one in judged if one.answer.verdict in ("weak", "poor")]
    for one in sorted(weak, key=_weakest_first):
        rows = [remedy for remedy in one.spec.remedies if remedy.seen(one.result, one.answer)]
        exact = [remedy for remedy in rows if not remedy.otherwise] or rows[:1]
        found += [Advice(one.spec.name, remedy.what, remedy.change) for remedy in exact[:MOST_ROWS]]
    if checkpoint_count == 1 and weak:
        change = "save a checkpoint every 100 to 200 steps and score them all"
        found.append(Advice(curve.NAME, "one checkpoint was judged", change))
    return found + [
        Advice(one.spec.name, "not measured", one.answer.reason) for one in judged if one.answer.score is None
    ]


def _weakest_first(one: Judged) -> tuple[bool, float, str]:
    answer = one.answer
    return answer.verdict != "poor", 9.0 if answer.score is None else answer.score, answer.name
