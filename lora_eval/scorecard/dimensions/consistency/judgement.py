"""Consistency of one checkpoint and weight: result, check, finding, remedies."""

from __future__ import annotations

from dataclasses import dataclass

from lora_eval.scorecard.data import Measure
from lora_eval.scorecard.dimensions import fidelity
from lora_eval.scorecard.dimensions.consistency.rows import NAME, NO_EFFECT
from lora_eval.scorecard.dimensions.place import Place, interval_text, upper_end
from lora_eval.scorecard.dimensions.spec import Advised, Finding, Limits

LIMITS = Limits(0.50, 0.25)
# a change below this share of the distance between two seeds is no effect where likeness does not grow either
HARDLY_ANY_EFFECT = 0.33
# with one seed there is no distance to compare with; a feature's change below this is rounding
NO_CHANGE = 1e-4
# draws are of two kinds: one line holds this share of what seeds change, and that many times weight 0's
SPLIT_SHARE, SPLIT_RATIO = 0.4, 3.0
# the style varies more between seeds than the base model's: by so much, and at all in nine of ten resamples
SPREAD_RATIO = 1.6
_NINE_OF_TEN = 1.2816 / 1.96
FEW_PICTURES = 12
# style that varies this much more between seeds is found even where pictures break: breaking alone does not do it
MIXED_BEYOND_BREAKING = 3.0
# a share of drifting pictures above this, with its whole interval, is a fault
DRIFT_SHARE = 0.05


@dataclass(frozen=True)
class Result:
    """Consistency at one checkpoint and weight; rows are None where they were not measured.

    Attributes:
        score, carlos_consistency, carlos_strength, drift_share, split_ratio, split_share, style_spread_ratio: rows of
            the summary, see ``docs/measures.md``.
        drifting: how many pictures are listed as drifting.
    """

    score: Measure | None = None
    carlos_consistency: Measure | None = None
    carlos_strength: Measure | None = None
    drift_share: Measure | None = None
    split_ratio: Measure | None = None
    split_share: Measure | None = None
    style_spread_ratio: Measure | None = None
    drifting: int = 0

    @property
    def splits(self) -> bool:
        """Whether draws of one prompt fall into two kinds: along one line they vary far more than at weight 0."""
        ratio, share = self.split_ratio, self.split_share
        if ratio is None or share is None or ratio.value is None or share.value is None:
            return False
        return ratio.value > SPLIT_RATIO and share.value > SPLIT_SHARE

    def style_varies_more(self, limit: float = SPREAD_RATIO) -> bool:
        """Whether the style varies at least ``limit`` times as much between seeds as the base model's."""
        spread = self.style_spread_ratio
        return spread is not None and varies_more(spread.value, spread.ci_low, spread.n, limit)


def read(place: Place) -> Result:
    """The result at a place."""
    row = place.rows_of(NAME)
    return Result(
        score=row("score"),
        carlos_consistency=row("carlos_consistency"),
        carlos_strength=row("carlos_strength"),
        drift_share=row("drift_share"),
        split_ratio=row("split_ratio"),
        split_share=row("split_share"),
        style_spread_ratio=row("style_spread_ratio"),
        drifting=len(place.here(place.evidence(NAME).get("drifting")) or ()),
    )


def varies_more(ratio: float | None, low: float | None, n: float | None, limit: float = SPREAD_RATIO) -> bool:
    """Whether a ratio of style spreads is at least ``limit``, and above 1 in nine of ten resamples.

    Four seeds make the 95 % interval wide: a style that only some seeds show is a matter of few draws, so the interval
    is not required to lie above 1. Its 90 % bound is read from the 95 % interval as that of a normal distribution of
    the logarithm, as :meth:`Draws.positive` makes it. Resamples of fewer than 12 pictures say too little about a
    spread: there the lower end itself must reach the limit.

    Args:
        ratio: the ratio; low: lower end of its 95 % interval; None where not measured.
        n: number of pictures behind it.
        limit: smallest ratio that counts.
    """
    if ratio is None or low is None or low <= 0:
        return False
    if (n or 0) < FEW_PICTURES:
        return low >= limit
    return ratio >= limit and ratio * (low / ratio) ** _NINE_OF_TEN > 1.0


def no_effect(result: Result, place: Place) -> bool:
    """Whether even the checkpoint's largest weight changes pictures by no more than noise.

    The change is compared with the distance between two seeds at weight 0: an interval that ends below a tenth of it
    is no effect; one that ends below a third is none where likeness does not grow either.
    """
    largest = place.index.largest_weight(place.where.checkpoint)
    if largest is None:
        return False
    top = place.at(largest)
    effect = read(top).carlos_strength
    if effect is None or effect.value is None:
        return False
    upper = upper_end(effect)
    between_seeds = effect.baseline if effect.baseline is not None else 0.0
    if upper < max(NO_CHANGE, NO_EFFECT * between_seeds):
        return True
    gain = fidelity.read(top).clip_i_gain
    unmoved = gain is not None and gain.ci_low is not None and gain.ci_low <= 0.0
    return upper < HARDLY_ANY_EFFECT * between_seeds and unmoved


def explain(result: Result) -> Finding:
    """Agreement between seeds; then drift, two kinds of draws and style spread where they are found."""
    assert result.score is not None
    fault = False
    known = result.carlos_consistency is not None and result.carlos_consistency.ceiling is not None
    one = "what the references would give" if known else "the same change each time"
    agreement = interval_text(result.score)
    text = f"the change that the LoRA makes agrees between seeds at {agreement}; 0 is noise, 1 {one}"
    drift = result.drift_share
    if drift is not None and drift.value:
        count = round((drift.value or 0) * drift.n)
        text += f"; {count} of {drift.n} pictures drift from the other seeds of their prompt"
        fault |= (drift.ci_low or 0.0) > max(DRIFT_SHARE, drift.baseline or 0.0)
    if result.splits and result.split_share is not None:
        share = result.split_share.value
        text += f"; draws fall into two kinds: {share:.0%} of what seeds change lies on one line"
        fault = True
    spread = result.style_spread_ratio
    if spread is not None and result.style_varies_more():
        text += f"; the style varies {spread.value:.1f} times as much between seeds as the base model's"
        fault = True
    return Finding(text, fault)


def found_above(advised: Advised) -> tuple[float, str] | None:
    """The lowest everyday weight above the advised one at which the style varies between seeds."""
    for place, sound in advised.above:
        result = read(place)
        spread = result.style_spread_ratio
        if spread is not None and result.style_varies_more(SPREAD_RATIO if sound else MIXED_BEYOND_BREAKING):
            return place.weight, f"the style varies {spread.value:.1f} times as much between seeds"
    return None
