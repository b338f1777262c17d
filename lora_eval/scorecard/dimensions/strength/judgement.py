"""Strength control of one checkpoint: result, checks, finding."""

from __future__ import annotations

from dataclasses import dataclass

from lora_eval.scorecard.data import Measure
from lora_eval.scorecard.dimensions.place import Place, interval_text
from lora_eval.scorecard.dimensions.spec import Finding, Limits
from lora_eval.scorecard.dimensions.strength.rows import NAME

LIMITS = Limits(0.50, 0.25)
# a share of blank pictures that excludes a weight, where it is above weight 0's by BLANK_MORE as well
BLANK_SHARE, BLANK_MORE = 0.5, 0.01
# distortion from this weight or a lower one breaks pictures at weights of everyday use
EARLY_ONSET = 0.6
_SAYS = {
    "monotony": "it does not rise with every step of weight",
    "smoothness": "it rises in a jump",
    "unbroken": "pictures break early",
    "room": "half of the likeness is there at a small weight already",
}


@dataclass(frozen=True)
class Result:
    """Strength of one checkpoint, and blank pictures at one of its weights; rows are None where not measured.

    Attributes:
        score: row of the summary.
        blank_share: share of pictures of a single shade at this weight.
        onset: weight from which pictures are distorted.
        usable: lowest and highest usable weight, None where none is.
        weakest: the part that the score is; "" where there is no score.
    """

    score: Measure | None = None
    blank_share: Measure | None = None
    onset: float | None = None
    usable: tuple[float, float] | None = None
    weakest: str = ""


def read(place: Place) -> Result:
    """The result at a place."""
    row = place.rows_of(NAME)
    curve = (place.evidence(NAME).get("curves") or {}).get(place.where.checkpoint) or {}
    usable, onset = curve.get("usable"), row("onset")
    return Result(
        score=row("score"),
        blank_share=row("blank_share"),
        onset=None if onset is None else onset.value,
        usable=(usable[0], usable[-1]) if usable else None,
        weakest=curve.get("weakest") or "",
    )


def blank(result: Result, place: Place) -> bool:
    """Whether at least half of the pictures, and more than at weight 0, are of a single shade, as NaN is drawn."""
    row = result.blank_share
    return row is not None and (row.value or 0.0) >= max(BLANK_SHARE, (row.baseline or 0.0) + BLANK_MORE)


def distorted(result: Result, place: Place) -> bool:
    """Whether the weight is at or above the onset of distortion."""
    return result.onset is not None and place.weight >= result.onset


def explain(result: Result) -> Finding:
    """Usable weights and onset; then the weakest part."""
    assert result.score is not None
    text = f"usable from {result.usable[0]:g} to {result.usable[1]:g}" if result.usable else "no usable weight"
    text += f", distorted from {result.onset:g} on" if result.onset is not None else ", no distortion seen"
    if result.weakest:
        weak = (result.score.value or 0.0) < LIMITS.good
        says = f": {_SAYS[result.weakest]}" if weak else ""
        text += f"; weakest part {result.weakest} {interval_text(result.score)}" + says
    return Finding(text)
