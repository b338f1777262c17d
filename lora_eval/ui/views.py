"""What the tabs show: training and scorecard runs at one moment, and runs on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_eval.service.jobs import JobState


@dataclass(frozen=True)
class TrainView:
    """A training run at one moment.

    Attributes:
        stamp: changes when the loss or the test pictures do.
        waiting: requests of the WebUI's users, such as Generate, that wait for this training.
    """

    job: JobState | None = None
    folder: Path | None = None
    stamp: tuple[Any, ...] = ()
    waiting: int = 0


@dataclass(frozen=True)
class ScoreView:
    """A scorecard run at one moment; ``card`` is its ``scorecard.json`` once there is one."""

    job: JobState | None = None
    folder: Path | None = None
    stamp: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Finished:
    """A scorecard run on disk. ``verdict`` "" while it is not finished; ``when`` as people write it."""

    folder: Path
    when: str
    verdict: str = ""
    checkpoint: str | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Proposal:
    """What the Scorecard tab is filled in with for a training run."""

    loras: list[str] = field(default_factory=list)
    kind: str = ""
    data: str = ""


def stamp_of(folder: Path, names: tuple[str, ...]) -> tuple[Any, ...]:
    """Changes when one of the files (or the contents of the folders) does."""
    found: list[Any] = [str(folder)]
    for name in names:
        try:
            status = (folder / name).stat()
            found.append((status.st_mtime_ns, status.st_size))
        except OSError:
            found.append(None)
    return tuple(found)
