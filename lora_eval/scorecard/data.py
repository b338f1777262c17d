"""The tables that the stages of a scorecard hand to one another.

``plan -> draw -> embed -> measure -> decide -> report``; the types here are the joints.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("style", "character", "object")

# What a prompt is there to test. "plain" is the subject as trained; "unrelated" has no trigger.
ROLES = ("plain", "fidelity", "challenge", "composition", "negative", "unrelated")


@dataclass(frozen=True)
class Element:
    """One thing a prompt asks for, with captions that differ from it in that thing alone.

    Attributes:
        name: what it is called in the report, for example ``colour`` or ``Mars``.
        text: caption with the element as asked (class word instead of the trigger).
        foils: the same caption with the element swapped for another.
    """

    name: str
    text: str
    foils: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """One prompt of a suite, filled in.

    Attributes:
        id: short and unique inside the suite; goes into file names.
        role: one of ROLES.
        text: what is drawn, with the trigger.
        class_text: the same with the class word in place of the trigger: what CLIP is asked.
        negative: negative prompt.
        negative_concept: for role ``negative``: what the negative prompt should remove, else "".
        elements: what must be in the picture, with foils.
    """

    id: str
    role: str
    text: str
    class_text: str
    negative: str = ""
    negative_concept: str = ""
    elements: tuple[Element, ...] = ()

    def texts(self) -> list[str]:
        """Every text that the encoder must embed for this prompt."""
        found = [self.class_text, self.negative_concept]
        for element in self.elements:
            found += [element.text, *element.foils]
        return [text for text in found if text]


@dataclass
class Pictures:
    """A set of pictures by their features, for example the references.

    Attributes:
        names: file names, as shown to a person.
        features: (R, D) float32, unit length.
        thumbs: (R, S, S) float32 in [0, 1], grey, for structural comparison.
        styles: (R, K) float32 style statistics, columns as in :attr:`RunData.style_names`.
        held_out: whether training never saw them.
        pixels: (R, P) float32 distortion statistics, columns as in :attr:`RunData.pixel_names`; where
            the references themselves lie is no distortion. None when not computed.
    """

    names: list[str]
    features: np.ndarray
    thumbs: np.ndarray
    styles: np.ndarray
    held_out: bool = False
    pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class RunData:
    """Everything measuring needs, read from the run folder; no image is opened any more.

    Attributes:
        cells: one row per image. Columns ``run, lora, checkpoint, step, weight, prompt_id, role,
            prompt, negative_prompt, seed, sampler, steps, cfg, width, height, image``. Weight 0 is
            shared by all checkpoints: its rows have an empty ``lora``, ``checkpoint`` and ``step``.
        prompts: by prompt id.
        kind: one of KINDS.
        features: (N, D) float32, unit length, row by row as ``cells``.
        thumbs: (N, S, S) float32 in [0, 1], grey.
        styles: (N, K) float32 style statistics (Lab moments, texture), columns ``style_names``.
        pixels: (N, P) float32 distortion statistics, columns ``pixel_names``.
        texts: text -> (D,) float32 unit feature, same encoder.
        references: pictures of the concept; held-out ones where the training set was split.
        training: the pictures the LoRA was trained on, for the copy check.
        histories: checkpoint's LoRA name -> path of a loss history.
        extra: other encoders' features by name, for example ``dino``: (N, D).
        extra_references: the same for the references.
        encoder: name of the encoder, for the report.
        notes: what could not be had and why, by topic (``references``, ``history``, ``face``, ...).
    """

    cells: pd.DataFrame
    prompts: dict[str, Prompt]
    kind: str
    features: np.ndarray
    thumbs: np.ndarray
    styles: np.ndarray
    style_names: list[str]
    pixels: np.ndarray
    pixel_names: list[str]
    texts: dict[str, np.ndarray]
    references: Pictures | None = None
    training: Pictures | None = None
    histories: dict[str, Path] = field(default_factory=dict)
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    extra_references: dict[str, np.ndarray] = field(default_factory=dict)
    encoder: str = ""
    notes: dict[str, str] = field(default_factory=dict)


@dataclass
class Measure:
    """One number of a dimension at one checkpoint and weight: a row of ``summary.csv``.

    ``value`` None means not measured; ``verdict`` then says why. ``baseline`` is the same at weight
    0, ``ceiling`` what the references reach among themselves, ``score`` the value between them.
    ``weight`` None: the number belongs to the checkpoint (curve, response over weight).
    """

    checkpoint: str
    step: int | None
    weight: float | None
    dimension: str
    measure: str
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    baseline: float | None = None
    ceiling: float | None = None
    score: float | None = None
    verdict: str = ""


@dataclass
class Dimension:
    """A dimension's answer for the recommended checkpoint and weight.

    ``score`` None: not measured, ``reason`` says what is missing and what to add. ``evidence``
    holds JSON-safe details: drifting images, copied pairs, the response curve, elements.
    """

    name: str
    score: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    verdict: str
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass
class Advice:
    """One thing to change next time: which dimension asks for it, what was seen, what to do."""

    dimension: str
    seen: str
    change: str


@dataclass
class Measurement:
    """What measuring gives: metric columns to append to ``cells.csv`` and rows of ``summary.csv``.

    ``resamples`` and ``seed`` are those of the bootstrap, so that deciding can pair the same draws.
    """

    cell_metrics: pd.DataFrame
    summary: list[Measure]
    evidence: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    resamples: int = 1000
    seed: int = 0


@dataclass
class Scorecard:
    """The decision. ``verdict`` is one sentence; ``checkpoint``/``weight`` None when none is usable.

    ``leaderboard``: every checkpoint at its best weight, best first: ``checkpoint, step, weight,
    measure, value, ci_low, ci_high, p, gates, tied, recommended``.
    """

    verdict: str
    checkpoint: str | None
    weight: float | None
    tie: list[dict[str, Any]]
    dimensions: dict[str, Dimension]
    advice: list[Advice]
    gates: list[str]
    provenance: dict[str, Any] = field(default_factory=dict)
    leaderboard: list[dict[str, Any]] = field(default_factory=list)
