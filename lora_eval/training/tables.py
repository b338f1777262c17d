"""Losses in CSV tables: our ``history.csv``, TensorBoard's download, wandb's export, TrainTrain's log."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

from lora_eval.errors import RunError
from lora_eval.training.parts import LossHistory, Record, make_history
from lora_eval.training.trainers import (
    STEP_COLUMNS,
    is_average,
    is_loss,
    is_validation,
    rate_name,
    train_name,
    validation_name,
)

# lines before the header are looked through up to here: TrainTrain writes its settings first
PREAMBLE = 200
_BOUNDS = ("__MIN", "__MAX")


class _Columns(NamedTuple):
    step: int
    train: int | None
    validation: int | None
    rate: int | None
    debiased: int | None
    error: int | None
    averaged: bool


def find_header(text: str) -> tuple[int, str] | None:
    """Index of the line that heads a table of losses, and its separator; None where there is none."""
    for number, line in enumerate(text.splitlines()[:PREAMBLE]):
        for separator in (",", ";", "\t"):
            names = [cell.strip().strip('"').lower() for cell in line.split(separator)]
            if len(names) < 2 or "%|" in line or not any(name in STEP_COLUMNS for name in names):
                continue
            if any(is_loss(name) for name in names) or ("wall time" in names and "value" in names):
                return number, separator
    return None


def read_table(path: Path, text: str, header: tuple[int, str]) -> LossHistory:
    """Read the table below ``header`` (see :func:`find_header`); an empty cell is no value, ``nan`` is one.

    Raises:
        RunError: no row, several runs in one table, a cell that is no number; it names the line.
    """
    start, separator = header
    rows = list(csv.reader(text.splitlines()[start:], delimiter=separator))
    names = [name.strip() for name in rows[0]]
    if len(rows) < 2:
        raise RunError(f"{path} needs the columns step and loss; found {', '.join(names)} and no row below")
    columns, words = _choose(path, names)
    records: list[Record] = []
    plain: list[Record] = []
    for number, row in enumerate(rows[1:], start=start + 2):
        if not any(cell.strip() for cell in row):
            continue
        try:
            step, loss, val_loss, lr, better, error = (_number(row, at) for at in columns[:6])
        except ValueError as problem:
            raise RunError(f"{path}, line {number}: {problem}; every cell must be a number or empty") from None
        if step is None:
            raise RunError(f"{path}, line {number}: no step; every line needs one")
        if loss is not None:
            rate = math.nan if lr is None else lr
            plain.append(Record(step, loss, lr=rate))
            if better is not None:
                # a loss that is NaN must not hide behind an older clean column
                records.append(Record(step, better if math.isfinite(loss) else loss, lr=rate))
        if val_loss is not None:
            point = Record(step, val_loss, True, error=math.nan if error is None else error)
            plain.append(point)
            records.append(point)
    usable = columns.debiased is not None and len(records) == len(plain)
    source = path.name + (" (loss_debiased)" if usable else words)
    history = make_history([path], records if usable else plain, source, columns.averaged)
    if names[columns.step].lower() == "epoch":
        history.unit = "epoch"
    used = {columns.train, columns.validation, columns.debiased}
    left = [n for i, n in enumerate(names) if is_loss(n) and i not in used and n not in _OWN and n[-5:] not in _BOUNDS]
    if left:
        history.notes.append(f"left out: the columns {', '.join(left)}")
    return history


_OWN = ("loss_debiased", "loss_smooth", "train_loss_fixed", "negative_loss")


def _choose(path: Path, names: list[str]) -> tuple[_Columns, str]:
    """The columns to read and what to add to the source."""
    low = [name.lower() for name in names]
    step = next(low.index(name) for name in STEP_COLUMNS if name in low)
    if "value" in low and "wall time" in low:
        # TensorBoard's download holds one tag and says which in the file's name alone
        tag = path.stem.rsplit("-tag-", 1)[-1] if "-tag-" in path.stem else ""
        if tag and not is_loss(tag):
            raise RunError(f"{path} holds {tag}, which is no loss; download the scalar of the training loss")
        at, validation = low.index("value"), is_validation(tag)
        train_at, val_at = (None, at) if validation else (at, None)
        return _Columns(step, train_at, val_at, None, None, None, is_average(tag)), f" ({tag or 'Value'})"
    tags: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        if i != step and not name.endswith(_BOUNDS):
            # wandb heads a column "run - tag"
            tags.setdefault(name.rsplit(" - ", 1)[-1], []).append(i)
    picked: list[int | None] = []
    losses = [tag for tag in tags if tag not in _OWN]
    for wanted in (train_name(losses), validation_name(losses), rate_name(tags)):
        places = tags.get(wanted or "", [])
        if len(places) > 1:
            runs = ", ".join(names[i] for i in places[:4])
            raise RunError(f"{path} holds {len(places)} runs ({runs}); export one run a file")
        picked.append(places[0] if places else None)
    train, validation_at, rate = picked
    if train is None and validation_at is None:
        raise RunError(f"{path} needs the columns step and loss; found {', '.join(names)}")
    # TrainTrain's Loss is an exponential mean already (decay 0.9)
    averaged = "learning rate 1" in low or (train is not None and is_average(names[train]))
    own = {name: low.index(name) if name in low else None for name in ("loss_debiased", "val_se")}
    wandb = train is not None and " - " in names[train]
    words = f" ({names[train]})" if wandb and train is not None else ""
    return _Columns(step, train, validation_at, rate, own["loss_debiased"], own["val_se"], averaged), words


def _number(row: list[str], at: int | None) -> float | None:
    """A cell as a number; None for an empty one, NaN for one that says so."""
    text = row[at].strip() if at is not None and at < len(row) else ""
    return float(text) if text else None
