"""Does it look like the pictures it was trained for?

CLIP-I and DINO as in DreamBooth (arXiv 2208.12242, section 5): mean cosine to the real pictures. The
absolute number depends on the encoder and rewards backgrounds, so it is read between two anchors
measured with the same encoder: the base model (0) and the references among themselves (1).
"""

from __future__ import annotations

import math

import numpy as np

from lora_eval.scorecard.dimensions import arrays as checks

# between base model and references there must be this much room, in cosine, or every ratio is noise
ROOM = 0.02
# training pictures that surely come less far to the references than this show something else
SAME_SUBJECT = 0.85


def clip_i(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Mean cosine of each picture to the references: (n, D), (R, D) -> (n,), in [-1, 1].

    DreamBooth's table with ViT-B/32: real pictures among themselves .885, a good fine-tune .80.

    Raises:
        ValueError: not finite unit features.
    """
    return _clip_i(checks.features(pictures, "pictures"), checks.features(references, "references"))


def _clip_i(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    # the mean of the cosines is the cosine with the (unnormalised) mean
    return np.asarray(pictures, dtype=np.float64) @ np.asarray(references, dtype=np.float64).mean(axis=0)


def leave_one_out(references: np.ndarray) -> np.ndarray:
    """Mean cosine of each reference to the others: (R, D) -> (R,), the ceiling of :func:`clip_i`.

    Raises:
        ValueError: fewer than two references, or not finite unit features.
    """
    return _leave_one_out(checks.features(references, "references", at_least=2))


def _leave_one_out(references: np.ndarray) -> np.ndarray:
    references = np.asarray(references, dtype=np.float64)
    own = (references**2).sum(axis=1)
    return (references @ references.sum(axis=0) - own) / (len(references) - 1)


def relative(value: float, base: float, ceiling: float, room: float = ROOM) -> float:
    """``(value - base) / (ceiling - base)``: 0 the base model, 1 the references' own level, may pass both.

    NaN when the references are not at least ``room`` more alike to one another than the base
    model's pictures are to them: nothing can then be told apart.
    """
    if not math.isfinite(ceiling) or ceiling - base < room:
        return math.nan
    return (value - base) / (ceiling - base)
