"""What one dimension leaves for those that are measured after it.

These types lie below the dimensions, so that two dimensions can read each other's results without importing each
other. ``N`` is the number of pictures, ``C`` of conditions (checkpoint and weight), ``P`` of prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lora_eval.statistics.bootstrap import Draws


@dataclass(frozen=True)
class Copies:
    """Copies of training pictures, found by generalisation before anything else is measured.

    Attributes:
        copied: (N,) bool, whether the picture is a copy.
        part: (4, C) share of pictures that are no copies, lower end, upper end, number of pictures.
    """

    copied: np.ndarray
    part: np.ndarray


@dataclass(frozen=True)
class Likeness:
    """Likeness to the references by the main encoder, measured by fidelity.

    Attributes:
        clip_i: (N,) mean cosine to the references.
        gain: draws (C,) of clip_i less that of weight 0.
        relative: draws (C,) of the gain over the distance from weight 0 to the ceiling.
        base: draws (C,) of clip_i at weight 0, paired with the condition's pictures.
        ceiling: mean leave-one-out cosine of the references; NaN for a single reference.
        other_subject: whether the training pictures show something else than the references.
    """

    clip_i: np.ndarray
    gain: Draws
    relative: Draws
    base: Draws
    ceiling: float
    other_subject: bool


@dataclass(frozen=True)
class PromptMargin:
    """The margin between a picture's own prompt and the others, measured by alignment.

    Attributes:
        kept: draws (C,) of the margin over that of weight 0.
        margin: (N,) margin in cosine; NaN for copies and where it is not known.
    """

    kept: Draws
    margin: np.ndarray


@dataclass(frozen=True)
class Variety:
    """Variety between seeds, measured by consistency.

    Attributes:
        vendi: (C, P, 1) Vendi score of the seeds of a prompt; vendi_0: the same for their twins at weight 0.
        seed_spread: mean feature distance of two seeds of a prompt at weight 0; NaN with fewer than two seeds.
        reference: Vendi score of as many references as there are seeds; NaN with too few of them, None without any.
    """

    vendi: np.ndarray
    vendi_0: np.ndarray
    seed_spread: float
    reference: float | None


@dataclass
class Shared:
    """What has been left so far; None where the dimension could not be measured, or has not been yet."""

    copies: Copies | None = None
    likeness: Likeness | None = None
    prompt_margin: PromptMargin | None = None
    variety: Variety | None = None
