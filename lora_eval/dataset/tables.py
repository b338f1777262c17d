"""Tables of captions: CSV and TSV, JSON lines of the Hugging Face image folder, ``meta_*.json`` of kohya's scripts.

A table is never guessed at: a row that has another shape than the header, or whose caption holds another picture's
name (two rows that ran together), becomes a row with a problem, by its line number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from lora_eval.dataset.kinds import ALWAYS, PLUGINS
from lora_eval.errors import DatasetError
from lora_eval.reading.table import DELIMITERS, Record, TableError, records
from lora_eval.reading.text import NotText, read_text

TABLES = ("metadata.csv", "metadata.jsonl")
# the last file of kohya's preparation comes first: it has what the others have, cleaned
META = ("meta_lat.json", "meta_clean.json", "meta_cap_dd.json", "meta_cap.json")
FILE_COLUMNS = ("file_name", "file", "image", "filename", "image_path", "file_path", "image_file")
CAPTION_COLUMNS = ("prompt", "text", "caption", "captions", "description")
MAX_REPEATS = 10_000
_PICTURE_NAME = re.compile(r"\.(?:" + "|".join(e[1:] for e in sorted({*ALWAYS, *PLUGINS})) + r")(?!\w)", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One row: ``number`` is its line, ``problem`` and ``mend`` are "" where it can be used."""

    number: int
    name: str
    caption: str
    repeats: int | None = None
    problem: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Columns:
    """Where a CSV keeps what: indices (-1 for none), number of columns, and whether the first row is a header."""

    file: int
    caption: int
    repeats: int
    width: int
    header: bool
    unread: tuple[str, ...] = ()


@dataclass
class CaptionTable:
    """All rows of a table.

    Attributes:
        rows: in the table's order.
        unread: columns or keys that are not used.
    """

    rows: list[Row]
    unread: list[str] = field(default_factory=list)


def read_table(table: Path) -> CaptionTable:
    """Read a table by its ending: ``.jsonl``, ``.json`` (kohya's), else delimited.

    Raises:
        DatasetError: not text, not of the form, without the needed columns, or an open quotation mark.
    """
    try:
        text = read_text(table)
    except NotText as error:
        raise DatasetError(f"{table} is not {error.encoding} (byte {error.byte}); save it again as UTF-8") from None
    ending = table.suffix.lower()
    if ending == ".json":
        found = _meta(table, text)
    else:
        found = _jsonl(table, text) if ending == ".jsonl" else _csv(table, text)
    names = {PurePosixPath(row.name.replace("\\", "/")).name for row in found.rows}
    found.rows = [_alone(row, names) for row in found.rows]
    return found


def _alone(row: Row, names: Iterable[str]) -> Row:
    """The row, or a problem where its caption holds the name of another picture: two rows that ran together."""
    if row.problem or not _PICTURE_NAME.search(row.caption):
        return row
    own = PurePosixPath(row.name.replace("\\", "/")).name
    for name in names:
        if name != own and re.search(rf"(?<![\w.-]){re.escape(name)}(?!\w)", row.caption):
            problem = f"its caption holds the name of another picture, {name}"
            return replace(row, problem=problem, mend="check its quotation marks and line breaks")
    if "\n" in row.caption and re.search(r"\n\s*\"?[^\s,;|]+" + _PICTURE_NAME.pattern, row.caption, re.IGNORECASE):
        problem = "its caption holds a further row"
        return replace(row, problem=problem, mend="check its quotation marks and line breaks")
    return row


# -- delimited -----------------------------------------------------------------------------------------


def layout(table: Path, text: str) -> tuple[list[Record], str, Columns]:
    """The rows of a CSV (the header among them), its delimiter and its columns. Raises DatasetError."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    forced = re.fullmatch(r'"?sep=(.)"?', first.strip())
    if forced:
        # a spreadsheet's own line for the delimiter
        text = text.replace(first, "", 1)
        first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = forced[1] if forced else _delimiter(first)
    try:
        found = records(text, delimiter)
    except TableError as error:
        message = f"{table.name} row {error.line}: {error.problem}; correct it or save the table again as CSV"
        raise DatasetError(message) from None
    if not found:
        raise DatasetError(f"{table.name} lists no pictures; write file_name and prompt, one row a picture")
    return found, delimiter, _columns(table, found[0])


def _delimiter(first: str) -> str:
    """The one by which the first line has both columns, else a picture's name in its first cell, else most cells."""
    split: dict[str, list[str]] = {}
    for mark in DELIMITERS:
        split[mark] = [cell.strip(' "').lower() for cell in first.split(mark)]
    named = [
        m for m, cells in split.items() if _first(FILE_COLUMNS, cells) >= 0 and _first(CAPTION_COLUMNS, cells) >= 0
    ]
    data = [m for m, cells in split.items() if len(cells) > 1 and _is_picture(cells[0])]
    return next(iter([*named, *data]), max(DELIMITERS, key=lambda mark: (len(split[mark]), mark == ",")))


def _first(names: Iterable[str], cells: list[str]) -> int:
    return next((cells.index(name) for name in names if name in cells), -1)


def _is_picture(name: str) -> bool:
    return Path(name.replace("\\", "/")).suffix.lower() in {*ALWAYS, *PLUGINS}


