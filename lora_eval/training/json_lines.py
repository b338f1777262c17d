"""Scalars of a log of JSON lines: one object a line, its step under one key, its values under the others.

``{"it": 120, "train": {"loss": 0.13, "lr": 0.0001}}`` holds the tags ``train/loss`` and ``train/lr`` at step 120.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_eval.errors import RunError
from lora_eval.training.trainers import STEP_COLUMNS

ENDING = ".jsonl"


def find_step(path: Path, text: str) -> str | None:
    """The key that counts, by the first line that is not blank; None where the text is no log of JSON lines.

    Args:
        path: its ending ``.jsonl`` settles what the file is.
        text: all of the file.

    Raises:
        RunError: a file ``.jsonl`` whose first line has no step.
    """
    number, line = next(((n, s) for n, s in enumerate(text.split("\n"), 1) if s.strip()), (1, ""))
    found = _parsed(line)
    name = next((name for name in STEP_COLUMNS if found is not None and name in found), None)
    if name is None and path.suffix.lower() == ENDING:
        raise RunError(f"{path}, line {number}: no step; every line needs a JSON object with one of {_listed()}")
    return name


def read_lines(path: Path, text: str, step: str) -> Iterator[tuple[str, float, float]]:
    """Every number of every line as (tag, step, value), in the order written; ``step`` is of :func:`find_step`.

    Keys of objects inside objects are joined by ``/``. ``null`` is no value, ``NaN`` is one. A last line cut off, as
    a running or killed training leaves it, ends the reading quietly.

    Raises:
        RunError: a line that is no JSON object, or has no step; it names the line.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _parsed(line)
        if found is None:
            if number == len(lines):
                return
            raise RunError(f"{path}, line {number}: no JSON object; every line needs one")
        at = found.pop(step, None)
        if not _is_number(at):
            raise RunError(f"{path}, line {number}: no number under {step}; every line needs one")
        for tag, value in _flat(found):
            yield tag, float(at), value


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}/")
        elif _is_number(value):
            yield f"{above}{key}", float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _listed() -> str:
    return ", ".join(STEP_COLUMNS)
