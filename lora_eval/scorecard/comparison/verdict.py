"""What a comparison says in words: who is ahead in which dimension, and which one to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

CERTAIN = 0.05
# what the pictures of two sides share; OPEN: nothing
PAIRED, BY_PROMPT, OPEN = "prompt and seed", "prompt", "none"


@dataclass
class Row:
    """One measure of one pair of sides: a row of ``compare.csv``.

    ``pairing``: what the pictures compared share, one of PAIRED, BY_PROMPT and OPEN. ``difference`` is
    ``first_value - second_value`` over ``n`` pairs (pictures of the smaller side where seeds are not shared); ``ahead``
    is the label of the better side, ``tie``, or "" where nothing was tested. ``p`` is the sign-flip test,
    ``p_best`` the smallest it could have been with so many pairs, ``p_holm`` p corrected over all rows whose
    ``p_best`` is small enough to count, ``scope`` what the interval speaks of.
    """

    first: str
    second: str
    dimension: str
    measure: str
    better: str
    first_value: float | None = None
    second_value: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    prompts: int = 0
    p: float | None = None
    p_best: float | None = None
    p_holm: float | None = None
    ahead: str = ""
    scope: str = ""
    note: str = ""
    pairing: str = ""


def standing(rows: Sequence[Row], first: str, second: str) -> dict[str, str]:
    """Dimension -> who is ahead: a label, ``tie``, or ``mixed``; only what was tested.

    A dimension goes to the side that is ahead in one of its measures and behind in none.
    """
    found: dict[str, str] = {}
    mine = [row for row in rows if (row.first, row.second) == (first, second) and row.ahead]
    for dimension in dict.fromkeys(row.dimension for row in mine):
        ahead = {row.ahead for row in mine if row.dimension == dimension} - {"tie"}
        found[dimension] = "tie" if not ahead else "mixed" if len(ahead) > 1 else ahead.pop()
    return found


def verdict(labels: Sequence[str], rows: Sequence[Row]) -> str:
    """One sentence: which one to take, and in what it is ahead."""
    wins: dict[tuple[str, str], list[str]] = {}
    mixed: dict[tuple[str, str], list[str]] = {}
    tested = False
    for first, second in combinations(labels, 2):
        for dimension, who in standing(rows, first, second).items():
            tested = True
            if who == "mixed":
                mixed.setdefault((first, second), []).append(dimension)
            elif who != "tie":
                wins.setdefault((who, second if who == first else first), []).append(dimension)
    paired = [row.n for row in rows if row.n and row.pairing in ("", PAIRED)]
    pairs = max(paired, default=0) or max((row.n for row in rows), default=0)
    if not tested:
        return "Not decided: no measure has an interval; draw more seeds and prompts, and score with --data."
    split = [pair for pair in mixed] + [pair for pair in wins if pair[::-1] in wins]
    unbeaten = [one for one in labels if not any((other, one) in wins for other in labels)]
    best = [one for one in unbeaten if any((one, other) in wins for other in labels)]
    doubt = _doubt(rows)
    if not wins and not mixed and not paired:
        return (
            f"A tie: no dimension tells {_and(labels)} apart over {pairs} pictures of each that share no seed; "
            "the same prompts and seeds would narrow the intervals."
        )
    if not wins and not mixed:
        return (
            f"A tie: no dimension tells {_and(labels)} apart over {pairs} pairs of pictures; "
            "more prompts or seeds would narrow the intervals."
        )
    if len(best) == 1 and not any(best[0] in pair for pair in split):
        behind = [f"{other} in {_and(wins[best[0], other])}" for other in labels if (best[0], other) in wins]
        level = [other for other in labels if other != best[0] and (best[0], other) not in wins]
        rest = f"; a tie with {_and(level)}" if level else ""
        return f"{'Likely' if doubt else 'Take'} {best[0]}: ahead of {_and(behind)}, behind in nothing{rest}{doubt}."
    sentences = [f"{one} is ahead of {other} in {_and(names)}" for (one, other), names in wins.items()]
    sentences += [f"{one} and {other} are each ahead in part of {_and(names)}" for (one, other), names in mixed.items()]
    if len(labels) > 2:
        sentences = [
            f"{_and(best)} lead{'s' * (len(best) == 1)} in {name}" for name, best in _leaders(labels, wins).items()
        ]
    return f"No clear winner{': ' if sentences else ''}{'; '.join(sentences)}{doubt}."


def _leaders(labels: Sequence[str], wins: dict[tuple[str, str], list[str]]) -> dict[str, list[str]]:
    """Dimension -> who is ahead of somebody there and behind nobody."""
    found = {}
    for name in dict.fromkeys(name for names in wins.values() for name in names):
        beaten = {other for (_, other), names in wins.items() if name in names}
        best = [one for one in labels if one not in beaten and any(name in wins.get((one, o), ()) for o in labels)]
        if best:
            found[name] = best
    return found


def _doubt(rows: Sequence[Row]) -> str:
    """Said behind a verdict of which no part stands after correction."""
    ahead = [row for row in rows if row.ahead not in ("", "tie")]
    tested = [row.p_holm for row in ahead if row.p_holm is not None]
    if not ahead or (tested and min(tested) <= CERTAIN):
        return ""
    if not tested:
        return " (not sure: too few pairs for a test; draw more seeds)"
    count = sum(row.p_holm is not None for row in rows)
    return f" (not sure: over {count} tests the smallest corrected p is {min(tested):.2g}; draw more seeds)"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
