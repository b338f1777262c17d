"""``history.csv``: one row a step, readable while the run goes on, cut back to the step where a run resumes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from lora_eval.errors import RunError
from lora_eval.files import write_error, write_text

COLUMNS = (
    "step", "epoch", "lr", "loss", "val_loss", "val_ratio", "val_se", "train_loss_fixed",
    "loss_debiased", "loss_smooth", "grad_norm", "negative_loss",
)  # fmt: skip
"""
step: updates done; row 0 is the model before training and holds validation alone.
epoch: passes over the pictures begun so far (1-based; 0 in row 0).
lr: learning rate of the update. loss: mean weighted loss of the step's batch.
val_loss: on held-out pictures, fixed noise and timesteps; empty where not evaluated.
val_ratio: val_loss / val_loss of row 0. val_se: standard error over pictures of the paired change from row 0.
train_loss_fixed: the same measure on as many training pictures: the gap is the generalisation gap.
loss_debiased: the step's unweighted losses, each over what the model without LoRA has at that timestep: 1 = no gain.
loss_smooth: exponential mean of loss_debiased (decay 0.95, bias corrected). grad_norm: before clipping.
negative_loss: mean weighted squared distance to the base model on hard negatives, before its weight; not in loss.
No column holds a time, so that two runs of one seed give the same file.
"""
_DECAY = 0.95


class History:
    """Appends rows to ``history.csv``.

    Args:
        path: the file.
        resume_at: keep rows up to this step and go on; None starts a new file.
    """

    def __init__(self, path: Path, resume_at: int | None = None) -> None:
        self.path = Path(path)
        rows = []
        if resume_at is not None and self.path.is_file():
            rows = [row for row in read_rows(self.path) if row["step"] is not None and row["step"] <= resume_at]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        self._smooth, self._weight = 0.0, 0.0
        for row in rows:
            self._count(row.get("loss_debiased"))
            writer.writerow([_text(row.get(name)) for name in COLUMNS])
        write_text(self.path, text.getvalue())
        try:
            self._file: IO[str] | None = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115
        except OSError as error:
            raise write_error(self.path, error) from error

    def append(self, **values: float | int | None) -> dict[str, float | int | None]:
        """Write one row; missing columns stay empty. Returns it with ``loss_smooth`` filled in. Raises RunError."""
        unknown = set(values) - set(COLUMNS)
        if unknown:
            raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
        if values.get("loss_debiased") is not None:
            values["loss_smooth"] = self._count(values["loss_debiased"])
        if self._file is None:
            raise RunError(f"{self.path} is closed already")
        try:
            self._file.write(",".join(_text(values.get(name)) for name in COLUMNS) + "\n")
            self._file.flush()
        except OSError as error:
            raise write_error(self.path, error) from error
        return values

    def _count(self, value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        self._smooth = _DECAY * self._smooth + (1 - _DECAY) * value
        self._weight = _DECAY * self._weight + (1 - _DECAY)
        return self._smooth / self._weight

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _text(value: float | int | None) -> str:
    # repr of a float reads back as the same float, which keeps a resumed file equal to the undisturbed one
    return "" if value is None else repr(value)


def read_rows(path: Path) -> list[dict[str, float | None]]:
    """Rows of a ``history.csv``; empty cells are None. A last line cut off by a kill is left out.

    Raises:
        RunError: the file is missing or is not such a table.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path} ({error}); is this the right run folder?") from None
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(text))
    if not reader.fieldnames or "step" not in reader.fieldnames:
        raise RunError(f"{path} has no step column; it is not a training history")
    return [_row(path, number, row) for number, row in enumerate(reader, 2)]


def _row(path: Path, number: int, row: Mapping[str, str | Sequence[str] | None]) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for name, cell in row.items():
        if not isinstance(cell, str) or not isinstance(name, str):
            continue
        try:
            if not cell.strip():
                values[name] = None
            else:
                values[name] = int(cell) if cell.lstrip("-").isdigit() else float(cell)
        except ValueError:
            raise RunError(f"{path} line {number}: {name} is {cell!r}, not a number") from None
    return values
