"""Editing the captions of a folder: what would change, shown first, then written where the captions live.

A table keeps its other columns, its rows and their order; a sidecar keeps its name. Every file is written
whole or not at all.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_eval.dataset.captions import find_replace, has_term, split_tags, tidy, write_sidecar, write_table
from lora_eval.dataset.folder import CAPTION_COLUMNS, FILE_COLUMNS, Dataset, Item, read_sidecar
from lora_eval.dataset.tables import layout
from lora_eval.errors import DatasetError
from lora_eval.files import write_text
from lora_eval.reading.text import NotText, read_text

FORMS = ("csv", "txt")
_NewCaption = Callable[[str], "str | None"]


@dataclass(frozen=True)
class Edit:
    """What is done to a caption, in this order.

    Attributes:
        replace: pairs (old, new); plain text, or regular expressions with ``regex``.
        remove: words or phrases taken out wherever they stand as whole words, in any case.
        prepend, append: put in front or behind as a part of its own, unless the caption has it already.
        trigger: stands in front afterwards, once (see :func:`set_trigger`).
        class_word: follows the trigger where it is put in.
    """

    replace: tuple[tuple[str, str], ...] = ()
    regex: bool = False
    remove: tuple[str, ...] = ()
    prepend: str = ""
    append: str = ""
    trigger: str = ""
    class_word: str = ""


@dataclass(frozen=True)
class Change:
    """One picture's caption before and after. ``name`` as shown to a person."""

    path: Path
    name: str
    before: str
    after: str


def edit_captions(captions: Sequence[str], edit: Edit) -> list[str]:
    """The captions after the edit; a caption that nothing touches stays as it is, letter by letter.

    Raises:
        DatasetError: an empty text to find, or no regular expression.
    """
    found = list(captions)
    for old, new in edit.replace:
        found = find_replace(found, old, new, edit.regex)
    for term in edit.remove:
        found = [remove_term(caption, term) for caption in found]
    if front := tidy(edit.prepend):
        found = [c if has_term(c, front) else f"{front}, {c}" if c else front for c in found]
    if back := tidy(edit.append):
        found = [c if has_term(c, back) else f"{c}, {back}" if c else back for c in found]
    return [set_trigger(caption, edit.trigger, edit.class_word) for caption in found]


def remove_term(caption: str, term: str) -> str:
    """The caption without a word or phrase, whole words only and in any case; what this leaves is tidied.

    Raises:
        DatasetError: the term is empty.
    """
    term = " ".join(term.split())
    if not term:
        raise DatasetError("the term to remove is empty; write the words to take out")
    left = re.sub(rf"(?<!\w){re.escape(term)}(?!\w)", "", caption, flags=re.IGNORECASE)
    return caption if left == caption else tidy(left)


def set_trigger(caption: str, trigger: str, class_word: str = "") -> str:
    """The caption with the trigger in front, once.

    A trigger that is a part of its own further back moves to the front; one inside a sentence ("a photo of
    zorp") stays where it is, because the sentence needs it. ``class_word`` follows a trigger that is put in.
    """
    trigger = " ".join(trigger.split())
    if not trigger:
        return caption
    opening = f"{trigger} {' '.join(class_word.split())}".strip()
    tags = split_tags(caption)
    same = {trigger.casefold(), opening.casefold()}
    own = [tag for tag in tags if tag.casefold() in same]
    if not own and has_term(caption, trigger):
        return caption
    rest = [tag for tag in tags if tag.casefold() not in same]
    if own and tags[0] == own[0] and len(own) == 1:
        return caption
    return ", ".join([own[0] if own else opening, *rest])


def captioned(dataset: Dataset, item: Item) -> bool:
    """Whether a person or program wrote this caption; a folder's name that is used in its place does not count."""
    if dataset.source == "table":
        return bool(item.caption.strip())
    return bool((read_sidecar(item.path, dataset.extension) or "").strip())


def changes(dataset: Dataset, after: Mapping[Path, str]) -> list[Change]:
    """What ``after`` (picture -> caption) changes, in the folder's order."""
    found = []
    for item in dataset.items:
        before = item.caption if captioned(dataset, item) else ""
        if item.path in after and after[item.path] != before:
            found.append(Change(item.path, dataset.name(item.path), before, after[item.path]))
    return found


