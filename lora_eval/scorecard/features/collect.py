"""From pictures to :class:`RunData`, and from that to the files of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lora_eval.dataset.images import open_picture
from lora_eval.encoders.protocol import Encoder
from lora_eval.errors import NoTexts
from lora_eval.host.protocol import Job
from lora_eval.scorecard.data import Prompt, RunData
from lora_eval.scorecard.draw.store import content_hash
from lora_eval.scorecard.features import pixels
from lora_eval.scorecard.features.cache import FeatureCache, Source
from lora_eval.scorecard.features.extras import measure_extras
from lora_eval.scorecard.features.references import References, load_pictures

PACKAGES = ("torch", "numpy", "open_clip_torch", "scikit-image", "pillow")


class EncoderSource:
    """An encoder by name, loaded when first needed. ``say`` is called with one line before a download."""

    def __init__(self, encoder: str | Encoder, device: str = "cpu") -> None:
        from lora_eval.encoders.registry import encoder_id

        self.say: Callable[[str], None] | None = None
        self._name = encoder if isinstance(encoder, str) else ""
        self._device = device
        self._loaded: Encoder | None = None if isinstance(encoder, str) else encoder
        self.id = encoder_id(encoder) if isinstance(encoder, str) else encoder.id

    def load(self) -> Encoder:
        """The encoder. Raises ConfigError or HostError when it cannot be had."""
        if self._loaded is None:
            from lora_eval.encoders.registry import load_encoder

            self._loaded = load_encoder(self._name, _torch_device(self._device), self.say)
        return self._loaded


@dataclass(frozen=True)
class Material:
    """What a scorecard is made of, before anything is measured.

    Attributes:
        cells: one row per picture; ``sources`` gives the pictures in the same order.
        prompts: by prompt id. kind: one of KINDS.
        size: (width, height) that references are brought to.
        references: pictures to compare with. histories: LoRA's name -> loss history.
        notes: what is missing and why, by topic; measuring adds to it.
    """

    cells: pd.DataFrame
    sources: Sequence[Source]
    prompts: dict[str, Prompt]
    kind: str
    size: tuple[int, int]
    references: References
    histories: dict[str, Path]
    notes: dict[str, str]


def build_data(cache: FeatureCache, material: Material, job: Job | None = None) -> tuple[RunData, dict[str, Path]]:
    """Measure the pictures and gather everything that measuring needs.

    Returns:
        The run, and the file of each reference and training picture by its shown name.
    """
    cells, sources, prompts, kind = material.cells, material.sources, material.prompts, material.kind
    size, references, histories, notes = material.size, material.references, material.histories, material.notes
    shown: dict[str, Path] = {}
    drawn = cache.pictures(sources, job, "pictures")
    existing = [path for path in references.pictures if path.is_file()]
    if len(existing) < len(references.pictures):
        gone = len(references.pictures) - len(existing)
        notes["references gone"] = f"{gone} of {len(references.pictures)} reference pictures are no longer there"
    pictures = load_pictures(existing, cache, size, references.held_out, notes, shown)
    training_paths = [path for path in references.training if path.is_file()]
    training = (
        pictures if training_paths == existing else load_pictures(training_paths, cache, size, False, notes, shown)
    )
    if not histories:
        notes.setdefault(
            "history", "no loss history was found beside the LoRA; name the training's history.csv or its logs"
        )
    # texts before the extra encoders: the last to save must have read what the others wrote
    texts = [text for prompt in prompts.values() for text in prompt.texts()]
    embedded: dict[str, np.ndarray] = {}
    try:
        embedded = cache.texts(texts) if texts else {}
    except NoTexts as why:
        notes["texts"] = str(why)
    extra, extra_references, missing = measure_extras(cache.folder, kind, sources, existing, size)
    notes.update({name: why for name, why in missing.items() if name not in notes})
    data = RunData(
        cells=cells,
        prompts=prompts,
        kind=kind,
        features=drawn.features,
        thumbs=drawn.thumbs,
        styles=drawn.styles,
        style_names=list(pixels.STYLE_NAMES),
        pixels=drawn.distortions,
        pixel_names=list(pixels.DISTORTION_NAMES),
        texts=embedded,
        references=pictures,
        training=training,
        histories=histories,
        extra=extra,
        extra_references=extra_references,
        encoder=cache.encoder_id,
        notes=notes,
    )
    return data, shown


def measured_with(data: RunData) -> dict[str, Any]:
    """Encoder, references and package versions."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    references = data.references
    return {
        "kind": data.kind,
        "encoder": data.encoder,
        "references": 0 if references is None else len(references),
        "held_out": references is not None and references.held_out,
        "training_pictures": 0 if data.training is None else len(data.training),
        "packages": packages,
    }


def picture_source(path: Path) -> Source:
    """A drawn picture, by the hash of its file. Raises RunError when it cannot be read."""

    return Source(content_hash(path), lambda: open_picture(path))


def _torch_device(device: str) -> str:
    return device if device.split(":")[0] in ("cpu", "cuda", "mps") else "cpu"
