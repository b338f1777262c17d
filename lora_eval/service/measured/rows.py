"""The pictures that are asked for, one row each: from a table, a list of files or a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_eval.dataset.kinds import kind_of
from lora_eval.dataset.tables import FILE_COLUMNS
from lora_eval.errors import RunError
from lora_eval.reading.table import DELIMITERS, Record, TableError, records
from lora_eval.reading.text import NotText
from lora_eval.reading.text import read_text as read_file
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.tables import read_text

# what a row may say of its picture; other columns (measures of an earlier run) are passed over
COLUMNS = (
    "prompt", "seed", "weight", "checkpoint", "lora", "step", "role", "prompt_id", "negative_prompt", "sampler",
    "steps", "cfg",
)  # fmt: skip
_IMAGE_COLUMNS = ("image", *(name for name in FILE_COLUMNS if name != "image"))
_LIST_ENDINGS = (".txt", ".lst", "")


def without_step(name: str) -> str:
    """The LoRA that a checkpoint's name is of: ``fox-000300``, ``fox_step300`` -> ``fox``."""
    return re.sub(r"[-_](?:step)?\d+$", "", name)


@dataclass
class PictureRow:
    """One picture and what is known of it.

    Attributes:
        where: the row in words, for errors ("cells.csv, line 3"), or the file's name.
        path: the picture's file.
        values: column -> text, "" and absent alike where nothing is known.
        box: (left, upper, right, lower) of the pixels that are meant, where the file is a grid; None: all of it.
    """

    where: str
    path: Path
    values: dict[str, str] = field(default_factory=dict)
    box: tuple[int, int, int, int] | None = None

    def cell(self, place: str, box: tuple[int, int, int, int]) -> PictureRow:
        """A part of this picture as a row of its own; ``place`` names it ("x2 y1")."""
        return PictureRow(f"{self.where}, cell {place}", self.path, dict(self.values), box)


@dataclass(frozen=True)
class Listing:
    """All rows, the name that reports show, and a digest that changes with what was listed.

    ``listed``: whether pictures were named one by one; in a folder, what cannot be used is left out instead.
    """

    rows: list[PictureRow]
    name: str
    digest: str
    listed: bool


def list_pictures(sources: Sequence[Path]) -> Listing:
    """The pictures of a folder, of a table or list, or the files themselves.

    Args:
        sources: one folder, one table (CSV, or with tabs, ``;`` or ``|``), one text file with a path a line, or any
            number of pictures.

    Raises:
        RunError: nothing there, no pictures, or a table that cannot be read; the line names the file and the mend.
    """
    first = Path(sources[0])
    if len(sources) == 1 and first.is_dir():
        return _folder(first)
    if len(sources) == 1 and kind_of(first) != "picture":
        return _list(first) if first.suffix.lower() in _LIST_ENDINGS else _table(first)
    return _files([Path(one) for one in sources], first.parent.name or "pictures")