def _columns(table: Path, head: Record) -> Columns:
    names = [cell.lower() for cell in head.cells]
    file, caption = _first(FILE_COLUMNS, names), _first(CAPTION_COLUMNS, names)
    if file >= 0 and caption >= 0:
        doubled = next((name for name in names if name and names.count(name) > 1), None)
        if doubled:
            raise DatasetError(f"{table} has two columns {doubled!r}; rename or remove one")
        repeats = _first(("repeats",), names)
        used = {file, caption, repeats}
        unread = tuple(cell for at, cell in enumerate(head.cells) if at not in used and cell)
        return Columns(file, caption, repeats, len(names), True, unread)
    if _is_picture(head.cells[0]):
        return Columns(0, 1, -1, 2, False)
    wanted = "file name" if file < 0 else "caption"
    name = (FILE_COLUMNS if file < 0 else CAPTION_COLUMNS)[0]
    raise DatasetError(
        f"{table} has no {wanted} column in its first line ({', '.join(head.cells)[:80]}); name it {name}"
    )


def _csv(table: Path, text: str) -> CaptionTable:
    found, delimiter, columns = layout(table, text)
    rows = [csv_row(one, delimiter, columns) for one in found[columns.header :]]
    return CaptionTable(rows, list(columns.unread))


def csv_row(record: Record, delimiter: str, columns: Columns) -> Row:
    """One record as a row; of another shape than the header it has a problem."""
    cells, extra = list(record.cells), len(record.cells) - columns.width
    name = cells[columns.file] if len(cells) > columns.file else ""
    if extra < 0:
        problem = f"{len(cells)} cell(s), the header has {columns.width}" if columns.header else "no caption"
        return Row(record.line, name, "", None, problem, "write as many cells as the header has")
    if extra > 0 and not any(cells[columns.width :]):
        # a spreadsheet's empty cells at the end
        cells, extra = cells[: columns.width], 0
    if extra > 0:
        # without quotation marks, all behind the file's name is the caption; with further columns nobody can tell
        if columns.width != 2 or columns.caption != 1 or any(record.quoted[columns.caption :]):
            problem = f"{len(record.cells)} cells, the header has {columns.width}"
            return Row(record.line, name, "", None, problem, "put quotation marks round a caption with a delimiter")
        glue = delimiter if delimiter in "\t|" else f"{delimiter} "
        cells = [cells[0], glue.join(cells[1:])]
    text = cells[columns.repeats] if columns.repeats >= 0 else ""
    if text and (not text.isdecimal() or not 1 <= int(text) <= MAX_REPEATS):
        return Row(record.line, name, "", None, f"repeats is {text!r}", f"write a number from 1 to {MAX_REPEATS}")
    return Row(record.line, name, cells[columns.caption], int(text) if text else None)


# -- JSON ----------------------------------------------------------------------------------------------


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"{twice!r} stands twice")
    return found


def _jsonl(table: Path, text: str) -> CaptionTable:
    rows, unread = [], dict[str, None]()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except ValueError as error:
            reason = getattr(error, "msg", None) or error
            raise DatasetError(f"{table} line {number} is not JSON ({reason}); correct or delete it") from error
        if not isinstance(row, dict):
            raise DatasetError(f'{table} line {number} is not an object; write {{"file_name": ..., "text": ...}}')
        name = next((row[key] for key in FILE_COLUMNS if key in row), None)
        key = next((key for key in CAPTION_COLUMNS if key in row), None)
        caption, repeats = row.get(key) if key else None, row.get("repeats")
        if not isinstance(name, str):
            raise DatasetError(f"{table} line {number} names no file; write file_name and text as strings")
        unread.update(dict.fromkeys(k for k in row if k not in (*FILE_COLUMNS, key, "repeats")))
        mend = "write file_name and text as strings"
        if not isinstance(caption, str):
            rows.append(Row(number, name, "", None, "no caption", mend))
        elif repeats is not None and not (type(repeats) is int and 1 <= repeats <= MAX_REPEATS):
            rows.append(
                Row(number, name, "", None, f"repeats is {repeats!r}", f"write a number from 1 to {MAX_REPEATS}")
            )
        else:
            rows.append(Row(number, name, caption, repeats))
    return CaptionTable(rows, list(unread))


def _meta(table: Path, text: str) -> CaptionTable:
    """kohya's ``merge_captions_to_metadata``: picture -> {caption, tags}, joined as its FineTuningDataset does."""
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise DatasetError(f"{table} is not JSON ({error}); correct it or write metadata.csv") from error
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        raise DatasetError(f"{table} is no table of captions; write metadata.csv with file_name and prompt")
    rows = []
    for number, (name, value) in enumerate(found.items(), 1):
        parts = [value[key] for key in ("caption", "tags") if value.get(key) not in (None, "")]
        if not parts or not all(isinstance(part, str) for part in parts):
            rows.append(Row(number, name, "", None, "no caption", "write caption or tags as a string"))
        else:
            rows.append(Row(number, name, ", ".join(dict.fromkeys(parts))))
    return CaptionTable(rows)


def locate(root: Path, table: Path, name: str, stems: dict[str, list[Path]]) -> Path | None:
    """The file that a row means: beside the table, in the folder, or absolute; Windows separators allowed.

    A path of another computer is found by its last part, and a name without an ending (as kohya writes them) where
    one picture alone has it. ``stems``: the folder's pictures by their names without ending.
    """
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        for base in (root, table.parent):
            path = base / spelling
            if spelling and path.is_file():
                return path
    plain = name.replace("\\", "/")
    if re.match(r"/|[A-Za-z]:/", plain) and (root / PurePosixPath(plain).name).is_file():
        return root / PurePosixPath(plain).name
    found = stems.get(PurePosixPath(plain).name, []) if plain and not _is_picture(plain) else []
    return found[0] if len(found) == 1 else None
