"""Does it still listen to the prompt?

CLIP-T is the raw cosine of picture and text (CLIPScore, arXiv 2104.08718, is 2.5 times it). It
depends on the encoder and the prompt, so it is only ever read against weight 0 of the same prompt and
seed. CLIP reads a caption as a bag of words (arXiv 2404.01291): elements are therefore tested against
foils, captions in which that element alone is swapped, and foils about place or number stay weak.
"""

from __future__ import annotations

import numpy as np

from lora_eval.scorecard.dimensions import arrays as checks


def clip_t(pictures: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Cosine of each picture with its own text: (n, D), (n, D) -> (n,), in [-1, 1]; real pairs about .2 to .35.

    Raises:
        ValueError: shapes differ, or not finite unit features.
    """
    first, second = checks.features(pictures, "pictures"), checks.features(texts, "texts")
    checks.same_shape(first, second, "pictures and texts")
    return (first * second).sum(axis=1)


def retrieval_rank(pictures: np.ndarray, texts: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Rank of a picture's own prompt among the suite's: 1 is best, T is worst, (T + 1) / 2 is chance.

    Args:
        pictures: (n, D); texts: (T, D); own: (n,) index of the own text. Ties count half.

    Raises:
        ValueError: not finite unit features, or ``own`` out of range.
    """
    first, second = checks.features(pictures, "pictures"), checks.features(texts, "texts")
    own = np.asarray(own)
    if own.shape != (len(first),) or (len(own) and not (own.min() >= 0 and own.max() < len(second))):
        raise ValueError(f"own must hold an index below {len(second)} for each of the {len(first)} pictures")
    return _retrieval_rank(first @ second.T, own)


def _retrieval_rank(similarity: np.ndarray, own: np.ndarray) -> np.ndarray:
    mine = similarity[np.arange(len(own)), own][:, None]
    return 1.0 + (similarity > mine).sum(axis=1) + ((similarity == mine).sum(axis=1) - 1) / 2.0


def foil_wins(pictures: np.ndarray, text: np.ndarray, foils: np.ndarray) -> np.ndarray:
    """Share of foils that the true caption beats: (n, D), (D,), (F, D) -> (n,), in [0, 1]; chance is .5.

    Raises:
        ValueError: not finite unit features.
    """
    first, wrong = checks.features(pictures, "pictures"), checks.features(foils, "foils")
    right = checks.features(np.asarray(text)[None], "text")[0]
    return _foil_wins(first @ right, first @ wrong.T)


def _foil_wins(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    return ((right[:, None] > wrong) + 0.5 * (right[:, None] == wrong)).mean(axis=1)


def directional(difference: np.ndarray, text_difference: np.ndarray) -> np.ndarray:
    """Cosine of the picture's change with the text's change (StyleGAN-NADA, arXiv 2108.00946), in [-1, 1].

    Args:
        difference: (n, D) ``E(I_w) - E(I_0)``; text_difference: (D,) ``E(target) - E(source)``.

    Returns:
        (n,), NaN where either change is zero.
    """
    difference = np.asarray(difference, dtype=np.float64)
    text = np.asarray(text_difference, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = difference @ text / (np.linalg.norm(difference, axis=-1) * np.linalg.norm(text))
    return np.where(np.isfinite(value), value, np.nan)
