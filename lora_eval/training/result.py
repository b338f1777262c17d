"""What a training job leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class TrainResult:
    """What a training job left behind.

    Attributes:
        folder: the run folder.
        lora: the finished LoRA; after an interrupt or divergence the last good checkpoint.
        checkpoints: (step, path), ascending; the finished LoRA is the last.
        history: ``history.csv``.
        stopped: ``finished``, ``interrupted``, ``diverged`` or ``early``.
        message: one line for a person: how it ended.
        steps: updates done; total: updates planned.
        published: the copy in the host's LoRA folder, or None.
        best: (step, validation loss) of the best validation, or None.
        notes: what was decided or could not be done, one line each.
    """

    folder: Path
    lora: Path
    checkpoints: list[tuple[int, Path]]
    history: Path
    stopped: str
    message: str = ""
    steps: int = 0
    total: int = 0
    published: Path | None = None
    best: tuple[int, float] | None = None
    notes: list[str] = field(default_factory=list)
