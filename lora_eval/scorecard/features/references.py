"""The pictures a LoRA's own are compared with.

Held-out pictures of the concept are best: likeness to pictures that training saw rewards copying.
Where the training run left ``references.json`` it is known which is which; a folder alone does not tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lora_eval.dataset.folder import scan
from lora_eval.dataset.images import open_picture
from lora_eval.errors import DatasetError
from lora_eval.scorecard.data import Pictures
from lora_eval.scorecard.draw.store import content_hash
from lora_eval.scorecard.features.cache import FeatureCache, Source
from lora_eval.training.run import read_references

FEWEST_HELD_OUT = 3
"""Below this the likeness of held-out pictures to each other, the ceiling, would be one or no number."""


@dataclass
class References:
    """Which pictures serve for what.

    Attributes:
        pictures: what the LoRA's pictures are compared with.
        held_out: whether training never saw them, as far as the training run's record tells.
        training: what the LoRA was trained on, for the copy check.
        notes: by topic, what a reader of the report should know.
    """

    pictures: list[Path] = field(default_factory=list)
    held_out: bool = False
    training: list[Path] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def find_references(data: Path | str | None, loras: Sequence[Path], roots: Sequence[Path] = ()) -> References:
    """Decide which pictures to compare with.

    Args:
        data: dataset folder that the user named; None: what the LoRA's training run recorded.
        loras: the checkpoints; the first whose run is found tells.
        roots: folders in which runs lie, beside that of each LoRA.

    Raises:
        DatasetError: the named folder is missing, empty or unreadable.
        RunError: a ``references.json`` is broken.
    """
    record = next((found for lora in loras if (found := read_references(Path(lora), roots)) is not None), None)
    trained, held = ([], []) if record is None else (_existing(record[0]), _existing(record[1]))
    if data is None:
        return _from_record(record is not None, trained, held)
    dataset = scan(data)
    named = list(dict.fromkeys(item.path.resolve() for item in dataset.items))
    if record is None:
        note = f"it is not known which of the {len(named)} pictures in {data} the LoRA was trained on; all are used"
        return References(named, False, named, {"references": note})
    seen = {str(entry.get("sha256")) for entry in record[0]}
    unseen = [path for path in named if content_hash(path) not in seen]
    if len(unseen) >= FEWEST_HELD_OUT:
        return References(unseen, True, trained or [path for path in named if path not in unseen])
    note = (
        f"the references are pictures that training saw ({len(unseen)} of {len(named)} in {data} were held out, "
        f"{FEWEST_HELD_OUT} are needed): likeness to them also rewards copying"
    )
    return References(named, False, trained or named, {"references": note})


def _from_record(known: bool, trained: list[Path], held: list[Path]) -> References:
    if len(held) >= FEWEST_HELD_OUT:
        return References(held, True, trained)
    if trained:
        note = (
            f"the references are the training pictures ({len(held)} held out, {FEWEST_HELD_OUT} are needed): "
            "likeness to them also rewards copying"
        )
        return References(trained + held, False, trained, {"references": note})
    reason = "the pictures it was trained on are gone" if known else "the LoRA's training run was not found"
    return References(
        notes={"references": f"no reference pictures: {reason}; name a folder of pictures of the concept"}
    )


def _existing(entries: Sequence[dict[str, object]]) -> list[Path]:
    paths = (Path(str(entry.get("path") or "")) for entry in entries)
    return [path for path in paths if path.is_file()]


def load_pictures(
    paths: Sequence[Path],
    cache: FeatureCache,
    size: tuple[int, int],
    held_out: bool,
    notes: dict[str, str],
    shown: dict[str, Path] | None = None,
) -> Pictures | None:
    """Measure reference pictures in the size of the run's own; None when none can be read.

    Statistics of texture and sharpness depend on the size in pixels, so every reference is first cut and
    scaled to ``size`` (width, height) as the drawn pictures have it. ``shown`` is filled with the file of
    each picture by its shown name.
    """
    sources: list[Source] = []
    read: list[Path] = []
    broken: list[str] = []
    for path in paths:
        try:
            fit(path, size)
        except DatasetError as error:
            broken.append(str(error))
            continue
        sources.append(Source(f"{content_hash(path)}@{size[0]}x{size[1]}", lambda path=path: fit(path, size)))  # type: ignore[misc]
        read.append(path)
    if broken:
        notes["broken references"] = f"{len(broken)} left out: {broken[0]}"
    if not sources:
        return None
    measured = cache.pictures(sources, what="reference pictures")
    names = _distinct([path.name for path in read])
    if shown is not None:
        shown.update(zip(names, read, strict=True))
    return Pictures(
        names=names,
        features=measured.features,
        thumbs=measured.thumbs,
        styles=measured.styles,
        held_out=held_out,
        pixels=measured.distortions,
    )


def _distinct(names: list[str]) -> list[str]:
    """File names as shown; a name that occurs again gets its number behind."""
    seen: dict[str, int] = {}
    for at, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            names[at] = f"{name} ({seen[name]})"
    return names


def fit(path: Path, size: tuple[int, int]) -> Image.Image:
    """The picture scaled to cover ``size`` and its middle cut out. Raises DatasetError."""
    image = open_picture(path)
    if image.size == size:
        return image
    scale = max(size[0] / image.width, size[1] / image.height)
    shape = (max(size[0], round(image.width * scale)), max(size[1], round(image.height * scale)))
    image = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = (shape[0] - size[0]) // 2, (shape[1] - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))
