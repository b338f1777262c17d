"""``cells.csv`` and ``summary.csv``: the same numbers give the same bytes.

Numbers are written with six significant digits, empty where not measured. A text that a spreadsheet
would take for a formula starts with an apostrophe (OWASP, "CSV Injection"); :func:`read_text` takes it
off again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lora_eval.files import write_text
from lora_eval.scorecard.data import Measure

CELL_COLUMNS = (
    *("run", "lora", "checkpoint", "step", "weight", "prompt_id", "role", "prompt", "negative_prompt", "seed"),
    *("sampler", "steps", "cfg", "width", "height", "image"),
)
SUMMARY_COLUMNS = [item.name for item in fields(Measure)]
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def cell_text(value: Any) -> str:
    """One value as it stands in a table."""
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        number = float(value)
        # + 0.0 makes of a minus zero a zero
        return f"{number:.6g}" if math.isfinite(number) and number != 0 else ("0" if number == 0 else "")
    return safe_text(str(value))


def safe_text(text: str) -> str:
    """Text that no spreadsheet runs; NUL characters, which no CSV reader takes, are dropped."""
    text = text.replace("\0", "")
    return "'" + text if text.startswith(_FORMULA) or (text.startswith("'") and text[1:2] in _FORMULA) else text


def read_text(text: str) -> str:
    """Inverse of :func:`safe_text`."""
    return text[1:] if text.startswith("'") and text[1:].startswith((*_FORMULA, "'")) else text


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as text, ``\\n`` line ends."""
    lines = [[safe_text(str(column)) for column in columns]]
    lines += [[cell_text(value) for value in row] for row in rows]
    return "".join(",".join(map(_quoted, line)) + "\n" for line in lines)


def _quoted(text: str) -> str:
    """RFC 4180; the csv module leaves a lone carriage return unquoted and then reads it as a line end."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def write_cells(path: Path, cells: pd.DataFrame, metrics: pd.DataFrame | None = None) -> None:
    """Write ``cells.csv``: one row a picture, its metric columns behind. Raises RunError."""
    table = cells if metrics is None else pd.concat([cells, metrics.set_axis(cells.index)], axis=1)
    columns = [table.iloc[:, at].tolist() for at in range(table.shape[1])]
    columns = [[None if _missing(value) else value for value in column] for column in columns]
    for at, name in enumerate(table.columns):
        if name in ("step", "seed", "steps", "width", "height"):
            # pandas makes floats of whole numbers where one is missing
            columns[at] = [int(v) if isinstance(v, float) and v.is_integer() else v for v in columns[at]]
    write_text(path, to_csv(list(table.columns), zip(*columns, strict=True)))


def write_summary(path: Path, summary: Sequence[Measure]) -> None:
    """Write ``summary.csv``: one row for each checkpoint, weight, dimension and measure. Raises RunError."""
    write_text(path, to_csv(SUMMARY_COLUMNS, ([getattr(row, name) for name in SUMMARY_COLUMNS] for row in summary)))


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