def _folder(root: Path) -> Listing:
    if RunFolder(root).plan_file.exists():
        raise RunError(f"{root} is a run that was drawn here; measure it again with: lora-eval report {root}")
    found = sorted(
        path
        for path in root.rglob("*")
        if kind_of(path) == "picture"
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if not found:
        raise RunError(f"{root} holds no pictures; name the folder that the WebUI or ComfyUI saved them in")
    rows = [PictureRow(path.relative_to(root).as_posix(), path.resolve()) for path in found]
    return Listing(rows, root.resolve().name, _digest(rows), False)


def _files(paths: list[Path], name: str) -> Listing:
    for path in paths:
        if not path.is_file():
            raise RunError(f"{path} is missing; name pictures, a folder of them, or a table with the column image")
        if kind_of(path) != "picture":
            raise RunError(f"{path} is no picture; name pictures only, or one table or folder alone")
    rows = [PictureRow(path.name, path.resolve()) for path in paths]
    return Listing(rows, name, _digest(rows), True)


def _list(source: Path) -> Listing:
    lines = _text(source).splitlines()
    names = [line.strip().strip('"') for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise RunError(f"{source} lists no pictures; write one path a line")
    if kind_of(_path(source, names[0])) != "picture":
        # a table that was saved as text
        return _table(source)
    rows = [PictureRow(f"{source}, {name}", _there(source, f"{source}", name)) for name in names]
    return Listing(rows, source.name, _digest(rows), True)


def _digest(rows: Sequence[PictureRow]) -> str:
    said = "\n".join(f"{row.path.name}:{row.path.stat().st_size}" for row in rows)
    return hashlib.sha256(said.encode()).hexdigest()[:8]


# -- tables --------------------------------------------------------------------------------------------


def _text(table: Path) -> str:
    try:
        return read_file(table)
    except FileNotFoundError:
        raise RunError(f"{table} is missing; give a folder of pictures, or a CSV with the column image") from None
    except NotText as error:
        raise RunError(f"{table} is not {error.encoding} text; save it as a UTF-8 CSV") from None
    except OSError as error:
        raise RunError(f"cannot read {table}: {error.strerror}") from None


def _table(table: Path) -> Listing:
    text = _text(table)
    forced = re.match(r'\s*"?sep=(.)"?\s*\n', text)
    if forced:
        # a spreadsheet's own line for the delimiter
        text = "\n" + text[forced.end() :]
    head = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = forced[1] if forced else _delimiter(table, head)
    try:
        found = records(text, delimiter)
    except TableError as error:
        raise RunError(f"{table}, line {error.line}: {error.problem}; correct it or save the table again") from None
    if not found:
        raise RunError(f"{table} has no rows; write the column image and a row for each picture")
    names = [read_text(cell).lower() for cell in found[0].cells]
    doubled = next((name for name in names if name and names.count(name) > 1), None)
    if doubled:
        raise RunError(f'{table} has two columns "{doubled}"; rename or remove one')
    image = next((name for name in _IMAGE_COLUMNS if name in names), "")
    if not image:
        raise RunError(f'{table} has no column "image"; the first line must name image, and what else is known')
    rows = [_row(table, record, names, image) for record in found[1:]]
    if not rows:
        raise RunError(f"{table} has no rows; add one for each picture")
    return Listing(rows, table.name, hashlib.sha256(table.read_bytes()).hexdigest()[:8], True)


def _delimiter(table: Path, head: str) -> str:
    """The one by which the first line names the pictures' column."""
    split = {mark: [cell.strip(" \"'").lower() for cell in head.split(mark)] for mark in DELIMITERS}
    named = [mark for mark, cells in split.items() if any(name in cells for name in _IMAGE_COLUMNS)]
    return max(named or DELIMITERS, key=lambda mark: (len(split[mark]), mark == ","))


def _row(table: Path, record: Record, names: list[str], image: str) -> PictureRow:
    where = f"{table}, line {record.line}"
    cells = list(record.cells)
    if len(cells) > len(names) and not any(cells[len(names) :]):
        cells = cells[: len(names)]
    if len(cells) != len(names):
        raise RunError(
            f"{where}: {len(cells)} cells, the first line has {len(names)}; put quotation marks round a text "
            "with a delimiter in it, or write the missing cells"
        )
    held = {name: read_text(cell).strip() for name, cell in zip(names, cells, strict=True)}
    if not held[image]:
        raise RunError(f"{where}: no image; write the picture's path")
    path = _there(table, where, held[image])
    return PictureRow(where, path, {name: held[name] for name in COLUMNS if held.get(name)})


def _path(table: Path, name: str) -> Path:
    return table.parent / (name.replace("\\", "/") if os.name != "nt" else name)


def _there(table: Path, where: str, name: str) -> Path:
    path = _path(table, name)
    if not path.is_file():
        raise RunError(f"{where}: {name} is not there; paths are relative to the table's folder")
    return path.resolve()
