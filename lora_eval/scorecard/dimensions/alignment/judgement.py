"""Prompt alignment of one checkpoint and weight: result, check, finding."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lora_eval.scorecard.data import Measure
from lora_eval.scorecard.dimensions import fidelity
from lora_eval.scorecard.dimensions.alignment.rows import NAME
from lora_eval.scorecard.dimensions.place import Place, below, interval_text
from lora_eval.scorecard.dimensions.spec import Advised, Finding, Limits

LIMITS = Limits(0.80, 0.60)
# a weight whose interval ends below this share of the base model's margin ignores the prompt
MARGIN_KEPT = 0.75
# a weight can be raised by half before the prompt is lost where the LoRA is merely too strong
ROOM_ABOVE = 1.5
# elements that beat their foils less often than at weight 0, by this with the whole interval, are a fault
ELEMENTS_LOST = -0.05
PROMPT_IGNORED = "prompt ignored"


@dataclass(frozen=True)
class Result:
    """Alignment at one checkpoint and weight; rows are None where they were not measured.

    Attributes:
        score: share of the base model's margin between prompts that is kept.
        clip_t_delta: cosine to the own prompt less that of weight 0.
        foils_beaten_delta: share of foils beaten less that of weight 0.
        negative_works: whether the negative prompt takes its concept away; None where not known.
    """

    score: Measure | None = None
    clip_t_delta: Measure | None = None
    foils_beaten_delta: Measure | None = None
    negative_works: bool | None = None


def read(place: Place) -> Result:
    """The result at a place."""
    row = place.rows_of(NAME)
    negative = place.here(place.evidence(NAME).get("negative")) or {}
    return Result(
        score=row("score"),
        clip_t_delta=row("clip_t_delta"),
        foils_beaten_delta=row("foils_beaten_delta"),
        negative_works=negative.get("works"),
    )


def ignores_prompt(result: Result, place: Place) -> bool:
    """Whether significantly less than MARGIN_KEPT of the base model's margin between prompts is kept."""
    return below(result.score, MARGIN_KEPT)


def counts_against(advised: Advised) -> str:
    """The dimension that an ignored prompt at an everyday weight counts against.

    Usually strength: it is the weight that makes the prompt ignored. It is alignment where the prompt is lost before
    the advised weight is raised by half, or where the advised weight, the best that follows the prompt, hardly shows
    the concept.
    """
    first = min((f.weight for f in advised.failures if f.check == PROMPT_IGNORED), default=math.inf)
    if _at_once(first, advised.place) or fidelity.hardly_shows(advised.place, advised.free):
        return NAME
    return "strength"


def _at_once(weight: float, place: Place) -> bool:
    """Whether a weight is reached before the advised one is raised by half."""
    return weight < ROOM_ABOVE * place.weight - 1e-9


def explain(result: Result) -> Finding:
    """Margin kept; then CLIP-T, elements and the negative prompt where they were measured."""
    assert result.score is not None
    text = f"pictures tell their prompt from the others at {interval_text(result.score)} of the base model's margin (1)"
    delta, elements = result.clip_t_delta, result.foils_beaten_delta
    if delta is not None:
        text += f"; CLIP-T {delta.value:+.3f} against weight 0"
    fault = False
    if elements is not None:
        text += f"; elements beat their foils {elements.value:+.0%} against weight 0"
        fault = elements.ci_high is not None and elements.ci_high < ELEMENTS_LOST
    if result.negative_works is not None:
        text += "; the negative prompt works" if result.negative_works else "; the negative prompt has no sure effect"
    return Finding(text, fault)


def found_above(advised: Advised) -> tuple[float, str] | None:
    """The lowest everyday weight above the advised one at which the prompt is lost as soon as the concept shows.

    Where the prompt is lost only well above the advised weight, that is a matter of strength. Where the advised weight
    itself does not show the concept well, the prompt is lost on the way to it, at whatever weight.
    """
    likeness = fidelity.read(advised.place).score
    shown = likeness is None or likeness.value is None or likeness.value >= fidelity.LIMITS.good
    for place, _ in advised.above:
        row = read(place).score
        if (shown and not _at_once(place.weight, advised.place)) or row is None or row.value is None:
            continue
        if row.value < LIMITS.good and row.ci_high is not None and row.ci_high < (1.0 + LIMITS.good) / 2:
            return place.weight, f"only {interval_text(row)} of the margin is kept"
    return None
