"""What a dimension is made of: the interface between the six dimensions and the rest of the program.

A dimension is one module (or folder) that ends in ``SPEC``, a :class:`DimensionSpec`. It declares how the dimension is
measured, what its typed result is, and the rules that read the result: checks that exclude a weight, the finding in
words, the verdict, and the remedies. :mod:`lora_eval.scorecard.dimensions.registry` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from lora_eval.scorecard.data import Advice, Dimension
from lora_eval.scorecard.dimensions.context import Context
from lora_eval.scorecard.dimensions.place import Place

R = TypeVar("R")

# an everyday weight; what happens above it is the user's own choice
EVERYDAY = 1.0


class Limits(NamedTuple):
    """Scores from ``good`` up are good; below ``poor``, with the whole interval, they are poor."""

    good: float
    poor: float


class Finding(NamedTuple):
    """What was found: one sentence, and whether it is a fault in itself, whatever the score."""

    text: str
    fault: bool = False


class Above(NamedTuple):
    """An everyday weight above the advised one.

    ``sound``: no check failed there that makes pictures useless for judging anything else (see :class:`Check`).
    """

    place: Place
    sound: bool


class Failure(NamedTuple):
    """A check that failed at a weight of the advised checkpoint."""

    weight: float
    check: str


@dataclass(frozen=True)
class Advised:
    """The advised checkpoint and weight, and what was found at its other weights.

    Attributes:
        place: the advised checkpoint and weight.
        free: the weight of the same checkpoint that likeness alone would have chosen.
        failures: checks that failed at the checkpoint's weights above 0.
        above: everyday weights above the advised one, ascending.
    """

    place: Place
    free: Place
    failures: tuple[Failure, ...] = ()
    above: tuple[Above, ...] = ()


@dataclass(frozen=True)
class Check(Generic[R]):
    """A condition that excludes a weight, whatever its likeness. Data files call it a gate.

    Attributes:
        name: as data files and the report call it.
        rank: position in lists of checks, ascending; unique.
        fails: whether it fails at a place, from the dimension's result there.
        counts_against: name of the dimension whose verdict suffers where the check fails at an everyday weight; None
            where no verdict does.
        spoils: pictures that fail it are broken or ignore the prompt, and say nothing about other dimensions.
        verdict: the verdict on a run in which every weight fails it; "" for the general one.
        advice: given where nothing can be recommended and it failed somewhere.
    """

    name: str
    rank: int
    fails: Callable[[R, Place], bool]
    counts_against: Callable[[Advised], str] | None = None
    spoils: bool = False
    verdict: str = ""
    advice: Advice | None = None


@dataclass(frozen=True)
class Remedy(Generic[R]):
    """One row of the table of advice, for a dimension that is weak or poor.

    Attributes:
        seen: whether the row applies, from the dimension's result and answer.
        what: what was seen.
        change: what to change next time.
        otherwise: the row applies only where no other row of its dimension does.
    """

    seen: Callable[[R, Dimension], bool]
    what: str
    change: str
    otherwise: bool = False


@dataclass(frozen=True)
class CellColumn:
    """A column of ``cells.csv`` that the report shows under each picture.

    Attributes:
        name: of the column.
        label: short name for a reader.
        digits: decimals shown.
        about: one sentence that says what the number is.
        rank: position in the list under a picture, ascending; unique.
        colour: how it colours the map of the pictures: ``gain`` (blue above 0, orange below), ``level`` (more is
            bluer), ``fault`` (more is more orange), or "" for a column that colours no map.
    """

    name: str
    label: str
    digits: int
    about: str
    rank: int
    colour: str = ""


def _nothing(advised: Advised) -> None:
    return None


def _advised_place(advised: Advised) -> Place:
    return advised.place


def _not_excused(advised: Advised, reason: str) -> None:
    return None


@dataclass(frozen=True)
class DimensionSpec(Generic[R]):
    """A dimension: its words, how it is measured, and its rules. ``R`` is the type of its result.

    Attributes:
        name: in data files and code.
        title, question: for a reader.
        compared: what the ends of the scale mean, in one line.
        limits: of the verdict.
        add: what to add where the dimension was not measured and no row says why.
        measure: fills the context: columns of the cells, rows of the summary, evidence.
        read: the result at one place.
        explain: the finding in a sentence; called only where the headline was measured.
        remedies: rows of the table of advice, in the order in which they are tried.
        checks: conditions that exclude a weight.
        columns: columns of the cells that the report shows.
        after: dimensions that are measured before this one.
        prepare: what must be measured before all dimensions.
        headline: the measure whose value is the score.
        by_weight: whether each weight has a score of its own; else it belongs to the checkpoint.
        weakest_part: whether the score is the smallest of several parts. The smallest of several noisy numbers lies
            below the truth, so it stays good until the upper end of its interval is below the limit.
        by_condition: keys of the evidence whose values are keyed by condition; an answer shows its own.
        by_checkpoint: key of the evidence whose values are keyed by checkpoint; an answer shows its own as ``curve``.
        read_at: the place at which the dimension is judged.
        excuse: the reason rewritten where a low score is no fault of this dimension, else None.
        found_above: the lowest everyday weight above the advised one that shows a fault, and the fault in words.
    """

    name: str
    title: str
    question: str
    compared: str
    limits: Limits
    add: str
    measure: Callable[[Context], None]
    read: Callable[[Place], R]
    explain: Callable[[R], Finding]
    remedies: tuple[Remedy[R], ...]
    checks: tuple[Check[R], ...] = ()
    columns: tuple[CellColumn, ...] = ()
    after: tuple[str, ...] = ()
    prepare: Callable[[Context], None] | None = None
    headline: str = "score"
    by_weight: bool = True
    weakest_part: bool = False
    by_condition: tuple[str, ...] = ()
    by_checkpoint: str = ""
    read_at: Callable[[Advised], Place] = _advised_place
    excuse: Callable[[Advised, str], str | None] = _not_excused
    found_above: Callable[[Advised], tuple[float, str] | None] = _nothing


AnySpec = DimensionSpec[Any]
