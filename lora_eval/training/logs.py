"""Loss histories from anywhere: our ``history.csv``, TensorBoard event files, tables, JSON lines, console logs.

``trainers.py`` has the names, ``parts.py`` joins what a resume took apart.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable
from pathlib import Path

from lora_eval.errors import RunError
from lora_eval.training.console import read_console
from lora_eval.training.events import read_scalars
from lora_eval.training.json_lines import find_step, read_lines
from lora_eval.training.parts import LossHistory, Record, make_history
from lora_eval.training.tables import find_header, read_table
from lora_eval.training.trainers import (
    VALIDATION_FAMILY,
    is_average,
    is_loss,
    rate_name,
    train_name,
    validation_name,
)

__all__ = ["LossHistory", "read_history"]
EVENT_MARK = "tfevents"
# a counter of epochs ends at less than this part of the steps: an epoch of one step needs no conversion
EPOCH_RATIO = 1.5


def read_history(path: Path | str) -> LossHistory:
    """Read a loss history: a CSV, a TensorBoard event file, a folder of either, JSON lines, or a console log.

    Args:
        path: ``history.csv`` (columns ``step, loss`` and perhaps ``val_loss, lr``), a file with
            ``tfevents`` in its name, a folder that holds one of them at any depth, a file of JSON lines
            such as ``{"it": 120, "train": {"loss": 0.13}}``, or a console log with
            progress lines such as ``steps: 10%| ... | 100/1000 [..., avr_loss=0.123]``.

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
        text = _decoded(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    step = find_step(path, text)
    if step is not None:
        return _from_lines(path, text, step)
    header = find_header(text)
    return read_console(path, text) if header is None else read_table(path, text, header)


def _decoded(data: bytes) -> str:
    """UTF-8, or UTF-16 as PowerShell's ``>`` and ``Tee-Object`` write it, with or without its mark."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    # half of the bytes of western text in UTF-16 are zero
    if data[:400].count(0) * 4 > len(data[:400]):
        return data.decode("utf-16-le" if data[1:400:2].count(0) > data[:400:2].count(0) else "utf-16-be", "replace")
    return data.decode("utf-8-sig", errors="replace")


def _written(file: Path) -> tuple[int, str]:
    """Order of event files: the second in the name (``events.out.tfevents.SECONDS.host``), else that of the file."""
    found = re.search(rf"{EVENT_MARK}\.(\d+)", file.name)
    return (int(found[1]) if found else int(file.stat().st_mtime)), str(file)


def _from_folder(folder: Path) -> LossHistory:
    table = folder / "history.csv"
    if table.is_file():
        return read_history(table)
    events = sorted(file for file in folder.rglob(f"*{EVENT_MARK}*") if file.is_file())
    if events:
        # a restarted run has several files in one folder; several runs lie in several folders
        newest = max(events, key=_written).parent
        history = _from_events(sorted((file for file in events if file.parent == newest), key=_written))
        others = sorted({str(file.parent.relative_to(folder)) for file in events if file.parent != newest})
        if others:
            history.notes.append(
                f"{folder} holds {len(others) + 1} log folders; the newest, {newest.relative_to(folder)}, was read; "
                f"left out: {', '.join(others[:4])}{' ...' if len(others) > 4 else ''}; name one of them to read it"
            )
        return history
    tables = sorted(folder.rglob("history.csv"))
    if len(tables) == 1:
        return read_history(tables[0])
    if tables:
        raise RunError(f"{folder} holds {len(tables)} histories; name one of them, for example {tables[0]}")
    raise RunError(f"{folder} holds no history.csv and no TensorBoard event file; name the log folder of the training")


def _from_events(paths: list[Path]) -> LossHistory:
    """The losses of event files of one run, in the order written."""
    return _chosen(paths, paths[0].parent, "TensorBoard", (row for path in paths for row in read_scalars(path)))


def _from_lines(path: Path, text: str, step: str) -> LossHistory:
    """The losses of a log of JSON lines whose counter is called ``step``."""
    history = _chosen([path], path, "JSON lines", read_lines(path, text, step))
    if step == "epoch":
        history.unit = "epoch"
    return history


def _chosen(paths: list[Path], place: Path, kind: str, rows: Iterable[tuple[str, float, float]]) -> LossHistory:
    """One training and one validation tag out of all that was logged.

    Args:
        paths: the files that were read.
        place: the file or folder to name in an error.
        kind: of the log, for ``LossHistory.source``.
        rows: (tag, step, value) in the order written.
    """
    scalars: dict[str, list[tuple[int, float, float]]] = {}
    for at, (tag, step, value) in enumerate(rows):
        scalars.setdefault(tag, []).append((at, float(step), value))
    train_tag, val_tag = train_name(scalars), validation_name(scalars)
    if train_tag is None and val_tag is None:
        tags = ", ".join(sorted(scalars)[:6])
        raise RunError(f"{place} logs no loss (tags: {tags or 'none'}); name the log of the training")
    train = scalars.get(train_tag or "", [])
    concepts = [tag for tag in scalars if tag.startswith(VALIDATION_FAMILY)] if val_tag == VALIDATION_FAMILY else []
    val = _mean([scalars[tag] for tag in concepts]) if concepts else scalars.get(val_tag or "", [])
    if concepts:
        val_tag = concepts[0] if len(concepts) == 1 else f"{VALIDATION_FAMILY}* (mean of {len(concepts)})"
    notes: list[str] = []
    by_epoch = "epoch" in (train_tag or val_tag or "") and not (train and "epoch" not in (train_tag or ""))
    if train and val and not by_epoch and "epoch" in (val_tag or ""):
        val = _epochs_to_steps(train, val, val_tag or "", notes)
    rate_tag = rate_name(scalars)
    rates = {step: value for _, step, value in scalars.get(rate_tag or "", [])}
    placed = [(at, Record(step, loss, lr=rates.get(step, math.nan))) for at, step, loss in train]
    placed += [(at, Record(step, loss, True)) for at, step, loss in val]
    placed.sort(key=lambda item: item[0])
    source = f"{kind} {train_tag or val_tag}" + (f", {val_tag}" if val_tag and train_tag else "")
    history = make_history(paths, [r for _, r in placed], source, is_average(train_tag or ""))
    # a tag of epochs that counts as many as there are steps elsewhere is written by step in fact
    others = max((s for tag, rows in scalars.items() if tag not in (train_tag, val_tag) for _, s, _ in rows), default=0)
    if by_epoch and others <= float(max(history.step, default=0.0)) * EPOCH_RATIO:
        history.unit = "epoch"
    history.notes += notes
    left = [
        f"{tag} ({len(rows)})"
        for tag, rows in sorted(scalars.items())
        if is_loss(tag) and tag not in (train_tag, val_tag, *concepts)
    ]
    if left:
        history.notes.append(f"left out, with their numbers of points: {', '.join(left)}")
    return history


def _mean(series: list[list[tuple[int, float, float]]]) -> list[tuple[int, float, float]]:
    """Mean over concepts at each step that all of them have, at the place of the last one."""
    values: dict[float, list[tuple[int, float]]] = {}
    for rows in series:
        for at, step, value in rows:
            values.setdefault(step, []).append((at, value))
    return [
        (max(at for at, _ in found), step, sum(value for _, value in found) / len(found))
        for step, found in sorted(values.items())
        if len(found) == len(series)
    ]


def _epochs_to_steps(
    train: list[tuple[int, float, float]], val: list[tuple[int, float, float]], tag: str, notes: list[str]
) -> list[tuple[int, float, float]]:
    """Validation counted in epochs, in steps: the training step that was written last before it.

    kohya's ``epoch_logging`` writes the epoch as TensorBoard's step (kohya-ss/sd-scripts, train_network.py).
    """
    last = max(step for _, step, _ in train)
    if max(step for _, step, _ in val) * EPOCH_RATIO > last:
        return val
    at, result = 0, []
    for place, _, value in val:
        while at < len(train) and train[at][0] < place:
            at += 1
        result.append((place, train[at - 1][1] if at else 0.0, value))
    if len({step for _, step, _ in result}) < len(val) and len({epoch for _, epoch, _ in val}) == len(val):
        # written apart from the steps: the epochs are of even length
        length = last / max(epoch for _, epoch, _ in val)
        result = [(place, epoch * length, value) for place, epoch, value in val]
        notes.append(f"{tag} counts epochs; taken as {length:g} steps each, the last one as whole")
    else:
        notes.append(f"{tag} counts epochs; each was put at the training step written before it")
    return result
