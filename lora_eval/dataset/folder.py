"""A folder of pictures and captions, read without opening a picture.

Three forms are understood: a table (``metadata.csv``, ``metadata.jsonl`` of the Hugging Face image folder, or kohya's
``meta_*.json``), captions beside the pictures (``.txt``, ``.caption``), and kohya's subfolders ``<repeats>_<name>``. A
table wins over the other two, except kohya's, which is read where no caption lies beside a picture. What is left out is
named in :attr:`Dataset.left_out`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from lora_eval.dataset import inventory
from lora_eval.dataset.inventory import LeftOut, Listing, list_folder, named, unread_kinds
from lora_eval.dataset.sidecars import SIDECARS, caption_in, read_sidecar, sidecars_of
from lora_eval.dataset.tables import CAPTION_COLUMNS, FILE_COLUMNS, MAX_REPEATS, META, TABLES, locate, read_table
from lora_eval.errors import DatasetError

__all__ = [
    "CAPTION_COLUMNS", "FILE_COLUMNS", "SIDECARS", "Dataset", "Item", "Problem", "read_sidecar", "scan",
    "split_repeats",
]  # fmt: skip

MASK_SUFFIX = "-masklabel"
_REPEATS = re.compile(r"(\d+)_(.*)", re.DOTALL)
# more often than this nobody shows a picture on purpose: a year or a date in front of a folder's name
MANY_REPEATS = 200


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
        left_out: everything that is not trained on and what was decided about it, each thing once.
        extension: the only ending of captions that is read; "" is .txt before .caption.
    """

    root: Path
    items: list[Item]
    source: str = "sidecars"
    table: Path | None = None
    problems: list[Problem] = field(default_factory=list)
    unlisted: list[Path] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    extension: str = ""

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


def scan(folder: Path | str, metadata_path: Path | str | None = None, extension: str = "") -> Dataset:
    """Find the pictures and captions of ``folder``.

    Args:
        folder: the training folder.
        metadata_path: table of captions; without it the folder's own.
        extension: read only captions beside pictures that have this ending, and no table of the folder's own.

    Raises:
        DatasetError: the folder or the named table is missing, empty or unreadable. Single bad rows and captions do
            not raise: they are in :attr:`Dataset.problems`.
    """
    root = Path(folder).expanduser()
    if not root.exists():
        raise DatasetError(f"{root} does not exist; give the folder with the training pictures")
    if not root.is_dir():
        raise DatasetError(f"{root} is a file, not a folder; give the folder with the training pictures")
    try:
        listings = _walk(root)
        table = _find_table(root, metadata_path, listings, extension)
        dataset = Dataset(root, [], extension=extension)
        if table is not None:
            _from_table(dataset, table, listings)
        else:
            _from_folder(dataset, listings)
        _left_files(dataset, listings)
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename or root}: {error.strerror}; check its permissions") from error
    if not dataset.items:
        dataset.require()
        where = f"{dataset.table.name} lists no pictures" if dataset.table else f"{root} holds no pictures"
        named_there = [f"{f'{one.name}: ' * bool(one.name)}{one.message}" for one in dataset.left_out
                       if one.severity == "warning"]  # fmt: skip
        if named_there:
            raise DatasetError(f"{where} to train on: {'; '.join(named_there)}; see `check` and docs/what-it-reads.md")
        raise DatasetError(f"{where}; put png, jpg or webp files there (50 to 200 are advised)")
    return dataset


def split_repeats(folder_name: str) -> tuple[int, str] | None:
    """``"10_red fox"`` -> ``(10, "red fox")``; None when the name is not kohya's form."""
    match = _REPEATS.fullmatch(folder_name)
    # int() refuses texts of thousands of digits
    return None if match is None else (int(match[1][:9]), match[2].strip())


def _walk(root: Path) -> list[Listing]:
    """The folder and all below it, links to folders left out."""
    found = [list_folder(root)]
    for listing in found:
        found += [list_folder(sub) for sub in listing.folders if not sub.is_symlink()]
    return found


def _mask_of(picture: Path) -> Path | None:
    path = picture.with_name(f"{picture.stem}{MASK_SUFFIX}.png")
    return path if path.is_file() else None


def _find_table(root: Path, given: Path | str | None, listings: list[Listing], extension: str) -> Path | None:
    if given is not None and str(given).strip():
        path = Path(given).expanduser()
        if not path.is_file():
            raise DatasetError(f"metadata_path {path} does not exist; correct it or leave it out")
        return path
    if extension:
        return None
    own = next((root / name for name in TABLES if (root / name).is_file()), None)
    meta = next((root / name for name in META if (root / name).is_file()), None)
    if own is not None or meta is None:
        return own
    beside = any(sidecars_of(picture) for listing in listings for picture in listing.pictures)
    return None if beside else meta


