"""TensorBoard event files, where the ``tensorboard`` package is already installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# column of history.csv -> tag; the tags are those of kohya's scripts where it has one
TAGS = {
    "loss": "loss/current",
    "loss_smooth": "loss/debiased_average",
    "loss_debiased": "loss/debiased",
    "val_loss": "loss/validation",
    "val_ratio": "loss/validation_ratio",
    "train_loss_fixed": "loss/train_fixed",
    "lr": "lr/unet",
    "grad_norm": "grad_norm",
    "negative_loss": "loss/hard_negatives",
    "epoch": "epoch",
}


class EventLog:
    """Writes rows of the history as scalars; does nothing when the package is missing.

    Attributes:
        note: "" or why nothing is written.
    """

    def __init__(self, folder: Path, resume_at: int | None = None) -> None:
        self.note = ""
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            self.note = f"no TensorBoard logs: {error}"
            return
        try:
            purge = None if resume_at is None else resume_at + 1
            self._writer = SummaryWriter(log_dir=str(folder), purge_step=purge)
        except OSError as error:
            # the logs are an extra: history.csv holds the same numbers
            self.note = f"no TensorBoard logs: {error}"

    def write(self, row: Mapping[str, float | int | None]) -> None:
        """Add one row; empty columns are left out."""
        if self._writer is None:
            return
        step = int(row["step"] or 0)
        for column, tag in TAGS.items():
            value = row.get(column)
            if value is not None:
                self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
