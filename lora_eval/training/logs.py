"""Loss histories from anywhere: our ``history.csv``, TensorBoard event files, kohya's text log.

Which tag holds the loss differs from trainer to trainer; the tables below know the common ones.
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lora_eval.errors import RunError
from lora_eval.training.events import read_scalars

EVENT_MARK = "tfevents"
# most telling first: kohya's own running average hides the steps that the diagnosis wants to see
TRAIN_TAGS = (
    "loss/debiased",
    "loss/current",
    "loss/step",
    "loss/train",
    "train/loss",
    "train_loss",
    "loss",
    "loss/average",
    "loss/epoch",
    "loss/epoch_average",
)
VALIDATION_TAGS = (
    "loss/validation/epoch_average", "loss/validation/step_average", "loss/validation/epoch_current",
    "loss/validation/step_current", "loss/validation", "loss/val", "val/loss", "val_loss", "validation_loss",
    "validation/loss",
)  # fmt: skip
RATE_TAGS = ("lr/unet", "lr/group0", "lr/textencoder", "lr", "learning_rate")


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
    """

    step: np.ndarray
    loss: np.ndarray
    val_step: np.ndarray = field(default_factory=lambda: np.zeros(0))
    val_loss: np.ndarray = field(default_factory=lambda: np.zeros(0))
    val_error: np.ndarray = field(default_factory=lambda: np.zeros(0))
    lr: np.ndarray = field(default_factory=lambda: np.zeros(0))
    source: str = ""
    averaged: bool = False


def read_history(path: Path | str) -> LossHistory:
    """Read a loss history: a CSV, a TensorBoard event file, a folder of either, or a kohya text log.

    Args:
        path: ``history.csv`` (columns ``step, loss`` and perhaps ``val_loss, lr``), a file with
            ``tfevents`` in its name, a folder that holds one of them at any depth, or a text log
            with progress lines such as ``steps: 10%| ... | 100/1000 [..., avr_loss=0.123]``.

    Raises:
        RunError: nothing there, nothing in it, or broken; one line that names the file.
    """
    path = Path(path)
    if not path.exists():
        raise RunError(
            f"{path} is missing; name a history.csv, a TensorBoard event file or its folder, or a training log"
        )
    if path.is_dir():
        return _from_folder(path)
    if EVENT_MARK in path.name:
        return _from_events([path])
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    header = text.lstrip("\ufeff").split("\n", 1)[0].lower()
    if "step" in header and "loss" in header and "," in header and "%|" not in header:
        return _from_csv(path, text.lstrip("\ufeff"))
    return _from_text(path, text)


def _from_folder(folder: Path) -> LossHistory:
    table = folder / "history.csv"
    if table.is_file():
        return read_history(table)
    events = sorted(file for file in folder.rglob(f"*{EVENT_MARK}*") if file.is_file())
    if events:
        # a restarted run has several files in one folder; several runs lie in several folders
        newest = max(events, key=lambda file: (file.stat().st_mtime, str(file))).parent
        return _from_events([file for file in events if file.parent == newest])
    tables = sorted(folder.rglob("history.csv"))
    if len(tables) == 1:
        return read_history(tables[0])
    if tables:
        raise RunError(f"{folder} holds {len(tables)} histories; name one of them, for example {tables[0]}")
    raise RunError(f"{folder} holds no history.csv and no TensorBoard event file; name the log folder of the training")


def _number(text: str | None) -> float | None:
    """A cell as a number; None for an empty one, NaN for one that says so."""
    text = (text or "").strip()
    if not text:
        return None
    return float(text)