# -- folders ---------------------------------------------------------------------------------------


def _from_folder(dataset: Dataset, listings: list[Listing]) -> None:
    root = dataset.root
    taken: list[tuple[Listing, int, str]] = []
    for listing in listings:
        found = split_repeats(listing.folder.name)
        if listing.folder == root:
            # kohya reads repeats from the names of subfolders alone; 2024_summer is shown once
            taken.append((listing, 1, found[1] if found else ""))
            if found and found[0] > 1 and listing.pictures:
                message = f"{root.name} is the folder itself, so its number is not read: each picture is shown once"
                mend = f"name the folder above it to show them {found[0]} times"
                dataset.left_out.append(LeftOut("info", "folder name", "", message, mend))
        elif found is not None and listing.folder.parent == root and found[0] > 0:
            _check_repeats(dataset, listing, found[0])
            taken.append((listing, min(found[0], MAX_REPEATS), found[1]))
        elif listing.pictures:
            _ignore(dataset, listing.folder, len(listing.pictures))
    if len(taken) > 1 and taken[0][0].pictures:
        number = len(taken[0][0].pictures)
        message = f"{number} picture(s) beside the folders <repeats>_<name> are trained on, too, once each"
        dataset.left_out.append(LeftOut("info", "loose pictures", "", message, "move them into a folder of their own"))
    sidecars = False
    bare: dict[str, int] = {}
    for listing, repeats, name in taken:
        for picture in listing.pictures:
            caption = _caption(dataset, picture)
            sidecars = sidecars or caption is not None
            if caption is None and name:
                bare[name] = bare.get(name, 0) + 1
            text = name if caption is None else caption
            dataset.items.append(Item(picture, text, repeats, _mask_of(picture)))
    if not sidecars and any(item.caption for item in dataset.items):
        dataset.source = "folder names"
    for name, number in bare.items():
        message = f"{number} picture(s) without a caption file get the name of their folder: {name}"
        dataset.left_out.append(LeftOut("info", "folder caption", "", message, "write a .txt beside each to say more"))


def _check_repeats(dataset: Dataset, listing: Listing, repeats: int) -> None:
    name = listing.folder.name
    if not listing.pictures or repeats <= MANY_REPEATS:
        return
    if repeats > MAX_REPEATS:
        message = f"{name}: {repeats} repeats are more than {MAX_REPEATS}"
        mend = "put a smaller number in front of the folder's name, 1_ for none"
        dataset.problems.append(Problem("repeats", name, message, mend))
        return
    message = f"each of its pictures is shown {repeats} times an epoch"
    mend = f"rename it to 1_{name} if {repeats} is no number of repeats, a year for example"
    dataset.left_out.append(LeftOut("warning", "repeats", name, message, mend))


def _ignore(dataset: Dataset, folder: Path, number: int) -> None:
    """A folder whose pictures are not trained on, with the mend that fits it."""
    parts = [part.lower() for part in folder.relative_to(dataset.root).parts]
    if any(part in inventory.MASK_FOLDERS for part in parts):
        message = f"{number} mask or conditioning picture(s), which are not trained on"
        mend = "call a mask <picture>-masklabel.png to use it"
        dataset.left_out.append(LeftOut("info", "masks", dataset.name(folder), message, mend))
        return
    dataset.ignored.append(folder)
    if len(parts) > 1:
        mend = "move them up: folders inside folders are not looked into"
    elif split_repeats(folder.name) is not None:
        mend = "put a number above 0 in front of its name to train on it"
    else:
        mend = f"rename it to 1_{folder.name} (repeats_name) to train on it"
    message = f"its {number} picture(s) are not trained on"
    dataset.left_out.append(LeftOut("warning", "ignored folder", dataset.name(folder), message, mend))


def _caption(dataset: Dataset, picture: Path) -> str | None:
    """The caption beside a picture; "" where its file cannot be read, which is a problem of its own."""
    found = sidecars_of(picture, dataset.extension)
    if not found:
        return None
    try:
        return caption_in(found[0])
    except DatasetError as error:
        message, _, mend = str(error).replace(str(found[0]), dataset.name(found[0]), 1).rpartition("; ")
        dataset.problems.append(Problem("unreadable caption", dataset.name(picture), message, mend))
        return ""


# -- tables ----------------------------------------------------------------------------------------


