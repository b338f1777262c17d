"""A folder of pictures and captions, read without opening a picture.

Three forms are understood: a table (``metadata.csv``, or ``metadata.jsonl`` as the Hugging Face image
folder writes it), captions beside the pictures (``.txt``, ``.caption``), and kohya's subfolders
``<repeats>_<name>``. A table wins over the other two.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lora_eval.errors import DatasetError

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
SIDECARS = (".txt", ".caption")
MASK_SUFFIX = "-masklabel"
TABLES = ("metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("file_name", "file", "image", "filename")
CAPTION_COLUMNS = ("prompt", "text", "caption")
_REPEATS = re.compile(r"(\d+)_(.*)", re.DOTALL)
MAX_REPEATS = 10_000


@dataclass(frozen=True)
class Item:
    """One picture with its caption.

    Attributes:
        repeats: how often an epoch shows it (at least 1).
        mask: grey picture beside it, ``<name>-masklabel.png`` (OneTrainer's naming): white is learnt, black is not.
        regular: a regularisation picture: it shows the class, not the concept.
    """

    path: Path
    caption: str
    repeats: int = 1
    mask: Path | None = None
    regular: bool = False


@dataclass(frozen=True)
class Problem:
    """Something in the folder that cannot be used as written. ``picture`` is the name as written."""

    code: str
    picture: str
    message: str
    mend: str


@dataclass
class Dataset:
    """What a folder holds.

    Attributes:
        root: the folder.
        items: pictures in the order of the table, else by path.
        source: ``table``, ``sidecars`` or ``folder names``: where the captions come from.
        table: the table's path where there is one.
        problems: rows that name no file, doubled rows: they must be mended before training.
        unlisted: pictures of the folder that the table does not name; they are left out.
        ignored: subfolders with pictures that are neither named by the table nor ``<repeats>_<name>``.
    """

    root: Path
    items: list[Item]
    source: str = "sidecars"
    table: Path | None = None
    problems: list[Problem] = field(default_factory=list)
    unlisted: list[Path] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def name(self, path: Path) -> str:
        """The picture's path as shown to a person: relative to the folder where it lies in it."""
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return str(path)

    def require(self) -> None:
        """Raise DatasetError when a row cannot be used; the line names the first and counts the rest."""
        if self.problems:
            first, more = self.problems[0], len(self.problems) - 1
            tail = f" (and {more} more, see `check`)" if more else ""
            raise DatasetError(f"{first.message}; {first.mend}{tail}")


def scan(folder: Path | str, metadata_path: Path | str | None = None) -> Dataset:
    """Find the pictures and captions of ``folder``.

    Args:
        folder: the training folder.
        metadata_path: table of captions; without it ``metadata.csv`` or ``metadata.jsonl`` in the folder.

    Raises:
        DatasetError: the folder or the named table is missing, empty or unreadable. Single bad rows do
            not raise: they are in :attr:`Dataset.problems`.
    """
    root = Path(folder).expanduser()
    if not root.exists():
        raise DatasetError(f"{root} does not exist; give the folder with the training pictures")
    if not root.is_dir():
        raise DatasetError(f"{root} is a file, not a folder; give the folder with the training pictures")
    try:
        table = _find_table(root, metadata_path)
        dataset = _from_table(root, table) if table else _from_folder(root)
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename or root}: {error.strerror}; check its permissions") from error
    if not dataset.items:
        dataset.require()
        where = f"{table.name} lists no pictures" if table else f"{root} holds no pictures"
        raise DatasetError(f"{where}; put png, jpg or webp files there (50 to 200 are advised)")
    return dataset


def split_repeats(folder_name: str) -> tuple[int, str] | None:
    """``"10_red fox"`` -> ``(10, "red fox")``; None when the name is not kohya's form."""
    match = _REPEATS.fullmatch(folder_name)
    if match is None:
        return None
    return min(max(int(match[1]), 1), MAX_REPEATS), match[2].strip()


def read_sidecar(picture: Path) -> str | None:
    """Caption beside a picture, lines joined by spaces; None where there is no sidecar.

    Raises:
        DatasetError: the sidecar is not UTF-8.
    """
    for suffix in SIDECARS:
        path = picture.with_suffix(suffix)
        if path.is_file():
            return " ".join(_read_text(path).split())
    return None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 (byte {error.start}); save it again as UTF-8") from error


def _pictures(folder: Path) -> list[Path]:
    found = (p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))
    return sorted((p for p in found if p.is_file() and not p.stem.endswith(MASK_SUFFIX)), key=lambda p: p.name)


def _mask_of(picture: Path) -> Path | None:
    path = picture.with_name(f"{picture.stem}{MASK_SUFFIX}.png")
    return path if path.is_file() else None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _find_table(root: Path, given: Path | str | None) -> Path | None:
    if given is not None and str(given).strip():
        path = Path(given).expanduser()
        if not path.is_file():
            raise DatasetError(f"metadata_path {path} does not exist; correct it or leave it out")
        return path
    return next((root / name for name in TABLES if (root / name).is_file()), None)


# -- folders ---------------------------------------------------------------------------------------


