"""A folder of training pictures as the Train tab works on it: looked at, its captions written, a picture put aside."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_eval.errors import ConfigError, DatasetError, RunError
from lora_eval.service import submit

if TYPE_CHECKING:
    from lora_eval.dataset.folder import Dataset


@dataclass(frozen=True)
class CheckedPicture:
    """One picture of a checked folder."""

    name: str
    path: Path
    caption: str


@dataclass(frozen=True)
class Checked:
    """The dataset check: findings as :class:`lora_eval.dataset.check.Finding` has them, and every picture."""

    pictures: list[CheckedPicture]
    findings: list[dict[str, str]]


def check(
    folder: str, metadata: str | None, trigger: str, side: int | tuple[int, int] | None, class_word: str | None = None
) -> Checked:
    """Look at every picture of a training folder, to be drawn at ``side``. Raises DatasetError, ConfigError."""
    words = trigger.strip() or None, (class_word or "").strip() or None
    found = submit.check_folder(folder_path(folder), table_path(metadata), words[0], side, words[1])
    dataset = read(folder, metadata)
    pictures = [CheckedPicture(dataset.name(item.path), item.path, item.caption) for item in dataset.items]
    return Checked(pictures, found["findings"])


def save_captions(folder: str, metadata: str | None, captions: Mapping[str, str]) -> int:
    """Write captions by picture name where the folder keeps them: its table, or a file beside each picture.

    Returns how many changed. Raises DatasetError, RunError.
    """
    from lora_eval.dataset.captions import write_sidecar, write_table

    dataset = read(folder, metadata)
    by_name = {dataset.name(item.path): item for item in dataset.items}
    for name in captions:
        if name not in by_name:
            raise DatasetError(f"{name} is not among the pictures of {folder} any more; check the folder again")
    wanted = {by_name[name].path: " ".join(caption.split()) for name, caption in captions.items()}
    changed = [item for item in dataset.items if item.path in wanted and wanted[item.path] != item.caption]
    if changed and dataset.table is not None:
        if dataset.table.suffix.lower() != ".csv":
            raise DatasetError(f"{dataset.table} is no CSV and is not written to; edit it yourself")
        items = [replace(item, caption=wanted.get(item.path, item.caption)) for item in dataset.items]
        write_table(dataset, items)
    else:
        for item in changed:
            write_sidecar(item.path, wanted[item.path])
    return len(changed)


def set_aside(folder: str, metadata: str | None, name: str) -> Path:
    """Move a picture and its captions out of the folder, into ``<folder>-set-aside``; nothing is deleted.

    Returns where the picture is now. Raises DatasetError, RunError.
    """
    from lora_eval.dataset.captions import write_table
    from lora_eval.dataset.sidecars import sidecars_of

    dataset = read(folder, metadata)
    item = next((item for item in dataset.items if dataset.name(item.path) == name), None)
    if item is None:
        raise DatasetError(f"{name} is not among the pictures of {folder} any more; check the folder again")
    if len(dataset.items) == 1:
        raise DatasetError(f"{name} is the last picture of {folder}; add others first")
    target = dataset.root.with_name(f"{dataset.root.name}-set-aside") / item.path.relative_to(dataset.root)
    if target.exists():
        raise DatasetError(f"{target} is there already; move or rename it first")
    if dataset.table is not None:
        if dataset.table.suffix.lower() != ".csv":
            raise DatasetError(f"{dataset.table} is no CSV and is not written to; edit it yourself")
        write_table(dataset, [other for other in dataset.items if other is not item])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in (item.path, *sidecars_of(item.path)):
            shutil.move(path, target.with_name(path.name))
    except OSError as error:
        raise RunError(f"{item.path} cannot be moved to {target.parent} ({error.strerror})") from None
    return target


def add_trigger(folder: str, metadata: str | None, trigger: str) -> int:
    """Put the trigger in front of each caption that lacks it; how many were changed."""
    from lora_eval.dataset.captions import has_term, prepend_trigger

    word = trigger.strip()
    if not word:
        raise ConfigError("there is no trigger word; enter one first")
    dataset = read(folder, metadata)
    lacking = [item for item in dataset.items if not has_term(item.caption, word)]
    captions = {dataset.name(item.path): prepend_trigger(item.caption, word) for item in lacking}
    return save_captions(folder, metadata, captions)


def read(folder: str, metadata: str | None) -> Dataset:
    """The pictures and captions of a folder as typed into the tab. Raises ConfigError, DatasetError."""
    from lora_eval.dataset.folder import scan

    return scan(folder_path(folder), table_path(metadata))


def folder_path(folder: str) -> Path:
    """The folder as typed into the tab. Raises ConfigError where nothing was."""
    if not folder.strip():
        raise ConfigError("no folder is chosen; give the folder with the training pictures")
    return Path(folder.strip()).expanduser()


def table_path(metadata: str | None) -> Path | None:
    """The captions' table as typed into the tab; None where nothing was."""
    return Path(metadata.strip()).expanduser() if metadata and metadata.strip() else None