def _from_table(dataset: Dataset, table: Path, listings: list[Listing]) -> None:
    root = dataset.root
    dataset.source, dataset.table = "table", table
    found = read_table(table)
    stems: dict[str, list[Path]] = {}
    for listing in listings:
        for path in listing.pictures:
            stems.setdefault(path.stem, []).append(path)
    seen: dict[Path, int] = {}
    for row in found.rows:
        where = f"{table.name} row {row.number}"
        if row.problem:
            dataset.problems.append(Problem("bad row", row.name, f"{where}: {row.problem}", row.mend))
            if refused := locate(root, table, row.name, stems):
                seen.setdefault(refused, row.number)
            continue
        picture = locate(root, table, row.name, stems)
        if picture is None:
            mend = "correct the name or delete the row"
            dataset.problems.append(Problem("missing file", row.name, f"{where}: {row.name!r} is not in {root}", mend))
        elif picture in seen:
            message = f"{where}: {row.name!r} is already in row {seen[picture]}"
            dataset.problems.append(Problem("doubled row", row.name, message, "delete one of the two rows"))
        else:
            seen[picture] = row.number
            repeats = row.repeats
            if repeats is None:
                above = split_repeats(picture.parent.name) if picture.parent != root else None
                repeats = min(max(above[0], 1), MAX_REPEATS) if above else 1
            dataset.items.append(Item(picture, " ".join(row.caption.split()), repeats, _mask_of(picture)))
    listed = {path.resolve() for path in seen}
    for listing in listings:
        if any(p.lower() in inventory.MASK_FOLDERS for p in listing.folder.relative_to(root).parts):
            continue
        dataset.unlisted += [path for path in listing.pictures if path.resolve() not in listed]
    message = f"not named in {table.name}, so it is not trained on"
    names = [dataset.name(path) for path in dataset.unlisted]
    dataset.left_out += named("warning", "unlisted picture", names, message, "add a row or remove it")
    if found.unread:
        message = f"column(s) of {table.name} that are not read: {', '.join(found.unread)}"
        dataset.left_out.append(LeftOut("info", "unread column", "", message, "name the caption's column prompt"))
    others = [root / name for name in (*TABLES, *META) if (root / name).is_file() and root / name != table]
    message = f"not read, because {table.name} is"
    mend = "remove the one that is not wanted"
    dataset.left_out += named("warning", "other table", [path.name for path in others], message, mend)
    beside = [dataset.name(path) for item in dataset.items for path in _differing(item.path, item.caption)]
    message = f"another caption beside the picture, not read because {table.name} is"
    dataset.left_out += named("warning", "other caption", beside, message, mend)


def _differing(picture: Path, caption: str) -> list[Path]:
    """Caption files beside a picture whose text is another one."""
    found = []
    for path in sidecars_of(picture):
        try:
            if caption_in(path) != caption:
                found.append(path)
        except DatasetError:
            found.append(path)
    return found


# -- what is left out ------------------------------------------------------------------------------


def _left_files(dataset: Dataset, listings: list[Listing]) -> None:
    root, left = dataset.root, dataset.left_out
    left += unread_kinds([path for listing in listings for path in listing.unread])
    used = {item.mask for item in dataset.items}
    masks = [dataset.name(path) for listing in listings for path in listing.masks if path not in used]
    listed = {dataset.name(item.path) for item in dataset.items}
    masks = [name for name in masks if name not in listed]
    mend = "call a mask <picture>-masklabel.png to use it"
    left += named("info", "masks", masks, "a mask or conditioning picture, which is not trained on", mend)
    if dataset.table is None:
        mend = "remove the one that is not wanted"
        read = {item.path: sidecars_of(item.path, dataset.extension)[:1] for item in dataset.items}
        beside = [dataset.name(path) for item in dataset.items
                  for path in _differing(item.path, item.caption) if path not in read[item.path]]  # fmt: skip
        message = "another caption of a picture that has one, not read"
        left += named("warning", "other caption", beside, message, mend)
        tables = [name for name in (*TABLES, *META) if (root / name).is_file()]
        left += named("warning", "other table", tables, "not read, because captions beside the pictures are", mend)
    owned = {path for listing in listings for picture in (*listing.pictures, *listing.unread, *listing.masks)
             for path in (*sidecars_of(picture), *sidecars_of(picture, dataset.extension))}  # fmt: skip
    table = dataset.table
    texts = [path for listing in listings for path in listing.texts if path not in owned and path != table]
    bare = any(not item.caption for item in dataset.items)
    severity = "warning" if bare or dataset.source == "folder names" else "info"
    message = "a text that belongs to no picture, not read"
    left += named(severity, "lone text", [dataset.name(path) for path in texts], message, "call it as its picture")
    captions = [path for listing in listings for path in listing.captions if path not in owned and path != table]
    mend = "write metadata.csv, metadata.jsonl or a .txt beside each picture"
    names = [dataset.name(path) for path in captions]
    left += named("warning", "unread caption", names, "it looks like captions, but is not read", mend)
    others = [path for listing in listings for path in listing.others if path not in owned]
    if others:
        message = f"{len(others)} other file(s) are not used: {inventory.endings(others)}"
        left.append(LeftOut("info", "other files", "", message, "nothing needs to be done"))
