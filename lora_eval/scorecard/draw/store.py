"""The run folder: the only memory of a scorecard run.

Every file in it is whole or not there, so a process may be killed at any moment and the next one goes
on. What is written depends on the plan and the pictures alone, never on when or how often it was
interrupted: two runs of one plan end with the same bytes in ``cells.csv`` and ``summary.csv``.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from lora_eval.errors import RunError
from lora_eval.files import hold, make_folder, read_json, write_bytes, write_json
from lora_eval.host.png import save_png
from lora_eval.host.protocol import Drawn
from lora_eval.log import logger
from lora_eval.scorecard.plan.plan import Cell, Plan, Round

TABLE_FILE = "table.json"
"""What was measured, in the folder of pictures drawn elsewhere."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class RunFolder:
    """Paths, locking, and what is already done. Attributes: ``root`` and one path for each file."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.plan_file = self.root / "plan.json"
        self.images = self.root / "images"
        self.features_file = self.root / "features.npz"
        self.cells_file = self.root / "cells.csv"
        self.summary_file = self.root / "summary.csv"
        self.card_file = self.root / "scorecard.json"
        self.page_file = self.root / "report.html"
        self.lora_notes_file = self.root / "lora-notes.json"
        self.lock_file = self.root / ".lock"

    # -- plan ------------------------------------------------------------------------------------

    def read_plan(self) -> Plan:
        """The stored plan. Raises RunError when there is none or it is broken."""
        return Plan.from_json(read_json(self.plan_file), str(self.plan_file))

    def agree(self, asked: Plan) -> Plan:
        """Store ``asked`` in a new folder, or check it against the stored plan and go on with that.

        Raises:
            RunError: the folder holds pictures of another plan.
        """
        drawn = self.images.is_dir() and any(self.images.glob("*.png"))
        if drawn and not self.plan_file.exists():
            raise RunError(f"{self.images} has pictures but {self.plan_file} is missing; choose another folder")
        if not drawn:
            # also over the plan of a run that was refused before its first picture: it binds nobody
            make_folder(self.images)
            write_json(self.plan_file, asked.to_json())
            return asked
        stored = self.read_plan()
        plan = stored.agreed(asked, self.root)
        if plan != stored:
            write_json(self.plan_file, plan.to_json())
        make_folder(self.images)
        return plan

    def extend(self, plan: Plan, more: Round) -> Plan:
        """Append a round to the stored plan. Raises RunError."""
        longer = replace(plan, rounds=(*plan.rounds, more))
        write_json(self.plan_file, longer.to_json())
        return longer

    # -- pictures --------------------------------------------------------------------------------

    def write_lora_notes(self, notes: Mapping[str, Sequence[str]]) -> None:
        """Keep what the host said of LoRA files of which it does not apply all: checkpoint -> sentences."""
        write_json(self.lora_notes_file, {name: list(said) for name, said in notes.items()})

    def lora_notes(self) -> dict[str, list[str]]:
        """What :meth:`write_lora_notes` kept; empty where every file took whole."""
        return dict(read_json(self.lora_notes_file)) if self.lora_notes_file.exists() else {}

    def image_path(self, cell: Cell) -> Path:
        """Where the cell's picture is or will be."""
        return self.root / cell.image

    def finished(self, cell: Cell) -> bool:
        """Whether the cell's picture is there, whole."""
        return is_whole_png(self.image_path(cell))

    def save_image(self, cell: Cell, drawn: Drawn) -> None:
        """Write the picture with its infotext. Raises RunError."""
        save_png(self.image_path(cell), drawn)

    # -- features --------------------------------------------------------------------------------

    def read_features(self) -> dict[str, np.ndarray]:
        """Arrays of ``features.npz``; empty when it is missing or unreadable (it is only a cache)."""
        try:
            with np.load(self.features_file, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except FileNotFoundError:
            return {}
        except Exception as error:
            # np.load raises a dozen kinds of error on a damaged archive; all mean: measure again
            logger.warning("%s cannot be read (%s); features are computed again", self.features_file, error)
            return {}

    def write_features(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace ``features.npz``. Raises RunError."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: arrays[name] for name in sorted(arrays)})  # type: ignore[arg-type]
        write_bytes(self.features_file, buffer.getvalue())

    # -- one process at a time -------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process and thread out of this folder.

        The operating system holds the lock, so that of a killed process is gone with it; the process
        id in the file is only for the message.

        Raises:
            RunError: another process or thread works in the folder, or it cannot be written.
        """
        with hold(self.lock_file, self.root):
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Temporary files of a killed process: nobody else is here, so they are nobody's."""
        for folder in (self.root, self.images):
            for part in folder.glob(".*.part*"):
                part.unlink(missing_ok=True)


def is_whole_png(path: Path) -> bool:
    """Whether ``path`` is a PNG whose chunks are all there with the right checksums, up to IEND.

    Chunk layout: PNG specification (ISO/IEC 15948), section 5.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return False
    if not data.startswith(_SIGNATURE):
        return False
    at = len(_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data) or zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return False
        if kind == b"IEND":
            return True
        at = end + 4
    return False


def content_hash(path: Path) -> str:
    """Hex SHA-256 of a picture's file. Raises RunError when it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}; draw it again") from None
