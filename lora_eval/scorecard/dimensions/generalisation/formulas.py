"""Formulas of generalisation: copies of training pictures.

Follows Somepalli et al. (arXiv 2212.03860): the nearest training picture by feature, compared with how near training
pictures are to each other. CLIP-like features describe what is in a picture and not its structure, so a picture is
called a copy only where a second test, structural similarity (SSIM, Wang et al., IEEE TIP 13, 2004), agrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lora_eval.scorecard.dimensions import arrays

SSIM_WINDOW = 7
# SSIM of two different photographs is about .1 to .4, of a picture and its recompressed copy above .9
SSIM_FLOOR = 0.7
TRAIN_QUANTILE = 0.95


@dataclass(frozen=True)
class CopyLimits:
    """A picture is a copy of a training picture where both limits are exceeded.

    Attributes:
        feature: cosine of the features; ssim: structural similarity.
    """

    feature: float
    ssim: float


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity of grey pictures in [0, 1], pair by pair (Wang et al. 2004).

    Uniform 7x7 window, sample covariance, K1 = .01, K2 = .03, mean over the windows that fit: the
    numbers of ``skimage.metrics.structural_similarity(a, b, data_range=1)``.

    Args:
        first, second: (n, H, W), H and W at least 7.

    Returns:
        (n,) in [-1, 1]; 1 for identical pictures.

    Raises:
        ValueError: shapes differ, or a side is below 7.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    arrays.same_shape(first, second, "first and second")
    if first.ndim != 3 or min(first.shape[1:]) < SSIM_WINDOW:
        raise ValueError(f"pictures must be (n, H, W) with sides of at least {SSIM_WINDOW}, got {first.shape}")
    # a slice at a time: the five moment maps of many pictures would not fit in the cache
    return np.concatenate(
        [_ssim(first[i : i + 64], second[i : i + 64]) for i in range(0, len(first), 64)] or [np.zeros(0)]
    )


def _ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    n = SSIM_WINDOW**2
    mean_a, mean_b = _box(a), _box(b)
    unbiased = n / (n - 1)
    var_a = unbiased * (_box(a * a) - mean_a**2)
    var_b = unbiased * (_box(b * b) - mean_b**2)
    cov = unbiased * (_box(a * b) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    value = ((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return value.mean(axis=(1, 2))


def _box(pictures: np.ndarray) -> np.ndarray:
    """Means over every 7x7 window that fits, by running sums."""
    k = SSIM_WINDOW
    total = np.pad(pictures, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)
    return (total[:, k:, k:] - total[:, :-k, k:] - total[:, k:, :-k] + total[:, :-k, :-k]) / k**2


def nearest(pictures: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest training picture by cosine.

    Args:
        pictures: (n, D) unit features; training: (T, D) unit features.

    Returns:
        Index (n,) of the training picture, and cosine (n,) to it.

    Raises:
        ValueError: not finite unit features.
    """
    return _nearest(arrays.features(pictures, "pictures"), arrays.features(training, "training"))


def _nearest(pictures: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    similarity = np.asarray(pictures, dtype=np.float64) @ np.asarray(training, dtype=np.float64).T
    index = similarity.argmax(axis=1)
    return index, similarity[np.arange(len(index)), index]


def copy_limits(features: np.ndarray, thumbs: np.ndarray, unseen: np.ndarray | None = None) -> CopyLimits:
    """Limits above which a picture is more like a training picture than training pictures are like each other.

    Each limit is the 95th percentile, over the training pictures, of the value with their own nearest neighbour.
    Near-duplicates inside the training set (SSIM above .9) are left out: they would raise the limits until no copy is
    found. The limit of the cosine is at least the 95th percentile of held-out pictures' cosines, the limit of SSIM at
    least SSIM_FLOOR.

    Args:
        features: (T, D) unit features of the training pictures.
        thumbs: (T, S, S) the same pictures, small and grey, in [0, 1].
        unseen: (U, D) unit features of held-out pictures of the concept, or None.

    Returns:
        CopyLimits; fixed ones where every training picture has a duplicate.

    Raises:
        ValueError: fewer than three training pictures or shapes that do not match.
    """
    array = arrays.features(features, "features", at_least=3)
    if len(thumbs) != len(array):
        raise ValueError(f"features and thumbs must match, got {len(array)} and {len(thumbs)}")
    similarity = array @ array.T
    np.fill_diagonal(similarity, -2.0)
    index = similarity.argmax(axis=1)
    structure = ssim(np.asarray(thumbs), np.asarray(thumbs)[index])
    honest = structure <= 0.9
    if not honest.any():
        # every picture has a double: their likeness says nothing about what a copy is
        return CopyLimits(0.95, 0.9)
    values = similarity[np.arange(len(array)), index][honest]
    limit = float(np.quantile(values, TRAIN_QUANTILE))
    if unseen is not None and len(unseen):
        limit = max(limit, float(np.quantile(_nearest(unseen, array)[1], TRAIN_QUANTILE)))
    return CopyLimits(limit, max(SSIM_FLOOR, float(np.quantile(structure[honest], TRAIN_QUANTILE))))


def find_copies(
    features: np.ndarray, thumbs: np.ndarray, training: np.ndarray, training_thumbs: np.ndarray, limits: CopyLimits
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The nearest training picture of each picture, and whether the picture is a copy of it, mirrored or not.

    Args:
        features, thumbs: (n, D) unit features and (n, S, S) thumbs of the drawn pictures.
        training, training_thumbs: (T, D) and (T, S, S) of the training pictures.
        limits: from :func:`copy_limits`.

    Returns:
        Index (n,) of the training picture; cosine (n,) to it; SSIM (n,) with it, NaN where the cosine is below its
        limit; copy (n,) bool.

    Raises:
        ValueError: shapes that do not match.
    """
    if len(features) != len(thumbs) or len(training) != len(training_thumbs):
        raise ValueError("features and thumbs must have the same number of pictures")
    similarity = np.asarray(features, dtype=np.float32) @ np.asarray(training, dtype=np.float32).T
    rows = np.arange(len(features))
    index = similarity.argmax(axis=1)
    # of the three nearest by feature the one that is nearest by structure is the candidate
    top = np.argsort(-similarity, axis=1, kind="stable")[:, :3]
    best = np.full(len(features), np.nan)
    suspects = np.flatnonzero(similarity.max(axis=1) > limits.feature)
    for rank in range(top.shape[1]):
        mine = suspects[similarity[suspects, top[suspects, rank]] > limits.feature]
        theirs = np.asarray(training_thumbs)[top[mine, rank]]
        value = np.maximum(ssim(np.asarray(thumbs)[mine], theirs), ssim(np.asarray(thumbs)[mine][:, :, ::-1], theirs))
        better = ~(best[mine] >= value)
        best[mine[better]] = value[better]
        index[mine[better]] = top[mine[better], rank]
    with np.errstate(invalid="ignore"):
        copy = best > limits.ssim
    return index, similarity[rows, index].astype(np.float64), best, copy
