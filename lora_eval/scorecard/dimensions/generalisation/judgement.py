"""Generalisation of one checkpoint and weight: result, checks, finding, remedies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lora_eval.scorecard.data import Dimension, Measure
from lora_eval.scorecard.dimensions import fidelity
from lora_eval.scorecard.dimensions.generalisation.copies import NAME
from lora_eval.scorecard.dimensions.generalisation.parts import PARTS
from lora_eval.scorecard.dimensions.place import Place, interval_text
from lora_eval.scorecard.dimensions.spec import Advised, Finding, Limits

LIMITS = Limits(0.60, 0.30)
# a share of copies above this, with its whole interval, excludes a weight
COPY_RATE = 0.05
# a weight whose interval ends below this share of the variety between seeds has collapsed
COLLAPSED = 0.25
# pictures that merely ignore their prompts lie near the middle of the training pictures, and as near to held-out ones:
# data copying is a fault only beside a held-out gap above this
GAP = 0.1
_SAYS = {part.name: part.says for part in PARTS}


@dataclass(frozen=True)
class CopiedPair:
    """A picture, and the training picture that it is a copy of."""

    image: str
    training: str


@dataclass(frozen=True)
class Result:
    """Generalisation at one checkpoint and weight; rows are None where they were not measured.

    Attributes:
        score, copies, diversity_kept, leak, held_out_gap, data_copying: rows of the summary, see ``docs/measures.md``.
        weakest: the part that the score is; "" where there is no score.
        pairs: the copies found, the most alike first.
        not_judged: parts that were not measured, in words.
    """

    score: Measure | None = None
    copies: Measure | None = None
    diversity_kept: Measure | None = None
    leak: Measure | None = None
    held_out_gap: Measure | None = None
    data_copying: Measure | None = None
    weakest: str = ""
    pairs: tuple[CopiedPair, ...] = ()
    not_judged: tuple[str, ...] = ()

    @property
    def data_are_copied(self) -> bool:
        """Whether more pictures than by chance lie near training pictures, and likeness to held-out ones is less."""
        near, gap = self.data_copying, self.held_out_gap
        if near is None or near.ci_low is None or gap is None:
            return False
        return near.ci_low > (near.baseline or 0.0) and (gap.value or 0.0) > GAP


def read(place: Place) -> Result:
    """The result at a place."""
    row, found = place.rows_of(NAME), place.evidence(NAME)
    notes = sorted(place.index.measurement.notes)
    return Result(
        score=row("score"),
        copies=row("copies"),
        diversity_kept=row("diversity_kept"),
        leak=row("leak"),
        held_out_gap=row("held_out_gap"),
        data_copying=row("data_copying"),
        weakest=(place.here(found.get("weakest")) or {}).get("part", ""),
        pairs=tuple(CopiedPair(p["image"], p["training"]) for p in place.here(found.get("copies")) or ()),
        not_judged=tuple(key.split(".", 1)[1].replace("_", " ") for key in notes if key.startswith(f"{NAME}.")),
    )


def copies(result: Result, place: Place) -> bool:
    """Whether the share of copies is significantly above COPY_RATE and above weight 0's."""
    row = result.copies
    return row is not None and (row.ci_low or 0.0) > max(COPY_RATE, row.baseline or 0.0)


def explain(result: Result) -> Finding:
    """The weakest part; then copies and data copying where they are found, and what was not judged."""
    assert result.score is not None
    text = f"weakest part: {interval_text(result.score)} {_SAYS[result.weakest or 'fidelity_kept']}"
    if result.weakest == "leak" and result.leak is not None:
        text = (
            f"without the trigger pictures move {interval_text(result.leak)} as far towards the concept as with it (1)"
        )
    if result.pairs:
        first = result.pairs[0]
        text += f"; {len(result.pairs)} pictures look copied, {first.image} from {first.training}"
    near = result.data_copying
    if near is not None and result.data_are_copied and result.weakest != "data_copying":
        text += f"; {near.value:.0%} of the pictures lie nearer to a training picture than held-out ones do"
    if result.not_judged:
        text += f"; not judged: {', '.join(result.not_judged)}"
    return Finding(text, fault=bool(result.pairs) or result.data_are_copied)


def read_at(advised: Advised) -> Place:
    """Where the concept shows: a weight that hardly shows it says nothing of how it generalises."""
    return advised.free if fidelity.hardly_shows(advised.place, advised.free) else advised.place


def found_above(advised: Advised) -> tuple[float, str] | None:
    """The lowest everyday weight above the advised one whose score lies below the limit with its whole interval."""
    for place, sound in advised.above:
        result = read(place)
        row = result.score
        if sound and row is not None and row.ci_high is not None and row.ci_high < LIMITS.good:
            return place.weight, explain(result).text
    return None


def weakest_is(part: str) -> Callable[[Result, Dimension], bool]:
    """Whether a row of advice applies: the part is the smallest."""
    return lambda result, answer: result.weakest == part


def copies_seen(result: Result, answer: Dimension) -> bool:
    """Whether copies were found, at this weight or an everyday one above it; the reason then names them.

    The reason names them as well where they could not be judged, which is no finding.
    """
    return bool(result.pairs) or ("copies" in answer.reason and "copies" not in result.not_judged)
