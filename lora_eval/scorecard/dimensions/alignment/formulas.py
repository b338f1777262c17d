"""Formulas of prompt alignment: how well a picture fits its prompt.

CLIP-T is the cosine of picture and text (CLIPScore, arXiv 2104.08718, is 2.5 times it). It depends on the encoder and
the prompt, so it is only read against weight 0 of the same prompt and seed. CLIP reads a caption as a bag of words
(arXiv 2404.01291): elements are therefore tested against foils, captions in which one element is swapped. Foils about
place or number remain weak tests.
"""

from __future__ import annotations

import numpy as np

from lora_eval.scorecard.dimensions import arrays


def clip_t(pictures: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Cosine of each picture with its own text.

    Args:
        pictures, texts: (n, D) unit features, row by row.

    Returns:
        (n,) in [-1, 1]; real pairs reach about .2 to .35.

    Raises:
        ValueError: shapes differ, or not finite unit features.
    """
    first, second = arrays.features(pictures, "pictures"), arrays.features(texts, "texts")
    arrays.same_shape(first, second, "pictures and texts")
    return (first * second).sum(axis=1)


def retrieval_rank(pictures: np.ndarray, texts: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Rank of each picture's own prompt among all prompts of the suite.

    Args:
        pictures: (n, D) unit features.
        texts: (T, D) unit features of the prompts.
        own: (n,) index of each picture's own prompt.

    Returns:
        (n,): 1 is best, T is worst, (T + 1) / 2 is chance. Ties count half.

    Raises:
        ValueError: not finite unit features, or ``own`` out of range.
    """
    first, second = arrays.features(pictures, "pictures"), arrays.features(texts, "texts")
    own = np.asarray(own)
    if own.shape != (len(first),) or (len(own) and not (own.min() >= 0 and own.max() < len(second))):
        raise ValueError(f"own must hold an index below {len(second)} for each of the {len(first)} pictures")
    return _retrieval_rank(first @ second.T, own)


def _retrieval_rank(similarity: np.ndarray, own: np.ndarray) -> np.ndarray:
    mine = similarity[np.arange(len(own)), own][:, None]
    return 1.0 + (similarity > mine).sum(axis=1) + ((similarity == mine).sum(axis=1) - 1) / 2.0


def foil_wins(pictures: np.ndarray, text: np.ndarray, foils: np.ndarray) -> np.ndarray:
    """Share of foils that fit a picture less than the true caption does.

    Args:
        pictures: (n, D) unit features.
        text: (D,) unit feature of the true caption.
        foils: (F, D) unit features of the foils.

    Returns:
        (n,) in [0, 1]; .5 is chance. Ties count half.

    Raises:
        ValueError: not finite unit features.
    """
    first, wrong = arrays.features(pictures, "pictures"), arrays.features(foils, "foils")
    right = arrays.features(np.asarray(text)[None], "text")[0]
    return _foil_wins(first @ right, first @ wrong.T)


def _foil_wins(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    return ((right[:, None] > wrong) + 0.5 * (right[:, None] == wrong)).mean(axis=1)


def directional(difference: np.ndarray, text_difference: np.ndarray) -> np.ndarray:
    """Directional similarity: cosine of the picture's change with the text's change (arXiv 2108.00946).

    Args:
        difference: (n, D) change of the picture's feature, ``E(I_w) - E(I_0)``.
        text_difference: (D,) change of the text's feature, ``E(target) - E(source)``.

    Returns:
        (n,) in [-1, 1]; NaN where either change is zero.
    """
    difference = np.asarray(difference, dtype=np.float64)
    text = np.asarray(text_difference, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = difference @ text / (np.linalg.norm(difference, axis=-1) * np.linalg.norm(text))
    return np.where(np.isfinite(value), value, np.nan)


def as_others(
    similarity: np.ndarray, own: np.ndarray, rows: np.ndarray, margin: np.ndarray, prompts: list[int]
) -> np.ndarray:
    """What each prompt contributes to the margins of the other prompts, as one of the texts they are compared with.

    The margin is a mean over pairs of prompts: a prompt that a resample leaves out is missing as a picture and as a
    text. The contribution of its text is added to the values of its own pictures (projection of a U-statistic;
    Hoeffding, Ann. Math. Stat. 19, 1948), so that resampling prompts includes both. The mean does not change.

    Args:
        similarity: (N, T) cosine of pictures and texts.
        own: (N,) index of each picture's text, -1 for none.
        rows: (C, P, M) rows of the pictures, -1 for none.
        margin: (C, P, M) their margins, NaN where they do not count.
        prompts: indices of the prompts that are judged.

    Returns:
        (C, P, M), with mean 0 over the pictures of ``prompts`` that count; 0 for other prompts.
    """
    found = np.isfinite(margin[:, prompts])
    mine = rows[:, prompts]
    texts = np.array([own[mine[:, k][mine[:, k] >= 0][0]] if (mine[:, k] >= 0).any() else -1
                      for k in range(len(prompts))])  # fmt: skip
    result = np.zeros(margin.shape)
    if similarity.shape[1] < 2:
        return result
    # (C, P, M, Q): each picture against the text of every prompt
    against = similarity[np.maximum(mine, 0)][..., np.maximum(texts, 0)]
    counts = found[..., None] & (texts[:, None, None] != texts) & (texts >= 0)
    number_of = counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # (C, M, Q): how near the other prompts' pictures of a seed are to the text of a prompt
        near = np.where(counts, against, 0.0).sum(axis=1) / number_of
    near = np.where(found, np.swapaxes(near, 1, 2), np.nan)
    valid = np.isfinite(near)
    total = np.maximum(valid.sum(axis=(1, 2), keepdims=True), 1)
    middle = np.where(valid, near, 0.0).sum(axis=(1, 2), keepdims=True) / total
    share = (len(prompts) - 1) / (similarity.shape[1] - 1)
    result[:, prompts] = share * np.where(valid, near - middle, 0.0)
    return result