def diff(found: Sequence[Change]) -> str:
    """The changes as a person reads them: a unified diff, one file a caption."""
    parts: list[str] = []
    for change in found:
        before, after = ([text] if text else [] for text in (change.before, change.after))
        parts += difflib.unified_diff(before, after, change.name, change.name, lineterm="", n=0)
    return "\n".join(line for line in parts if not line.startswith("@@"))


def form_of(dataset: Dataset) -> str:
    """Where the folder's captions live: ``csv`` for a table, ``txt`` for sidecars and kohya's folders, else ``csv``."""
    if dataset.source == "table":
        return "csv"
    sidecars = any(read_sidecar(item.path, dataset.extension) is not None for item in dataset.items)
    return "txt" if sidecars or dataset.source == "folder names" else "csv"


def write_changes(dataset: Dataset, found: Sequence[Change], form: str | None = None) -> list[Path]:
    """Write changed captions; nothing is touched when nothing changed and the form is the folder's own.

    Args:
        form: ``csv`` (the folder's own table, else a new ``metadata.csv`` with every picture) or ``txt``
            (sidecars of the changed pictures; of all captioned ones where a table has to be left behind);
            None is what the folder does already.

    Returns:
        The files written.

    Raises:
        DatasetError: an unknown form, or the table changed since it was read.
        RunError: a file cannot be written.
    """
    form = form or form_of(dataset)
    if form not in FORMS:
        raise DatasetError(f"captions cannot be written as {form!r}; write {' or '.join(FORMS)}")
    after = {change.path: change.after for change in found}
    if form == "txt" and dataset.source == "table":
        return [write_sidecar(item.path, after.get(item.path, item.caption)) for item in dataset.items]
    if not found and form == form_of(dataset):
        return []
    if form == "txt":
        return [write_sidecar(path, caption) for path, caption in after.items()]
    if dataset.table is None:
        items = [
            Item(item.path, after.get(item.path, item.caption if captioned(dataset, item) else ""), item.repeats)
            for item in dataset.items
        ]
        return [write_table(dataset, items)]
    text = _rewritten(dataset, dataset.table, after)
    write_text(dataset.table, text)
    return [dataset.table]


def _rewritten(dataset: Dataset, table: Path, after: Mapping[Path, str]) -> str:
    """The table's text with new captions in it."""
    try:
        text = read_text(table)
    except (OSError, NotText) as error:
        raise DatasetError(f"cannot read {table} ({error}); the captions were not written") from None
    left = {dataset.name(path): caption for path, caption in after.items()}
    # what a row calls the picture need not be what a person is shown: both ways lead to the file
    by_file = {path.resolve(): dataset.name(path) for path in after}

    def caption_for(name: str) -> str | None:
        for spelling in (name, name.replace("\\", "/")):
            for base in (dataset.root, table.parent):
                key = by_file.get((base / spelling).resolve())
                if key is not None:
                    return left.pop(key, None)
        return None

    ending = table.suffix.lower()
    if ending == ".json":
        raise DatasetError(f"{table} is written by kohya's scripts and is not changed; write the captions as txt")
    lines = _jsonl(text, caption_for) if ending == ".jsonl" else _csv(table, text, caption_for)
    if left:
        raise DatasetError(f"{table} has no row for {sorted(left)[0]} any more; run the command again")
    return lines


def _jsonl(text: str, caption_for: _NewCaption) -> str:
    lines = []
    for line in text.splitlines():
        row = json.loads(line) if line.strip() else None
        if isinstance(row, dict):
            name = next((row[key] for key in FILE_COLUMNS if key in row), "")
            caption = caption_for(str(name).strip())
            if caption is not None:
                row[next((key for key in CAPTION_COLUMNS if key in row), "text")] = caption
                line = json.dumps(row, ensure_ascii=False)
        lines.append(line)
    return "\n".join(lines) + "\n"


def _csv(table: Path, text: str, caption_for: _NewCaption) -> str:
    rows, delimiter, columns = layout(table, text)
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    for number, row in enumerate(rows):
        cells = list(row.cells)
        name = cells[columns.file] if len(cells) > columns.file else ""
        caption = None if number == 0 and columns.header else caption_for(name)
        if caption is not None:
            if columns.caption == columns.width - 1:
                # an unquoted caption with commas lay over further columns; it is quoted from now on
                del cells[columns.width :]
            cells += [""] * (columns.caption + 1 - len(cells))
            cells[columns.caption] = caption
        writer.writerow(cells)
    return out.getvalue()
