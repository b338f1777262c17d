"""Types that the stages of a scorecard hand on: ``plan -> draw -> features -> dimensions -> decision -> report``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

KINDS = ("style", "character", "object")

# what a prompt tests: "plain" is the subject as trained, "unrelated" has no trigger
ROLES = ("plain", "fidelity", "challenge", "composition", "negative", "unrelated")


@dataclass(frozen=True)
class Element:
    """One thing that a prompt requests, with captions that differ in that thing alone.

    Attributes:
        name: what it is called in the report, for example ``colour`` or ``Mars``.
        text: caption with the element as requested (class word in place of the trigger).
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
        text: the prompt that is drawn, with the trigger.
        class_text: the same with the class word in place of the trigger, which CLIP compares pictures with.
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
        """All texts of this prompt that the encoder embeds."""
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
        pixels: (R, P) float32 distortion statistics, columns as in :attr:`RunData.pixel_names`; values inside the
            references' range are no distortion. None when not computed.
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
    """All that measuring needs, read from the run folder; no image is opened after this.

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
        texts: text -> (D,) float32 unit feature, same encoder; empty where it knows pictures alone.
        references: pictures of the concept; held-out ones where the training set was split.
        training: the pictures the LoRA was trained on, for the copy check.
        histories: checkpoint's LoRA name -> path of a loss history.
        extra: other encoders' features by name, for example ``dino``: (N, D).
        extra_references: the same for the references.
        encoder: name of the encoder, for the report.
        notes: what is missing and why, by topic (``references``, ``history``, ``texts``, ``face``, ...).
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

    Attributes:
        checkpoint, step, weight: where; ``weight`` is None for a number that belongs to the checkpoint.
        dimension, measure: what.
        value: the number, None where it was not measured; ``verdict`` then says why.
        ci_low, ci_high: ends of its 95 % interval, None where none can be given.
        n: number of pictures (curve: loss values) behind it.
        baseline: the same at weight 0; ceiling: what the references reach among themselves.
        score: the value on the scale of the dimension.
        verdict: what the report says beside the number.
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
    """The answer of a dimension at the recommended checkpoint and weight.

    Attributes:
        name: of the dimension.
        score: 0 to 1, None where it was not measured; ``reason`` then says what is missing and what to add.
        ci_low, ci_high: ends of its 95 % interval, None where none can be given.
        n: number of pictures behind it.
        verdict: ``good``, ``weak``, ``poor`` or ``not measured``.
        reason: the finding in one sentence.
        evidence: details that are safe for JSON: drifting pictures, copied pairs, the response curve, elements.
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
    """One thing to change next time: the dimension it comes from, what was seen, what to change."""

    dimension: str
    seen: str
    change: str


@dataclass
class Measurement:
    """What measuring gives.

    Attributes:
        cell_metrics: columns to append to ``cells.csv``, one row for each picture.
        summary: rows of ``summary.csv``.
        evidence: by dimension, details that are safe for JSON.
        notes: what was not measured and why, by topic.
        resamples, seed: of the bootstrap, so that the decision can pair the same draws.
    """

    cell_metrics: pd.DataFrame
    summary: list[Measure]
    evidence: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    resamples: int = 1000
    seed: int = 0


@dataclass
class Scorecard:
    """The decision on a run.

    Attributes:
        verdict: one sentence.
        checkpoint, weight: recommended; None when nothing is usable.
        tie: what cannot be separated from it: ``checkpoint, step, weight, measure, value, ci_low, ci_high`` each.
        dimensions: the answers by name.
        advice: what to change next time, the most important first.
        gates: where which check failed, one line for each check and checkpoint.
        provenance: what is needed to draw the run again.
        leaderboard: every checkpoint at its best weight, best first: as in ``tie``, and ``p, gates, tied,
            recommended``.
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
