"""Tables of the validity bench about the advice: against fresh pictures, with more pictures, with a third of them."""

from __future__ import annotations

from typing import Any

from benchmarks._planted import KINDS
from benchmarks._validity_advice import (
    EQUAL,
    WEIGHT_OFF,
    Result,
    checkpoint_lost,
    on_fresh,
    reader_choice,
    weight_off,
)
from benchmarks._validity_rows import mean, number, of, of_kind, table

ADVICE = ("weight within 0.1", "quality lost by it", "checkpoint within 2 points", "not surely worse")
HEAD = ("kind", "with a weight", *ADVICE, "own pictures: weight", "checkpoint")


def against_the_reader(results: list[Result]) -> list[str]:
    """The advice of the grid, one row a kind."""
    pictures = max((len(entry["named"]) for r in results for entry in r.get("fresh", [])), default=0)
    return [
        f"Advice against the reader, on {pictures} fresh pictures for each weight in question, in "
        "steps of a tenth, and for each other checkpoint at its best weight; what is within 2 points of the best "
        "counts as best. Beside it the same by the scorecard's own pictures:",
        *_by_kind(results),
        "The reader itself, choosing a weight of the advised checkpoint by the scorecard's own pictures, is within 0.1 "
        f"of the best in {of(reader_choice(r) for r in results)}.",
    ]


def _advice_row(results: list[Result], name: str) -> list[Any]:
    """A kind's advice, of all kinds where ``name`` is "", and the same by the scorecard's own pictures."""
    mine = of_kind(results, name) if name else results
    own = of(None if (off := weight_off(r)) is None else off <= WEIGHT_OFF for r in mine)
    own_right = of(None if (off := checkpoint_lost(r)) is None else off <= EQUAL + 1e-9 for r in mine)
    return [name or "all", of(r["weight"] is not None for r in mine), *advice_cells(mine), own, own_right]


def _by_kind(results: list[Result]) -> list[str]:
    kinds = [name for name in KINDS if of_kind(results, name)]
    return [table(HEAD, [_advice_row(results, kind) for kind in (*kinds, "")])]


def by_more(results: list[Result]) -> list[Result]:
    """The results that the grid with more pictures has, as if there were no other."""
    return [{**r, **r["more"]} for r in results if "more" in r]


def with_more_pictures(results: list[Result]) -> list[str]:
    """The advice of the grid with more pictures, one row a kind."""
    swept = by_more(results)
    if not swept:
        return []
    few, many = (max(r["pictures"] for r in part) for part in (results, swept))
    return [
        f"The advice of a grid over the same weights with more prompts and seeds, {many} pictures of the concept a "
        f"weight where the grid above has {few}:",
        *_by_kind(swept),
        "The reader itself, choosing by the pictures of that grid, is within 0.1 of the best in "
        f"{of(reader_choice(r) for r in swept)}.",
    ]


def adaptive(results: list[Result]) -> list[str]:
    """How often a third of a grid's pictures, chosen by the adaptive sweep, gives the advice of all."""
    rows = []
    for grid, answers in (
        ("the grid", [r.get("adaptive", {}) for r in results]),
        ("with more pictures", [r["adaptive"] for r in by_more(results)]),
    ):
        tried = [a for a in answers if "same" in a]
        if tried:
            most = max(a["pictures"] for a in tried)
            rows.append(
                [grid, f"{most} of {max(a['of'] for a in tried)}", of(a["same"] for a in tried),
                 of(a["tied"] for a in tried), of(a["less_a_seed"]["same"] for a in tried),
                 of(a["less_a_seed"]["tied"] for a in tried)]
            )  # fmt: skip
    head = ("grid", "pictures at most", "the same advice", "that or a tie", "without its last seed", "that or a tie")
    what = (
        "A third of a grid's pictures, chosen by the adaptive sweep: its advice, or one that the grid declares a tie "
        "with its own; beside it the same for the grid without its last seed:"
    )
    return [what, table(head, rows)] if rows else []


def advice_cells(results: list[Result]) -> list[str]:
    """Weights near the best, quality they lose, checkpoints as good as the best, those not surely worse."""
    found = [advised for r in results if (advised := on_fresh(r)) is not None]
    return [
        of(a.near for a in found),
        number(mean([a.quality_lost for a in found])),
        of(a.equal for a in found),
        of(not a.surely_worse for a in found),
    ]
