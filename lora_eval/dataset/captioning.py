"""Captions for a whole folder: made by the scorecard's own encoder where there are none, edited where there are.

What a captioner says is a start for a person to correct, so nothing that is written already is replaced
unless that is asked for, and every change can be shown before it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_eval.dataset.autocaption import TERMS, Captioner, Encoder, Group, ZeroShotCaptioner, load_terms
from lora_eval.dataset.caption_edit import (
    Change,
    Edit,
    captioned,
    changes,
    edit_captions,
    form_of,
    set_trigger,
    write_changes,
)
from lora_eval.dataset.captions import tidy
from lora_eval.dataset.folder import Dataset, scan
from lora_eval.dataset.images import open_picture
from lora_eval.errors import ConfigError, DatasetError, HostError, Interrupted

TINY_TERMS = TERMS.with_name("tiny.yaml")
SUBJECT = "subject"


@dataclass
class CaptionOrder:
    """What the captions of a folder should become.

    Attributes:
        trigger: goes in front of every caption that is made, and with ``prefix`` of those there already.
        class_word: what the trigger is ("woman"); follows it, and no other subject is guessed.
        overwrite: make captions anew where there are some.
        edit: find and replace and the like, for captions that are there; with it none are made, unless
            ``overwrite`` asks for them. Its trigger is taken from here.
        form: ``csv``, ``txt`` or None for what the folder does.
        encoder: see :func:`lora_eval.encoders.registry.load_encoder`.
        terms: YAML of caption terms; None is the shipped list (the tiny one for the tiny encoder).
        sure: softmax that a term needs, in (0, 1).
    """

    trigger: str = ""
    class_word: str = ""
    prefix: bool = False
    overwrite: bool = False
    edit: Edit = field(default_factory=Edit)
    form: str | None = None
    encoder: str = "auto"
    terms: Path | None = None
    sure: float = 0.3

    @property
    def edits(self) -> bool:
        """Whether captions are edited rather than made."""
        edit = self.edit
        return bool(edit.replace or edit.remove or edit.prepend or edit.append)


@dataclass
class Captioned:
    """What came of it.

    Attributes:
        changes: captions that differ from before, in the folder's order.
        written: files written; none in a dry run.
        failed: one line for each picture that could not be read.
        notes: what a person should know: pictures left without a caption, a table that wins over sidecars.
    """

    changes: list[Change]
    written: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def caption_folder(
    folder: Path | str,
    order: CaptionOrder,
    *,
    metadata: Path | None = None,
    dry_run: bool = False,
    encoder: Encoder | None = None,
    captioner: Captioner | None = None,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Captioned:
    """Make and edit the captions of ``folder`` and write them. The same folder and encoder give the same captions.

    Args:
        metadata: table of captions in place of the folder's own.
        dry_run: change nothing on disk; the changes say what would be.
        encoder: one already loaded; else ``order.encoder`` is loaded when the first picture needs it.
        captioner: another way to caption, such as a WebUI's interrogator; no encoder is needed then.
        progress: called with (done, total) of the captions made; may raise Interrupted, and what is made by then is
            kept.
        say: called with one line before a download.

    Raises:
        DatasetError: the folder cannot be read, or an edit cannot be done.
        ConfigError, HostError: the encoder or the terms cannot be had.
        RunError: a file cannot be written.
        Interrupted: ``progress`` raised it.
    """
    if not 0.0 < order.sure < 1.0:
        raise ConfigError(f"sure {order.sure:g} is out of range; take a number between 0 and 1, for example 0.3")
    if order.prefix and not order.trigger.strip():
        raise ConfigError("--prefix needs a trigger to put in front; name it with --trigger")
    dataset = scan(folder, metadata)
    makes = order.overwrite or not order.edits
    todo = [i for i in dataset.items if makes and (order.overwrite or not captioned(dataset, i))]
    if todo and captioner is None:
        captioner = _captioner(order, encoder, say)
    after: dict[Path, str] = {}
    result = Captioned([])
    silent = 0
    stopped: Exception | None = None
    for number, item in enumerate(todo, 1):
        assert captioner is not None
        try:
            said = tidy(captioner(open_picture(item.path)))
        except DatasetError as error:
            result.failed.append(str(error))
            continue
        except (HostError, Interrupted) as error:
            # the captions made so far took time: they are kept
            stopped = error
            break
        after[item.path] = set_trigger(said, order.trigger, order.class_word)
        silent += not said
        try:
            if progress is not None:
                progress(number, len(todo))
        except Interrupted as error:
            stopped = error
            break
    kept = [item for item in dataset.items if item not in todo and captioned(dataset, item)]
    edit = replace(order.edit, trigger="", class_word="")
    if order.prefix:
        edit = replace(edit, trigger=order.trigger, class_word=order.class_word)
    edited = edit_captions([item.caption for item in kept], edit)
    after.update((item.path, caption) for item, caption in zip(kept, edited, strict=True))
    result.changes = changes(dataset, after)
    if not dry_run:
        result.written = write_changes(dataset, result.changes, order.form)
    if stopped is not None:
        raise stopped
    result.notes = _notes(dataset, order, silent, len(dataset) - len(after) - len(result.failed))
    return result


def _captioner(order: CaptionOrder, encoder: Encoder | None, say: Callable[[str], None] | None) -> Captioner:
    from lora_eval.encoders.clip import TINY
    from lora_eval.encoders.registry import load_encoder, resolve_encoder

    name = resolve_encoder(order.encoder)
    groups: Sequence[Group] = load_terms(order.terms or (TINY_TERMS if name == TINY else TERMS))
    if order.class_word.strip():
        groups = [group for group in groups if group.name != SUBJECT]
    return ZeroShotCaptioner(encoder or load_encoder(name, say=say), groups, order.sure)


def _notes(dataset: Dataset, order: CaptionOrder, silent: int, bare: int) -> list[str]:
    notes = []
    if silent:
        notes.append(f"{silent} picture(s): no term was sure enough; write their captions by hand")
    if bare:
        notes.append(f"{bare} picture(s) have no caption to edit; run caption without edits to make some")
    if dataset.unlisted and dataset.table is not None:
        notes.append(f"{len(dataset.unlisted)} picture(s) are not in {dataset.table.name} and are left alone")
    if order.form == "txt" and dataset.table is not None:
        notes.append(f"{dataset.table.name} is still there and wins over the sidecars; remove it to use them")
    if order.form == "csv" and form_of(dataset) == "txt":
        notes.append("metadata.csv wins over the sidecars from now on; remove them or edit the table")
    return notes
