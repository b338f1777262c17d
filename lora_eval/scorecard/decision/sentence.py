"""The verdict on a run in one sentence."""

from __future__ import annotations

from collections.abc import Mapping

from lora_eval.scorecard.data import Dimension
from lora_eval.scorecard.decision.leaderboard import entry
from lora_eval.scorecard.decision.standing import Standing
from lora_eval.scorecard.dimensions import fidelity
from lora_eval.scorecard.dimensions.registry import CHECKS

# checkpoints that are named among those that cannot be separated from the advised one
MOST_NAMED = 3


def verdict_sentence(now: Standing, dimensions: Mapping[str, Dimension]) -> str:
    """What to use, how alike it is, what ties with it and what is weakest; or why nothing can be recommended.

    Args:
        now: the standing of the run.
        dimensions: the answers at the advised checkpoint and weight, by name.
    """
    if now.chosen is None:
        return _nothing(now)
    text = _use(now, now.chosen, dimensions[fidelity.NAME]) + _rivals(now, now.chosen)
    scored = [d for d in dimensions.values() if d.verdict in ("weak", "poor") and d.score is not None]
    if scored:
        worst = min(scored, key=lambda d: (d.verdict != "poor", d.score if d.score is not None else 9.0, d.name))
        text += f"; weakest: {worst.name} ({worst.verdict})"
    return text + "."


def _nothing(now: Standing) -> str:
    found = [names for names, c in zip(now.failed, now.grid.conditions, strict=True) if c.weight > 0]
    reasons = list(dict.fromkeys(name for names in found for name in names))
    for _, check in CHECKS:
        if check.verdict and found and all(check.name in names for names in found):
            return check.verdict
    if not reasons:
        return "Nothing can be recommended: no picture with the LoRA could be compared with weight 0."
    return f"No checkpoint and weight is usable: {', '.join(reasons)} at every weight."


def _use(now: Standing, chosen: int, answer: Dimension) -> str:
    """Checkpoint, weight and likeness; ``answer`` is that of fidelity."""
    where = now.grid.conditions[chosen]
    likeness = fidelity.read(now.place(chosen)).score
    # the check "no likeness" fails only where the whole interval is too low; what may be no gain is not advised
    proven = likeness is None or likeness.ci_low is None or likeness.ci_low > 0
    advice = "Use" if proven else "Not surely better than no LoRA; the best guess is"
    text = f"{advice} {where.checkpoint} at weight {where.weight:g}"
    if answer.score is not None and likeness is not None:
        text += f": likeness {likeness.value:.2f}"
        if likeness.ci_low is not None and likeness.ci_high is not None:
            text += f" (95 % interval {likeness.ci_low:.2f} to {likeness.ci_high:.2f})"
        text += " between the base model (0) and your own pictures (1)"
    elif now.objective.name == "movement":
        text += ": judged by effect, alignment and distortion alone, because likeness could not be measured"
    else:
        gained = entry(now, chosen)
        text += f": likeness gained {gained['value']:+.3f}"
        if gained["ci_low"] is not None:
            text += f" (95 % interval {gained['ci_low']:+.3f} to {gained['ci_high']:+.3f})"
    return text


def _rivals(now: Standing, chosen: int) -> str:
    """What cannot be separated from the advised condition, and why this one is taken; "" where nothing ties."""
    # where one is chosen, one leads
    assert now.first is not None
    conditions = now.grid.conditions
    where, leading = conditions[chosen], conditions[now.first]
    rivals = sorted({now.first, *now.tied} - {chosen})
    if leading.checkpoint == where.checkpoint and chosen not in (now.first, *now.tied):
        # it comes significantly nearer, but not by as much as it neglects the prompt
        return f"; weight {leading.weight:g} comes nearer and follows the prompt less"
    if not rivals:
        return ""
    found = [conditions[i] for i in rivals]
    checkpoints = list(dict.fromkeys(c.checkpoint for c in found if c.checkpoint != where.checkpoint))
    same = [c.weight for c in found if c.checkpoint == where.checkpoint]
    weights = [f"weight {', '.join(f'{w:g}' for w in same)}"] if same else []
    more = len(checkpoints) - MOST_NAMED
    text = f"; cannot be told from {' and '.join(weights + checkpoints[:MOST_NAMED])}"
    text += f" and {more} more" if more > 0 else ""
    if any(now.order(i) < now.order(chosen) for i in rivals):
        return text + ", of equals the later is taken, whose loss curve is sound"
    if any(weight < where.weight for weight in same):
        return text + ", likeness and prompt together speak for this one"
    return text + ", of equals the earlier and lower is taken"