def _from_folder(root: Path) -> Dataset:
    dataset = Dataset(root, [])
    own = split_repeats(root.name)
    # kohya's tools are pointed at the parent; people often point at the one numbered folder itself
    folders = [(root, *(own or (1, "")))]
    for sub in _subfolders(root):
        named = split_repeats(sub.name)
        if named is not None:
            folders.append((sub, *named))
        elif _pictures(sub):
            dataset.ignored.append(sub)
    sidecars = False
    for folder, repeats, name in folders:
        for picture in _pictures(folder):
            caption = read_sidecar(picture)
            sidecars = sidecars or caption is not None
            dataset.items.append(Item(picture, name if caption is None else caption, repeats, _mask_of(picture)))
    if not sidecars and any(item.caption for item in dataset.items):
        dataset.source = "folder names"
    return dataset


# -- tables ----------------------------------------------------------------------------------------


def _from_table(root: Path, table: Path) -> Dataset:
    dataset = Dataset(root, [], source="table", table=table)
    seen: dict[Path, int] = {}
    rows = _jsonl_rows(table) if table.suffix.lower() == ".jsonl" else _csv_rows(table)
    for number, name, caption, repeats in rows:
        picture = _locate(root, table, name)
        where = f"{table.name} row {number}"
        if picture is None:
            mend = "correct the name or delete the row"
            dataset.problems.append(Problem("missing file", name, f"{where}: {name!r} is not in {root}", mend))
        elif picture in seen:
            message = f"{where}: {name!r} is already in row {seen[picture]}"
            dataset.problems.append(Problem("doubled row", name, message, "delete one of the two rows"))
        else:
            seen[picture] = number
            if repeats is None:
                named = split_repeats(picture.parent.name)
                repeats = named[0] if named else 1
            dataset.items.append(Item(picture, " ".join(caption.split()), repeats, _mask_of(picture)))
    listed = {path.resolve() for path in seen}
    for folder in (root, *_subfolders(root)):
        dataset.unlisted += [path for path in _pictures(folder) if path.resolve() not in listed]
    return dataset


def _locate(root: Path, table: Path, name: str) -> Path | None:
    """The file a row means: beside the table, in the folder, or absolute; Windows separators allowed."""
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        for base in (root, table.parent):
            path = base / spelling
            if spelling and path.is_file():
                return path
    return None


def _csv_rows(table: Path) -> Iterator[tuple[int, str, str, int | None]]:
    text = _read_text(table)
    first = text.split("\n", 1)[0]
    delimiter = next((mark for mark in (",", "\t", ";") if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=False)
    header: dict[str, int] | None = None
    try:
        for row in reader:
            line = reader.line_num
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if header is None:
                header = _header(table, cells)
                if header["first row is data"] < 0:
                    continue
            if len(cells) <= header["file"]:
                raise DatasetError(f"{table} line {line} has {len(cells)} column(s); write file name and caption")
            # an unquoted caption with commas spills over the columns of a two-column table: take it whole
            spilled = len(cells) > header["width"] and header["caption"] == header["width"] - 1
            if spilled:
                caption = delimiter.join(row[header["caption"] :]).strip()
            else:
                caption = cells[header["caption"]] if len(cells) > header["caption"] else ""
            repeats = None
            at = header["repeats"]
            if 0 <= at < len(cells) and cells[at]:
                if not cells[at].isdigit() or not 1 <= int(cells[at]) <= MAX_REPEATS:
                    raise DatasetError(f"{table} line {line}: repeats is {cells[at]!r}; write a number from 1 up")
                repeats = int(cells[at])
            yield line, cells[header["file"]], caption, repeats
    except csv.Error as error:
        raise DatasetError(f"{table} line {reader.line_num}: {error}; save it again as a UTF-8 CSV") from error


def _header(table: Path, cells: list[str]) -> dict[str, int]:
    """Columns of a table: named ones, or the first two of a table without a header."""
    names = [cell.lower() for cell in cells]
    file = next((names.index(name) for name in FILE_COLUMNS if name in names), None)
    caption = next((names.index(name) for name in CAPTION_COLUMNS if name in names), None)
    if file is not None and caption is not None:
        repeats = names.index("repeats") if "repeats" in names else -1
        return {"file": file, "caption": caption, "repeats": repeats, "width": len(names), "first row is data": -1}
    if Path(cells[0].replace("\\", "/")).suffix.lower() in PICTURES:
        return {"file": 0, "caption": 1, "repeats": -1, "width": 2, "first row is data": 1}
    wanted = "file name" if file is None else "caption"
    columns = FILE_COLUMNS if file is None else CAPTION_COLUMNS
    raise DatasetError(
        f"{table} has no {wanted} column in its first line ({', '.join(cells)[:80]}); name it {columns[0]}"
    )


def _jsonl_rows(table: Path) -> Iterator[tuple[int, str, str, int | None]]:
    for number, line in enumerate(_read_text(table).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DatasetError(f"{table} line {number} is not JSON ({error.msg}); correct or delete it") from error
        if not isinstance(row, dict):
            raise DatasetError(f'{table} line {number} is not an object; write {{"file_name": ..., "text": ...}}')
        name = next((row[key] for key in FILE_COLUMNS if key in row), None)
        caption = next((row[key] for key in CAPTION_COLUMNS if key in row), "")
        if not isinstance(name, str) or not isinstance(caption, str):
            raise DatasetError(f"{table} line {number} names no file; write file_name and text as strings")
        yield number, name, caption, None
