"""A loss history put together from records in the order written: resumed parts, restarted counters.

A counter that goes back has one of three causes, and each is named in ``LossHistory.notes``:

- to a step inside the run: a resume from an older checkpoint; what followed that step is replaced;
- to the start, with the loss near where it was: a resume whose counter restarts; the part is appended;
- to the start, with the loss where it began: another run; the earlier one is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lora_eval.errors import RunError

# points of a part's start and end whose medians are compared: a fifth of the part, 3 to 50
COMPARED = (3, 50)
# more returns than this share of the points are no resumes: the rows are in no order
UNORDERED = 0.1


class Record(NamedTuple):
    """One value as it was written: its step, the loss, and what is known beside it (NaN: unknown)."""

    step: float
    value: float
    validation: bool = False
    lr: float = math.nan
    error: float = math.nan


@dataclass
class LossHistory:
    """A loss by step and, where there is one, a validation loss with steps of its own.

    Attributes:
        step, loss: (n,) training loss; a loss that was written as NaN stays NaN. Where the table has
            ``loss_debiased`` (each timestep's loss over the base model's there), that is taken: most of
            the timestep noise is gone from it.
        val_step, val_loss: (m,) validation loss, empty where none was kept.
        val_error: (m,) standard error of ``val_loss``, empty where unknown.
        lr: (n,) learning rate, NaN where unknown.
        source: what was read, for the report, for example ``TensorBoard loss/current``.
        averaged: the loss is a running average already, so its noise says nothing.
        unit: what ``step`` counts: ``step`` or ``epoch``.
        parts: how many parts of a resumed run were joined; 1 for a run in one piece.
        notes: what was joined, converted or left out, one sentence each.
        files: the files that were read.
    """

    step: np.ndarray
    loss: np.ndarray
    val_step: np.ndarray = field(default_factory=lambda: np.zeros(0))
    val_loss: np.ndarray = field(default_factory=lambda: np.zeros(0))
    val_error: np.ndarray = field(default_factory=lambda: np.zeros(0))
    lr: np.ndarray = field(default_factory=lambda: np.zeros(0))
    source: str = ""
    averaged: bool = False
    unit: str = "step"
    parts: int = 1
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def make_history(
    files: Sequence[Path], records: Sequence[Record], source: str, averaged: bool = False, bar: int | None = None
) -> LossHistory:
    """A history from records in the order written.

    Args:
        files: what was read, the first one for messages.
        records: training and validation losses.
        source, averaged: as in LossHistory.
        bar: length of a progress bar that starts anew with every epoch, None where the counter goes on.

    Raises:
        RunError: no record.
    """
    if not records:
        raise RunError(f"{files[0]} holds no loss; name the log of a training that has begun")
    notes: list[str] = []
    kept, parts = _join(list(records), notes, bar)
    train = {r.step: r for r in kept if not r.validation}
    val = {r.step: r for r in kept if r.validation}
    steps, val_steps = sorted(train), sorted(val)
    errors = np.array([val[s].error for s in val_steps], dtype=float)
    return LossHistory(
        np.array(steps, dtype=float),
        np.array([train[s].value for s in steps], dtype=float),
        np.array(val_steps, dtype=float),
        np.array([val[s].value for s in val_steps], dtype=float),
        val_error=errors if np.isfinite(errors).any() else np.zeros(0),
        lr=np.array([train[s].lr for s in steps], dtype=float),
        source=source,
        averaged=averaged,
        parts=parts,
        notes=notes,
        files=list(files),
    )


def _join(records: list[Record], notes: list[str], bar: int | None) -> tuple[list[Record], int]:
    """Records with one rising counter, and the number of parts joined."""
    lead = any(not r.validation for r in records)
    counted = [i for i, r in enumerate(records) if r.validation != lead]
    returns = [b for a, b in pairwise(counted) if records[b].step < records[a].step]
    if bar is None and len(returns) > 3 and len(returns) > UNORDERED * len(counted):
        notes.append("the rows are in no order of their steps and were sorted by step")
        return records, 1
    edges = [0]
    for i in returns:
        # a validation before the first step of a part belongs to that part
        while i - 1 > edges[-1] and records[i - 1].validation == lead and records[i - 1].step <= records[i].step:
            i -= 1
        edges.append(i)
    pieces = [records[a:b] for a, b in zip(edges, [*edges[1:], len(records)], strict=True)]
    kept, offset, parts = pieces[0], 0.0, 1
    begin = _first(pieces[0], lead)
    for piece in pieces[1:]:
        own = [r for r in kept if r.validation != lead]
        gap = float(np.median(np.diff([r.step for r in own]))) if len(own) > 1 else 1.0
        first, last = _first(piece, lead), max(r.step for r in own)
        if first > begin + gap:
            gone = sum(r.step >= first + offset for r in own)
            notes.append(f"resumed at step {first + offset:g}: {gone} older points from there on are replaced")
            kept = [r for r in kept if r.step < first + offset]
            parts += 1
        elif bar is not None:
            offset += bar
            parts += 1
        elif _goes_on([r.value for r in own], [r.value for r in piece if r.validation != lead]):
            offset = last - first + gap
            parts += 1
            notes.append(
                f"the counter starts anew at {first:g} after step {last:g}, but the loss goes on from where it was: "
                f"read as one resumed run, {offset:g} added to the later steps"
            )
        else:
            kept, offset, parts = [], 0.0, 1
            notes.append(
                f"the counter and the loss start anew after step {last:g}: the earlier run ({len(own)} points) is "
                "left out; keep each run in a file of its own to read it"
            )
        begin = min(begin, first) if kept else first
        kept = kept + [r._replace(step=r.step + offset) for r in piece]
    if bar is not None and parts > 1:
        notes.append(f"the progress bar starts anew {parts - 1} times: read as {parts} epochs of {bar} steps")
    return kept, parts


def _first(piece: list[Record], lead: bool) -> float:
    return next(r.step for r in piece if r.validation != lead)


def _goes_on(before: list[float], after: list[float]) -> bool:
    """Whether the start of ``after`` lies nearer the end of ``before`` than its start, by medians of logarithms.

    Parts too short to be compared count as one run.
    """
    a, b = (np.array([math.log(v) for v in part if math.isfinite(v) and v > 0]) for part in (before, after))
    size = int(np.clip(min(len(a), len(b)) // 5, *COMPARED))
    if min(len(a), len(b)) < 2 * size:
        return True
    start, end, new = float(np.median(a[:size])), float(np.median(a[-size:])), float(np.median(b[:size]))
    return abs(new - end) <= abs(new - start)
