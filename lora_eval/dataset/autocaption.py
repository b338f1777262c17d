"""Captions made by a program, to be corrected by a person.

A captioner is any function from picture to text: a WebUI hands in its interrogators (BLIP, DeepBooru); elsewhere
:class:`ZeroShotCaptioner` picks terms by an image and text encoder that is there already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from lora_eval.dataset.captions import prepend_trigger, write_sidecar, write_table
from lora_eval.dataset.folder import Dataset, Item
from lora_eval.dataset.images import open_picture
from lora_eval.encoders.protocol import Encoder
from lora_eval.errors import ConfigError
from lora_eval.files import ASSETS
from lora_eval.reading.text import NotText, read_text
from lora_eval.reading.yaml_text import YamlError, parse

TERMS = ASSETS / "terms" / "general.yaml"
Captioner = Callable[[Image.Image], str]


@dataclass(frozen=True)
class Group:
    """Terms of which one at most is said of a picture.

    Attributes:
        name: for messages, for example ``light``.
        prompt: sentence with ``{}`` for the term; what the text encoder reads.
        terms: the choices.
    """

    name: str
    prompt: str
    terms: tuple[str, ...]


def load_terms(path: Path = TERMS) -> list[Group]:
    """Groups of terms from YAML: ``name: {prompt: "a photo taken at {}", terms: [dawn, noon]}``.

    Raises:
        ConfigError: the file is missing or not of that form.
    """
    path = Path(path)
    try:
        found = parse(read_text(path))
        groups = [Group(str(n), _text(g["prompt"]), tuple(_text(t) for t in g["terms"])) for n, g in found.items()]
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; name a YAML of caption terms") from None
    except YamlError as error:
        where = f" line {error.line}" if error.line else ""
        raise ConfigError(f"{path}{where}: {error.problem}; correct the YAML") from None
    except (NotText, AttributeError, KeyError, TypeError):
        raise ConfigError(f"{path} is no list of caption terms; write `name: {{prompt: ..., terms: [...]}}`") from None
    return groups


def _text(value: object) -> str:
    """A term as written. Raises TypeError for null and truth values: without quotation marks they are no texts."""
    if value is None or isinstance(value, (bool, list, dict)):
        raise TypeError
    return str(value)


class ZeroShotCaptioner:
    """Terms by zero-shot classification (Radford et al. 2021, https://arxiv.org/abs/2103.00020).

    In each group the term nearest to the picture is said when its softmax (temperature 0.01, CLIP's own) reaches
    ``sure``. A group whose own "no such thing", the empty term, is nearest says nothing: a caption that is wrong
    harms, one that is short does not.

    Args:
        encoder: image and text encoder.
        groups: from :func:`load_terms`.
        sure: softmax that is needed, in (0, 1).
    """

    def __init__(self, encoder: Encoder, groups: Sequence[Group], sure: float = 0.3) -> None:
        self._encoder, self._groups, self._sure = encoder, list(groups), sure
        self._features = [
            encoder.embed_texts([" ".join(group.prompt.format(term).split()) for term in group.terms])
            for group in groups
        ]

    def __call__(self, image: Image.Image) -> str:
        """The caption of one picture; "" when no term is sure enough."""
        picture = self._encoder.embed_images([image])[0]
        said: list[str] = []
        for group, features in zip(self._groups, self._features, strict=True):
            logits = 100.0 * (features @ picture).astype(np.float64)
            chances = np.exp(logits - logits.max())
            chances /= chances.sum()
            best = int(chances.argmax())
            if chances[best] >= self._sure and group.terms[best] not in ("", *said):
                said.append(group.terms[best])
        return ", ".join(said)


def caption_all(
    dataset: Dataset,
    captioner: Captioner,
    trigger: str = "",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Item]:
    """Items with captions: those that have none get one, all of them with ``overwrite``; the trigger goes in front.

    Nothing is written: the captions are for a person to correct first (:func:`save_captions`).

    Raises:
        DatasetError: a picture cannot be read.
    """
    items = []
    for number, item in enumerate(dataset.items, 1):
        caption = item.caption
        if overwrite or not caption:
            caption = " ".join(captioner(open_picture(item.path)).split())
        items.append(replace(item, caption=prepend_trigger(caption, trigger)))
        if progress is not None:
            progress(number, len(dataset.items))
    return items


def save_captions(dataset: Dataset, items: Sequence[Item], sidecars: bool | None = None) -> list[Path]:
    """Write captions, each file atomically: into the dataset's own table, into sidecars, or a new ``metadata.csv``.

    Args:
        sidecars: True writes ``.txt`` beside each picture; None does what the dataset does already.

    Returns:
        The files written. Raises RunError.
    """
    if sidecars is None:
        sidecars = dataset.source == "sidecars" and any(item.caption for item in dataset.items)
    if sidecars:
        before: Mapping[Path, str] = {item.path: item.caption for item in dataset.items}
        return [write_sidecar(i.path, i.caption) for i in items if i.caption != before.get(i.path)]
    return [write_table(dataset, items)]
