"""Loss histories from anywhere: our ``history.csv``, TensorBoard event files, kohya's text log.

TensorBoard is not part of the hosts, so event files are read here: a TFRecord file is a row of
``length (u64), masked CRC-32C of it, data, masked CRC-32C of that``, each record one ``Event``
message of ``tensorflow/core/util/event.proto``, of which only scalars are looked at.
"""

from __future__ import annotations

import csv
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lora_eval.errors import RunError

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
    val_tag = next((tag for tag in VALIDATION_TAGS if tag in scalars), None)
    if train_tag is None and val_tag is None:
        tags = ", ".join(sorted(scalars)[:6])
        raise RunError(f"{paths[0].parent} logs no loss (tags: {tags or 'none'}); name the log folder of the training")
    rate_tag = next((tag for tag in RATE_TAGS if tag in scalars), None)
    rates = dict(scalars.get(rate_tag or "", []))
    train = [(step, loss, rates.get(step, math.nan)) for step, loss in scalars.get(train_tag or "", [])]
    source = f"TensorBoard {train_tag or val_tag}" + (f", {val_tag}" if val_tag and train_tag else "")
    return _history(paths[0], train, scalars.get(val_tag or "", []), source, averaged="average" in (train_tag or ""))


def read_scalars(path: Path) -> Iterator[tuple[str, int, float]]:
    """Every scalar of a TensorBoard event file as (tag, step, value), in the order written.

    Reads both ``simple_value`` (TF1, tensorboardX, torch) and scalar tensors (TF2). A record cut off
    at the end of the file, as a running or killed training leaves it, ends the reading quietly.

    Raises:
        RunError: the file cannot be read or a checksum in the middle does not fit.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        (check,) = struct.unpack_from("<I", data, at + 8)
        if check != _masked_crc(data[at : at + 8]):
            raise RunError(f"{path} is not a TensorBoard event file or is damaged at byte {at}; copy it again")
        if at + 16 + length > len(data):
            return
        record = data[at + 12 : at + 12 + length]
        yield from _event(record, path)
        at += 16 + length


def _event(record: bytes, path: Path) -> Iterator[tuple[str, int, float]]:
    """Event: 2 step (varint), 5 summary; Summary: 1 value; Value: 1 tag, 2 simple_value, 8 tensor."""
    step, summaries = 0, []
    try:
        for number, value in _fields(record):
            if number == 2 and isinstance(value, int):
                step = value - (1 << 64) if value >= 1 << 63 else value
            elif number == 5 and isinstance(value, bytes):
                summaries.append(value)
        for summary in summaries:
            for number, value in _fields(summary):
                if number != 1 or not isinstance(value, bytes):
                    continue
                tag, scalar = "", None
                for inner, content in _fields(value):
                    if inner == 1 and isinstance(content, bytes):
                        tag = content.decode("utf-8", errors="replace")
                    elif inner == 2 and isinstance(content, bytes):
                        scalar = struct.unpack("<f", content)[0]
                    elif inner == 8 and isinstance(content, bytes):
                        scalar = _tensor_scalar(content)
                if scalar is not None:
                    yield tag, step, float(scalar)
    except (IndexError, struct.error):
        raise RunError(f"{path} holds a record that is no TensorBoard event; copy it again") from None


def _tensor_scalar(tensor: bytes) -> float | None:
    """A TensorProto that holds one float (dtype 1) or double (dtype 2), else None."""
    kind, raw, listed, dims = 0, b"", b"", 1
    for number, value in _fields(tensor):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2 and isinstance(value, bytes):
            for _, dim in _fields(value):
                if isinstance(dim, bytes):
                    for inner, size in _fields(dim):
                        dims *= size if inner == 1 and isinstance(size, int) else 1
        elif number == 4 and isinstance(value, bytes):
            raw = value
        elif number in (5, 6) and isinstance(value, bytes):
            listed = value
    content, form = raw or listed, {1: "<f", 2: "<d"}.get(kind)
    if form is None or dims != 1 or len(content) != struct.calcsize(form):
        return None
    return float(struct.unpack(form, content)[0])


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Protobuf wire format: (field number, varint as int, everything else as its bytes)."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
        else:
            if kind == 2:
                size, at = _varint(message, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise struct.error(f"wire type {kind}")
            if at + size > len(message):
                raise struct.error("cut off")
            yield key >> 3, message[at : at + size]
            at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def _crc_table() -> list[int]:
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_TABLE = _crc_table()


def _masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and offset as TFRecord does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
