"""Captions as text: tags, triggers, the variations of training, and writing them back."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from lora_eval.dataset.folder import Dataset, Item
from lora_eval.dataset.sidecars import sidecars_of
from lora_eval.errors import DatasetError
from lora_eval.files import write_text

CLIP_TOKENS = 75
_CLIP_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_+", re.IGNORECASE)


class Random(Protocol):
    """The part of ``random.Random`` that a caption's variation draws from."""

    def random(self) -> float: ...

    def shuffle(self, x: list[str]) -> None: ...


def split_tags(caption: str) -> list[str]:
    """The comma-separated parts of a caption, trimmed, empty ones dropped."""
    return [part for part in (part.strip() for part in caption.split(",")) if part]


def vary(
    caption: str,
    rng: Random,
    shuffle: bool = False,
    keep_tokens: int = 0,
    caption_dropout: float = 0.0,
    tag_dropout: float = 0.0,
) -> str:
    """One training variation of a caption.

    Order as in kohya's scripts: the whole caption is dropped first (then "" trains the unconditional
    prediction), else tags after the first ``keep_tokens`` are dropped and shuffled.

    Args:
        rng: source of chance; drawn from only for what is switched on.
        keep_tokens: number of leading tags that stay in place and are never dropped.
        caption_dropout: probability in [0, 1] that the caption is empty.
        tag_dropout: probability in [0, 1] for each other tag to be left out.
    """
    if caption_dropout > 0 and rng.random() < caption_dropout:
        return ""
    if not shuffle and tag_dropout <= 0:
        return caption
    tags = split_tags(caption)
    kept, rest = tags[:keep_tokens], tags[keep_tokens:]
    if tag_dropout > 0:
        rest = [tag for tag in rest if rng.random() >= tag_dropout]
    if shuffle:
        rng.shuffle(rest)
    return ", ".join(kept + rest)


def has_term(caption: str, term: str) -> bool:
    """Whether ``term`` stands in the caption as a whole word or phrase, in any case."""
    return re.search(rf"(?<!\w){re.escape(term.strip())}(?!\w)", caption, re.IGNORECASE) is not None


def prepend_trigger(caption: str, trigger: str) -> str:
    """The caption with the trigger in front, unless it is already somewhere in it."""
    trigger = trigger.strip()
    if not trigger or has_term(caption, trigger):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def find_replace(captions: Sequence[str], find: str, replace: str, regex: bool = False) -> list[str]:
    """Replace in every caption; double blanks and empty tags that this leaves are tidied away.

    Raises:
        DatasetError: ``find`` is empty or not a valid regular expression.
    """
    if not find:
        raise DatasetError("find is empty; write the words to replace")
    try:
        pattern = re.compile(find if regex else re.escape(find))
        out = [pattern.sub(replace if regex else replace.replace("\\", r"\\"), caption) for caption in captions]
    except (re.error, IndexError) as error:
        raise DatasetError(f"{find!r} is not a valid regular expression ({error}); switch regex off") from error
    return [tidy(new) if new != old else old for new, old in zip(out, captions, strict=True)]


def tidy(caption: str) -> str:
    """One blank between words, no empty tags."""
    return ", ".join(" ".join(tag.split()) for tag in split_tags(caption))


def tag_frequency(items: Iterable[Item]) -> dict[str, dict[str, int]]:
    """kohya's ``ss_tag_frequency``: folder name -> tag -> count over its pictures (without repeats)."""
    found: dict[str, Counter[str]] = {}
    for item in items:
        found.setdefault(item.path.parent.name, Counter()).update(tag.lower() for tag in split_tags(item.caption))
    return {folder: dict(counts.most_common()) for folder, counts in found.items()}


def estimate_tokens(caption: str) -> int:
    """CLIP tokens of a caption without a tokenizer, start and end not counted.

    CLIP's BPE splits text into letter runs, single digits and runs of other signs (openai/CLIP,
    ``simple_tokenizer.py``); a letter run beyond nine letters is taken as one token more for each six. Exact
    for common English words, an estimate for the rest; scripts without blanks count about a token a sign.
    """
    total = 0
    for word in _CLIP_WORDS.findall(caption):
        if word.isascii():
            total += 1 + max(len(word) - 4, 0) // 6
        else:
            total += max(1, len(word.encode("utf-8")) // 2)
    return total


def write_sidecar(picture: Path, caption: str, extension: str = "") -> Path:
    """Write the caption beside its picture, into the sidecar that is there or a new ``.txt``. Raises RunError."""
    path = next(iter(sidecars_of(picture, extension)), picture.with_suffix("." + (extension.lstrip(".") or "txt")))
    write_text(path, caption.strip() + "\n")
    return path


def write_table(dataset: Dataset, items: Sequence[Item], path: Path | None = None) -> Path:
    """Write ``file_name,prompt`` (and ``repeats`` where one differs from 1) for ``items``, atomically.

    Returns the path, by default the dataset's own table or ``metadata.csv`` in its folder. Raises RunError.
    """
    if path is None:
        own = dataset.table is not None and dataset.table.suffix.lower() == ".csv"
        path = dataset.table if own else dataset.root / "metadata.csv"
    assert path is not None
    repeated = any(item.repeats != 1 for item in items)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file_name", "prompt"] + ["repeats"] * repeated)
    for item in items:
        writer.writerow([dataset.name(item.path), item.caption] + [item.repeats] * repeated)
    write_text(path, text.getvalue())
    return path
