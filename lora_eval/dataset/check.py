"""What is wrong with a training folder, before an hour is spent on it.

Each finding names a picture where it is about one, and says what to do. The numbers asked for are those of the
source article (50 to 200 clean, sharp, evenly lit pictures) and of caption-audit (document frequency of terms).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_eval.dataset import buckets, captions
from lora_eval.dataset.folder import Dataset, Item
from lora_eval.dataset.images import open_picture
from lora_eval.dataset.quality import Look, look, near_duplicates
from lora_eval.encoders.protocol import Encoder
from lora_eval.errors import DatasetError

SEVERITIES = ("error", "warning", "info")
ADVISED = (50, 200)
FUSED = ((0.85, "warning", "fused with"), (0.60, "warning", "closely tied to"), (0.35, "info", "often beside"))
MAX_CROP = 0.25
SOFT_EDGE = 2.5
# mean CLIP similarity of real pictures of one subject: DreamBooth, table 1 (https://arxiv.org/abs/2208.12242)
REAL_ALIKE = 0.885
ALIKE = 0.95
_STOP_WORDS = frozenset(
    (
        "a",
        "an",
        "the",
        "and",
        "or",
        "of",
        "in",
        "on",
        "at",
        "to",
        "with",
        "by",
        "for",
        "from",
        "as",
        "is",
        "are",
        "was",
        "it",
        "its",
        "this",
        "that",
        "there",
        "his",
        "her",
        "their",
        "one",
    )
)


@dataclass(frozen=True)
class Finding:
    """One thing found. ``severity`` is one of SEVERITIES, ``picture`` "" when it is about the whole folder."""

    severity: str
    code: str
    picture: str
    message: str
    mend: str

    def line(self) -> str:
        """The finding in one line, as the command line prints it."""
        where = f" {self.picture}:" if self.picture else ""
        return f"{self.severity}:{where} {self.message}; {self.mend}"


def check(
    dataset: Dataset,
    trigger: str | None = None,
    resolution: tuple[int, int] | int | None = None,
    class_word: str | None = None,
    held_out: Sequence[Item] = (),
    count_tokens: Callable[[str], int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    encoder: Encoder | None = None,
) -> list[Finding]:
    """Everything worth saying about a dataset, errors first.

    Args:
        dataset: from :func:`lora_eval.dataset.folder.scan`.
        trigger: the word that should call the concept; without it trigger coverage is not judged.
        resolution: (width, height) or side in pixels that will be trained at; without it enlargement and cropping
            are not judged.
        class_word: the ordinary word for the subject; it may stand in every caption.
        held_out: pictures kept for validation: none may look like a training picture.
        count_tokens: the model's own tokenizer; without it tokens are estimated.
        progress: called with (pictures looked at, all pictures).
        encoder: see :mod:`lora_eval.encoders.registry`; without it the variety of angles and poses is not judged,
            because pixels do not show it.
    """
    looks, found = _look_at_all(dataset, [*dataset.items, *held_out], progress)
    own = [looks[item.path] for item in dataset.items if item.path in looks]
    side = (resolution, resolution) if isinstance(resolution, int) else resolution
    found += _folder(dataset)
    found += _count(dataset, len(own))
    found += _sizes(dataset, own, side)
    found += _light_and_focus(dataset, own)
    found += _twins(dataset, own)
    found += leakage(dataset, own, [looks[item.path] for item in held_out if item.path in looks])
    if encoder is not None:
        found += _variety(dataset, own, encoder)
    found += _colours(dataset, own)
    found += _captions(dataset, trigger, count_tokens)
    found += _terms(dataset, [word for word in (trigger, class_word) if word])
    return sorted(found, key=lambda one: (SEVERITIES.index(one.severity), one.code, one.picture, one.message))


def _look_at_all(
    dataset: Dataset, items: Sequence[Item], progress: Callable[[int, int], None] | None
) -> tuple[dict[Path, Look], list[Finding]]:
    looks: dict[Path, Look] = {}
    broken = []
    for number, item in enumerate(items, 1):
        try:
            looks[item.path] = look(item.path)
        except DatasetError as error:
            message, _, mend = str(error).removeprefix(f"{item.path} ").rpartition("; ")
            broken.append(Finding("error", "broken picture", dataset.name(item.path), message, mend))
        if progress is not None:
            progress(number, len(items))
    return looks, broken


def _folder(dataset: Dataset) -> list[Finding]:
    found = [Finding("error", p.code, p.picture, p.message, p.mend) for p in dataset.problems]
    found += [Finding(one.severity, one.code, one.name, one.message, one.mend) for one in dataset.left_out]
    return found


def _count(dataset: Dataset, readable: int) -> list[Finding]:
    low, high = ADVISED
    if readable < low:
        mend = f"{low} to {high} are advised: more angles, poses and backgrounds"
        return [Finding("warning", "few pictures", "", f"only {readable} picture(s)", mend)]
    if readable > high:
        mend = f"{low} to {high} well-captioned ones teach more than many random ones: keep the best"
        return [Finding("info", "many pictures", "", f"as many as {readable} pictures", mend)]
    return []


def _sizes(dataset: Dataset, looks: list[Look], resolution: tuple[int, int] | None) -> list[Finding]:
    found = []
    if resolution is not None:
        step = buckets.bucket_step(resolution)
        sizes = buckets.make_buckets(resolution, step)
        for one in looks:
            placed = buckets.place(one.size, sizes, step)
            name = dataset.name(one.path)
            shape = f"{one.size[0]} x {one.size[1]}"
            into = f"{placed.bucket[0]} x {placed.bucket[1]}"
            if placed.scale > 1.001:
                message = f"{shape} is enlarged {placed.scale:.2f} times to {into}"
                found.append(Finding("warning", "enlarged", name, message, "use a larger original or set no_upscale"))
            if 1 - placed.kept > MAX_CROP:
                message = f"{1 - placed.kept:.0%} of {shape} is cut off to fit {into}"
                found.append(Finding("warning", "cropped", name, message, "crop it yourself to what matters"))
    if len(looks) >= 4:
        areas = np.log2([one.size[0] * one.size[1] for one in looks])
        if areas.max() - areas.min() > 4:
            small, large = min(looks, key=_area), max(looks, key=_area)
            message = (
                f"sizes differ much: {small.size[0]} x {small.size[1]} ({small.path.name}) to "
                f"{large.size[0]} x {large.size[1]} ({large.path.name})"
            )
            found.append(Finding("info", "mixed sizes", "", message, "pictures of one resolution train more evenly"))
    return found


def _area(one: Look) -> int:
    return one.size[0] * one.size[1]


def _light_and_focus(dataset: Dataset, looks: list[Look]) -> list[Finding]:
    found = []
    sharp = np.array([one.sharpness for one in looks if np.isfinite(one.sharpness)])
    middle = float(np.median(sharp)) if len(sharp) else 0.0
    spread = 1.4826 * float(np.median(np.abs(sharp - middle))) if len(sharp) else 0.0
    # 0.7 in log10: a fifth of the set's usual edge energy; alone it would blame every calm picture of an even set
    limit = min(middle - 3 * spread, middle - 0.7)
    for one in looks:
        name = dataset.name(one.path)
        if one.contrast < 0.01:
            found.append(Finding("error", "blank", name, "the picture is one flat colour", "remove it"))
            continue
        if one.edge_width > SOFT_EDGE and (one.sharpness < limit or one.sharpness < -3.3):
            share = 10 ** (one.sharpness - middle)
            message = (
                f"blurred: its sharpest edges take {one.edge_width:.1f} pixels ({share:.0%} of the usual edge energy)"
            )
            found.append(Finding("warning", "blurred", name, message, "replace it by a sharp one or remove it"))
        if one.highlights < 0.25:
            message = f"very dark: 99 % of it is below {one.highlights:.0%} brightness"
            found.append(Finding("warning", "dark", name, message, "brighten it or remove it"))
        elif one.shadows > 0.85:
            message = f"washed out: 99 % of it is above {one.shadows:.0%} brightness"
            found.append(Finding("warning", "overexposed", name, message, "darken it or remove it"))
        elif one.contrast < 0.04:
            message = f"hardly any contrast ({one.contrast:.1%})"
            found.append(Finding("warning", "low contrast", name, message, "raise its contrast or remove it"))
    return found


def _colours(dataset: Dataset, looks: list[Look]) -> list[Finding]:
    mend = "save it as sRGB"
    return [Finding("warning", "colours", dataset.name(one.path), note, mend) for one in looks for note in one.notes]


def _twins(dataset: Dataset, looks: list[Look]) -> list[Finding]:
    found = []
    for i, j in near_duplicates(looks):
        first, second = dataset.name(looks[i].path), dataset.name(looks[j].path)
        if looks[i].sha256 == looks[j].sha256:
            message, code = f"the same file as {first}", "duplicate"
        else:
            message, code = f"nearly the same picture as {first}", "near duplicate"
        mend = "keep one; use repeats to show a picture more often"
        found.append(Finding("warning", code, second, message, mend))
    return found


def leakage(dataset: Dataset, training: list[Look], held_out: list[Look]) -> list[Finding]:
    """Held-out pictures that also are, or nearly are, training pictures: the validation loss would flatter."""
    found = []
    count = len(training)
    for i, j in near_duplicates([*training, *held_out]):
        if i < count <= j:
            first, second = dataset.name(training[i].path), dataset.name(held_out[j - count].path)
            mend = "remove one of the two, or the validation loss tells nothing about unseen pictures"
            found.append(
                Finding("error", "leak", second, f"held out, but looks like the training picture {first}", mend)
            )
    return found


def _variety(dataset: Dataset, looks: list[Look], encoder: Encoder) -> list[Finding]:
    if len(looks) < 4:
        return []
    features = encoder.embed_images(open_picture(one.path) for one in looks)
    alike = features @ features.T
    pairs = alike[np.triu_indices(len(looks), 1)]
    mean = float(pairs.mean())
    found = []
    if mean > ALIKE:
        message = f"the pictures resemble each other by {mean:.2f} on average ({REAL_ALIKE} is usual for one subject)"
        mend = "add other angles (front, side, above), poses and backgrounds"
        found.append(Finding("warning", "little variety", "", message, mend))
    # a picture of something else: far from all others, by the spread of this very set
    near = np.sort(alike, axis=1)[:, -4:-1].mean(axis=1)
    middle = float(np.median(near))
    spread = 1.4826 * float(np.median(np.abs(near - middle)))
    for one, value in zip(looks, near, strict=True):
        if value < middle - max(6 * spread, 0.1):
            message = f"unlike all others ({value:.2f} to its nearest three, {middle:.2f} is usual in this set)"
            mend = "remove it if it shows something else"
            found.append(Finding("warning", "odd one out", dataset.name(one.path), message, mend))
    return found


def _captions(dataset: Dataset, trigger: str | None, count_tokens: Callable[[str], int] | None) -> list[Finding]:
    found = []
    count = count_tokens or captions.estimate_tokens
    about = "" if count_tokens else "about "
    # a caption that cannot be read is a problem of its own
    unread = {one.picture for one in dataset.problems if one.code == "unreadable caption"}
    empty = [i for i in dataset.items if not i.caption.strip() and dataset.name(i.path) not in unread]
    if empty and len(empty) == len(dataset.items):
        mend = "write metadata.csv or a .txt beside each picture"
        found.append(Finding("error", "no captions", "", "no picture has a caption", mend))
    else:
        for item in empty:
            mend = "say what it shows, for example who, doing what, where"
            found.append(Finding("warning", "no caption", dataset.name(item.path), "it has no caption", mend))
    for item in dataset.items:
        tokens = count(item.caption)
        if tokens > captions.CLIP_TOKENS:
            message = f"its caption has {about}{tokens} tokens, {captions.CLIP_TOKENS} fit into one pass of the encoder"
            mend = "shorten it; the rest is read in a further pass and weighs less"
            found.append(Finding("warning", "long caption", dataset.name(item.path), message, mend))
    written = [item for item in dataset.items if item.caption.strip()]
    distinct = {item.caption.casefold() for item in written}
    if len(written) >= 4 and len(distinct) == 1 and not _only(written[0].caption, trigger):
        mend = "say in each caption what differs: pose, place, light"
        found.append(Finding("warning", "same caption", "", "every picture has the same caption", mend))
    if trigger:
        without = [item for item in written if not captions.has_term(item.caption, trigger)]
        if written and len(without) == len(written):
            mend = f"put {trigger!r} in front of each caption"
            found.append(Finding("error", "no trigger", "", f"the trigger {trigger!r} is in no caption", mend))
        else:
            for item in without:
                message = f"the trigger {trigger!r} is not in its caption"
                mend = "add it, or remove the picture if it shows something else"
                found.append(Finding("warning", "trigger missing", dataset.name(item.path), message, mend))
    return found


def _only(caption: str, trigger: str | None) -> bool:
    return trigger is not None and caption.strip().casefold() == trigger.strip().casefold()


def term_frequency(texts: Sequence[str]) -> dict[str, float]:
    """Share of captions that contain each term.

    Terms are tags where captions are comma-separated lists (three tags on average), else words without the commonest
    function words.
    """
    texts = [text for text in texts if text.strip()]
    if not texts:
        return {}
    tagged = sum(len(captions.split_tags(text)) for text in texts) / len(texts) >= 3
    counts: Counter[str] = Counter()
    for text in texts:
        if tagged:
            counts.update({tag.casefold() for tag in captions.split_tags(text)})
        else:
            words = {word.strip(".,;:!?\"'()[]{}").casefold() for word in text.split()}
            counts.update(word for word in words if len(word) > 1 and word not in _STOP_WORDS)
    return {term: number / len(texts) for term, number in counts.most_common()}


def _terms(dataset: Dataset, allowed: list[str]) -> list[Finding]:
    """Terms in so many captions that they become part of the concept: it will not be drawn without them."""
    texts = [item.caption for item in dataset.items]
    if len(texts) < 8:
        return []
    found = []
    for term, share in term_frequency(texts).items():
        if any(captions.has_term(term, word) or captions.has_term(word, term) for word in allowed):
            continue
        level = next(((severity, word) for limit, severity, word in FUSED if share >= limit), None)
        if level is None:
            continue
        message = f"{term!r} is in {share:.0%} of the captions: {level[1]} the concept"
        mend = "vary it in the pictures, or leave it as it is if it belongs to the concept"
        found.append(Finding(level[0], "fused term", "", message, mend))
    return found
