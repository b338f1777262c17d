"""What a folder holds that is not trained on, each thing named once: with a count and what to do about it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_eval.dataset.kinds import PLUGINS, kind_of, looks_like_picture
from lora_eval.dataset.sidecars import SIDECARS
from lora_eval.dataset.tables import META, TABLES

MASK = re.compile(r"(.+?)[-_. ](?:masklabel|condlabel|mask|conditioning)", re.IGNORECASE | re.DOTALL)
MASK_FOLDERS = frozenset(
    {"mask", "masks", "masklabel", "conditioning", "conditioning_images", "control", "control_images"}
)
# endings and names under which other programs keep captions
_CAPTION_ENDINGS = frozenset({
    ".tags", ".tag", ".cap", ".captions", ".text", ".json", ".jsonl", ".json1", ".csv", ".tsv", ".parquet", ".wd14",
    ".blip", ".booru", ".prompt", ".xlsx",
})  # fmt: skip
_CAPTION_NAME = re.compile(r"(?:meta|caption|prompt|tag|dataset|label)", re.IGNORECASE)
# made by systems for themselves; no person believes that they are trained on
_SYSTEM = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r", "__macosx"})
MAX_LOOKED_AT = 500


@dataclass(frozen=True)
class LeftOut:
    """One kind of thing that is not trained on. ``severity`` and ``code`` as in ``dataset.check.Finding``.

    ``name`` is the file or folder where it is a single one, else "".
    """

    severity: str
    code: str
    name: str
    message: str
    mend: str


@dataclass
class Listing:
    """The files of one folder by what they are.

    Attributes:
        pictures: read as training pictures, by name.
        masks: pictures that are masks or conditioning of another one beside them.
        unread: pictures and films of a kind that is not read.
        texts: ``.txt`` and ``.caption`` files.
        captions: files that look like captions and are not read.
        others: the rest.
        folders: subfolders.
    """

    folder: Path
    pictures: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    captions: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


def list_folder(folder: Path) -> Listing:
    """Sort the files of a folder, without its subfolders. Raises OSError."""
    found, looked = Listing(folder), 0
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith(".") or path.name.lower() in _SYSTEM:
            continue
        if path.is_dir():
            found.folders.append(path)
            continue
        kind, ending = kind_of(path), path.suffix.lower()
        if kind == "picture":
            found.pictures.append(path)
        elif kind == "unread":
            found.unread.append(path)
        elif ending in SIDECARS:
            found.texts.append(path)
        elif path.name.lower() in (*TABLES, *META):
            pass
        elif ending in _CAPTION_ENDINGS:
            found.captions.append(path)
        else:
            looked += 1
            disguised = looked <= MAX_LOOKED_AT and looks_like_picture(path)
            (found.unread if disguised else found.others).append(path)
    stems = {path.stem for path in found.pictures}
    found.masks = [p for p in found.pictures if _is_mask(p, stems)]
    found.pictures = [p for p in found.pictures if p not in set(found.masks)]
    beside = stems | {path.name for path in found.pictures}
    for path in list(found.captions):
        if path.stem not in beside and not _CAPTION_NAME.search(path.stem):
            found.captions.remove(path)
            found.others.append(path)
    return found


def _is_mask(path: Path, stems: set[str]) -> bool:
    if path.stem.lower().endswith(("-masklabel", "-condlabel")):
        return True
    match = MASK.fullmatch(path.stem)
    # gas_mask.png without gas.png is a picture of a gas mask
    return match is not None and match[1] in stems


def count_pictures(folder: Path) -> int:
    """Pictures in a folder and below it, hidden folders left out."""
    found = list_folder(folder)
    below = sum(count_pictures(sub) for sub in found.folders if not sub.is_symlink())
    return len(found.pictures) + len(found.masks) + below


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names as a list: ``a.png, b.png and 7 more``."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def endings(paths: Iterable[Path]) -> str:
    """``.heic 30, .jxl 10``: endings and how many files have them, the commonest first."""
    counts = Counter(path.suffix.lower() or "no ending" for path in paths)
    return ", ".join(f"{ending} {number}" for ending, number in counts.most_common())


def unread_kinds(paths: Sequence[Path]) -> list[LeftOut]:
    """Pictures of kinds that are not read, in one line that names the packages."""
    if not paths:
        return []
    packages = dict.fromkeys(PLUGINS[p.suffix.lower()][0] for p in paths if p.suffix.lower() in PLUGINS)
    message = f"{len(paths)} picture(s) of a kind that is not read: {endings(paths)}"
    mend = "convert them to PNG" + (f", or pip install {' '.join(packages)}" if packages else "")
    return [LeftOut("warning", "unread kind", "", message, mend)]


def named(severity: str, code: str, names: Sequence[str], message: str, mend: str) -> list[LeftOut]:
    """One line for any number of files: ``message`` follows their number and names; nothing for none."""
    if not names:
        return []
    if len(names) == 1:
        return [LeftOut(severity, code, names[0], message, mend)]
    return [LeftOut(severity, code, "", f"{len(names)} files ({some(names)}): {message}", mend)]