def _from_csv(path: Path, text: str) -> LossHistory:
    rows = list(csv.DictReader(text.splitlines()))
    names = {name.strip().lower(): name for name in (rows[0] if rows else {}) if name}
    if "step" not in names or "loss" not in names:
        raise RunError(f"{path} needs the columns step and loss; found {', '.join(names) or 'no row'}")
    validation = next((names[n] for n in ("val_loss", "validation_loss", "loss/val") if n in names), None)
    rate = next((names[n] for n in ("lr", "learning_rate", "lr/unet") if n in names), None)
    debiased, deviation = names.get("loss_debiased"), names.get("val_se")
    train: list[tuple[float, float, float]] = []
    val: list[tuple[float, float]] = []
    plain: list[tuple[float, float, float]] = []
    errors: dict[float, float] = {}
    for number, row in enumerate(rows, start=2):
        try:
            step, loss = _number(row[names["step"]]), _number(row[names["loss"]])
            val_loss = _number(row[validation]) if validation else None
            lr = _number(row[rate]) if rate else None
            better = _number(row[debiased]) if debiased else None
            error = _number(row[deviation]) if deviation else None
        except ValueError as problem:
            raise RunError(f"{path}, line {number}: {problem}; every cell must be a number or empty") from None
        if step is None:
            raise RunError(f"{path}, line {number}: no step; every line needs one")
        if loss is not None:
            plain.append((step, loss, math.nan if lr is None else lr))
            if better is not None:
                # a loss that is NaN must not hide behind an older clean column
                train.append((step, better if math.isfinite(loss) else loss, plain[-1][2]))
        if val_loss is not None:
            val.append((step, val_loss))
            errors[step] = math.nan if error is None else error
    usable = len(train) == len(plain)
    history = _history(
        path, train if usable else plain, val, path.name + (" (loss_debiased)" if usable and debiased else "")
    )
    history.val_error = np.array([errors[step] for step in history.val_step], dtype=float)
    return history


def _history(
    path: Path,
    train: list[tuple[float, float, float]],
    val: list[tuple[float, float]],
    source: str,
    averaged: bool = False,
) -> LossHistory:
    if not train and not val:
        raise RunError(f"{path} holds no loss; name the log of a training that has begun")
    # a resumed training writes some steps twice; what was written last is what the file went on from
    last = {step: (loss, lr) for step, loss, lr in train}
    last_val = dict(val)
    steps, val_steps = sorted(last), sorted(last_val)
    return LossHistory(
        np.array(steps, dtype=float),
        np.array([last[s][0] for s in steps], dtype=float),
        np.array(val_steps, dtype=float),
        np.array([last_val[s] for s in val_steps], dtype=float),
        lr=np.array([last[s][1] for s in steps], dtype=float),
        source=source,
        averaged=averaged,
    )


_PROGRESS = re.compile(r"(\d+)/\d+ \[[^\]]*?(avr_loss|avg_loss|loss|train_loss)=([-+0-9.eE]+|nan|inf)")


def _from_text(path: Path, text: str) -> LossHistory:
    """Progress lines of kohya and its kin: tqdm with ``avr_loss=`` (a running average) or ``loss=``."""
    found = [(float(m[1]), float(m[3]), m[2]) for m in _PROGRESS.finditer(text.replace("\r", "\n"))]
    if not found:
        raise RunError(f"{path} is neither a history.csv, an event file nor a log with loss= in its progress lines")
    averaged = any(name in ("avr_loss", "avg_loss") for _, _, name in found)
    train = [(step, loss, math.nan) for step, loss, name in found if (name in ("avr_loss", "avg_loss")) == averaged]
    return _history(path, train, [], "progress lines" + (" (running average)" if averaged else ""), averaged)


def _from_events(paths: list[Path]) -> LossHistory:
    scalars: dict[str, list[tuple[float, float]]] = {}
    for path in paths:
        for tag, step, value in read_scalars(path):
            scalars.setdefault(tag, []).append((float(step), value))
    train_tag = next((tag for tag in TRAIN_TAGS if tag in scalars), None) or next(
        (t for t in sorted(scalars) if "loss" in t.lower() and "val" not in t.lower() and "diverg" not in t.lower()),
        None,
    )
    # kohya may log both by step and by epoch: the finer one says more
    val_tag = max((tag for tag in VALIDATION_TAGS if tag in scalars), key=lambda tag: len(scalars[tag]), default=None)
    if train_tag is None and val_tag is None:
        tags = ", ".join(sorted(scalars)[:6])
        raise RunError(f"{paths[0].parent} logs no loss (tags: {tags or 'none'}); name the log folder of the training")
    rate_tag = next((tag for tag in RATE_TAGS if tag in scalars), None)
    rates = dict(scalars.get(rate_tag or "", []))
    train = [(step, loss, rates.get(step, math.nan)) for step, loss in scalars.get(train_tag or "", [])]
    source = f"TensorBoard {train_tag or val_tag}" + (f", {val_tag}" if val_tag and train_tag else "")
    return _history(paths[0], train, scalars.get(val_tag or "", []), source, averaged="average" in (train_tag or ""))
