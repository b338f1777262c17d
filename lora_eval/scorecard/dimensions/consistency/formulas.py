"""Formulas of consistency: whether pictures of one prompt at several seeds show the same change.

References: CARLoS (arXiv 2512.08826) for direction, strength and consistency of
``d = E(with LoRA) - E(without)``; Vendi score (Friedman and Dieng, TMLR 2023, arXiv 2210.02410);
outliers by the modified z-score (Iglewicz and Hoaglin, 1993).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lora_eval.scorecard.dimensions import arrays
from lora_eval.statistics.ranks import robust_z

FREEDOM_NEEDED = 6


@dataclass(frozen=True)
class Carlos:
    """CARLoS of one prompt.

    Attributes:
        direction: (D,) mean difference of the features with and without the LoRA.
        strength: mean length of the differences, in [0, 2].
        consistency: mean cosine of pairs of differences, in [-1, 1]: 0 is noise, 1 the same change at every seed.
    """

    direction: np.ndarray
    strength: float
    consistency: float


def carlos(with_lora: np.ndarray, without: np.ndarray) -> Carlos:
    """Direction, strength and consistency of the change that a LoRA makes (CARLoS, arXiv 2512.08826).

    With ``d_i = E(w, i) - E(0, i)``, the direction is ``mean_i d_i``, the strength ``mean_i |d_i|`` and the consistency
    ``mean_{i<j} cos(d_i, d_j)``.

    Args:
        with_lora, without: (n, D) unit features, paired row by row (same prompt and seed).

    Returns:
        Carlos; consistency is NaN with fewer than two pictures, or where a difference is zero.

    Raises:
        ValueError: shapes differ, values not finite or not of unit length.
    """
    first, second = arrays.features(with_lora, "with_lora"), arrays.features(without, "without")
    arrays.same_shape(first, second, "with_lora and without")
    difference = first - second
    mask = np.ones(len(difference), dtype=bool)
    return Carlos(
        difference.mean(axis=0),
        float(np.linalg.norm(difference, axis=1).mean()),
        float(pair_mean(cosines(difference[None]), mask[None])[0]),
    )


def vendi(features: np.ndarray) -> float:
    """Vendi score: the effective number of different pictures (Friedman and Dieng, arXiv 2210.02410).

    ``exp(-sum_k l_k log l_k)`` with the eigenvalues ``l_k`` of ``K / n``, K the matrix of cosines. It grows with n, so
    only sets of equal size can be compared.

    Args:
        features: (n, D) unit features.

    Returns:
        1 (all alike) to n (all orthogonal).

    Raises:
        ValueError: not (n, D) finite unit features.
    """
    array = arrays.features(features, "features")
    return float(vendi_of_gram(array @ array.T))


def pairwise_similarity(features: np.ndarray) -> float:
    """Mean cosine of all pairs of pictures. It is high both for consistent and for collapsed pictures.

    Args:
        features: (n, D) unit features, n at least 2.

    Returns:
        In [-1, 1].

    Raises:
        ValueError: fewer than two pictures, or not finite unit features.
    """
    array = arrays.features(features, "features", at_least=2)
    return float(pair_mean((array @ array.T)[None], np.ones((1, len(array)), dtype=bool))[0])


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of vectors.

    Args:
        vectors: (..., n, D).

    Returns:
        (..., n, n); NaN in rows and columns of vectors that are zero to rounding (length below 1e-5).
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    # a difference of features that agree to rounding has a direction made of rounding errors
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = np.where(lengths > 1e-5, vectors / lengths, np.nan)
    return unit @ np.swapaxes(unit, -1, -2)


def pair_mean(matrix: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over pairs of different rows.

    Args:
        matrix: (..., n, n) symmetric, a value for each pair.
        mask: (..., n) bool, which rows count.

    Returns:
        (...); NaN with fewer than two rows.
    """
    pairs = mask[..., :, None] & mask[..., None, :] & ~np.eye(mask.shape[-1], dtype=bool)
    count = pairs.sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, np.where(pairs, matrix, 0.0).sum(axis=(-2, -1)) / count, np.nan)


def row_mean(matrix: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of each row over the other rows; arguments as in :func:`pair_mean`.

    Returns:
        (..., n); NaN outside the mask and with fewer than two rows.
    """
    pairs = mask[..., :, None] & mask[..., None, :] & ~np.eye(mask.shape[-1], dtype=bool)
    count = pairs.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, np.where(pairs, matrix, 0.0).sum(axis=-1) / count, np.nan)


def pseudo_values(matrix: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Jackknife pseudo-values of the mean over pairs, one for each picture; arguments as in :func:`pair_mean`.

    Their mean is the mean over pairs, and they can be resampled like independent numbers (Arvesen, Ann. Math. Stat.
    40, 1969). Pairs of resampled pictures cannot: a picture drawn twice would form a pair with itself.

    Returns:
        (..., n); NaN outside the mask. Two pictures are a single pair: its value is given to the first and NaN to the
        second, so that it does not count as two numbers that agree.
    """
    mean, row = pair_mean(matrix, mask), row_mean(matrix, mask)
    m = mask.sum(axis=-1)[..., None].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = mean[..., None] * m * (m - 1)
        without = (total - 2.0 * row * (m - 1)) / ((m - 1) * (m - 2))
        pseudo = np.where(m > 2, m * mean[..., None] - (m - 1) * without, mean[..., None])
    first = mask & (np.cumsum(mask, axis=-1) == 1)
    return np.where(np.where(m > 2, mask, first), pseudo, np.nan)


def vendi_of_gram(gram: np.ndarray) -> np.ndarray:
    """Vendi score of cosine matrices, see :func:`vendi`: (..., n, n) -> (...)."""
    n = gram.shape[-1]
    values = np.linalg.eigvalsh(np.asarray(gram, dtype=np.float64) / n)
    values = np.clip(values, 1e-300, None)
    return np.exp(-(values * np.log(values)).sum(axis=-1))


def vendi_of_sets(gram: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Vendi score of several sets of pictures.

    Args:
        gram: (S, n, n) cosines; mask: (S, n) which pictures of each set count.

    Returns:
        (S,); NaN for sets of fewer than two pictures.
    """
    result = np.full(len(gram), np.nan)
    counts = mask.sum(axis=-1)
    for n in np.unique(counts[counts > 1]):
        chosen = np.flatnonzero(counts == n)
        index = np.argsort(~mask[chosen], axis=-1, kind="stable")[:, :n]
        part = gram[chosen[:, None, None], index[:, :, None], index[:, None, :]]
        result[chosen] = vendi_of_gram(part)
    return result


def expected_vendi(features: np.ndarray, n: int, draws: int = 64, seed: int = 0) -> float:
    """Mean Vendi score of random subsets, to compare sets of unequal size.

    Args:
        features: (N, D) unit features.
        n: size of the subsets; draws: number of subsets; seed: of the choice.

    Returns:
        1 to n; NaN where there are fewer than n pictures, or n is below 2.
    """
    features = np.asarray(features, dtype=np.float64)
    if len(features) < max(n, 2) or n < 2:
        return float("nan")
    gram = features @ features.T
    if len(features) == n:
        return float(vendi_of_gram(gram))
    rng = np.random.default_rng(seed)
    index = np.argsort(rng.random((draws, len(features))), axis=1)[:, :n]
    return float(vendi_of_gram(gram[index[:, :, None], index[:, None, :]]).mean())


def drift(styles: np.ndarray, features_off: np.ndarray) -> np.ndarray:
    """How far each picture lies from the other seeds of its prompt, as a modified z-score; above 4 is an outlier.

    Iglewicz and Hoaglin (1993) use 3.5; with four seeds for each prompt 2 % of sound pictures exceed that.

    Args:
        styles: (n, K) style statistics of pictures of one condition, each less its prompt's median, so
            that prompts can be pooled.
        features_off: (n,) cosine distance to the other draws of the same prompt over the prompt's
            median of it; NaN where it is not known.

    Returns:
        (n,) the larger of the two one-sided z-scores, at least 0; NaN below five pictures.

    Raises:
        ValueError: lengths differ.
    """
    styles, features_off = np.asarray(styles, dtype=np.float64), np.asarray(features_off, dtype=np.float64)
    if styles.ndim != 2 or features_off.shape != styles.shape[:1]:
        raise ValueError(f"styles (n, K) and features_off (n,) must match, got {styles.shape}, {features_off.shape}")
    return _drift(styles, features_off)


def _drift(styles: np.ndarray, features_off: np.ndarray) -> np.ndarray:
    if len(styles) < 5:
        return np.full(len(styles), np.nan)
    by_style = np.full(len(styles), np.nan)
    if styles.shape[1]:
        z = robust_z(styles, axis=0)
        # one statistic that never moves would make every rounding error infinite
        z = np.where(np.isfinite(z), z, 0.0)
        # squared distances are skewed; their cube root is nearly normal (Wilson and Hilferty, 1931)
        by_style = robust_z(np.cbrt((np.minimum(np.abs(z), 50.0) ** 2).mean(axis=1)))
    by_feature = (
        robust_z(np.cbrt(features_off)) if np.isfinite(features_off).sum() >= 5 else np.full(len(styles), np.nan)
    )
    both = np.fmax(by_style, by_feature)
    return np.where(np.isnan(both), np.nan, np.clip(both, 0.0, 99.0))


def split(features: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """How much of the differences between seeds lies on one line in feature space.

    Features are centred in each prompt, so that only differences between its seeds are left. Where pictures are of two
    kinds (a mixed training set), most of these lie on the line between the kinds.

    Args:
        features: (P, M, D); mask: (P, M) which pictures exist.

    Returns:
        The variance along the line of most variance, and its share of all variance, in [0, 1]. A pair of NaN with
        fewer than six degrees of freedom (pictures less prompts): two pictures are always on one line.
    """
    kept = mask & (mask.sum(axis=1) >= 2)[:, None]
    freedom = int(kept.sum()) - int(kept.any(axis=1).sum())
    if freedom < FREEDOM_NEEDED:
        return float("nan"), float("nan")
    count = np.maximum(kept.sum(axis=1), 1)[:, None, None]
    x = np.where(kept[..., None], features, 0.0)
    x = np.where(kept[..., None], x - x.sum(axis=1, keepdims=True) / count, 0.0)[kept]
    # the smaller Gram has the same eigenvalues
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    total = float(np.trace(gram))
    top = float(np.linalg.eigvalsh(gram)[-1])
    return top / freedom, (top / total if total > 0 else float("nan"))


def style_scale(styles: np.ndarray, base_rows: np.ndarray) -> np.ndarray:
    """Unit of each style statistic: its spread over pictures of weight 0.

    Root of half the mean squared difference of pictures of different prompts. Pairs within a prompt are left out:
    they would make the unit smaller the fewer prompts there are.

    Args:
        styles: (N, K) style statistics.
        base_rows: (P, M) rows of the pictures of weight 0, -1 for none. Where there are fewer than two, the unit is the
            standard deviation over all pictures.

    Returns:
        (K,); 1 for a statistic that does not vary.
    """
    if not styles.size:
        return np.ones(styles.shape[1] if styles.ndim == 2 else 0)
    values = np.asarray(styles, dtype=np.float64)
    if (base_rows >= 0).sum() > 1:
        groups = [np.sort(values[rows[rows >= 0]], axis=0) for rows in base_rows]
    else:
        groups = [np.sort(values, axis=0)]
    # sorted, so that sums run in the same order however the table is ordered
    every = np.sort(np.concatenate(groups), axis=0)
    middle = every.mean(axis=0)

    def over_pairs(rows: np.ndarray) -> np.ndarray:
        """Squared differences, summed over pairs of rows."""
        off = rows - middle
        return np.asarray(len(rows) * (off**2).sum(axis=0) - off.sum(axis=0) ** 2)

    pairs = len(every) ** 2 - sum(len(group) ** 2 for group in groups)
    between = over_pairs(every) - np.sort([over_pairs(group) for group in groups], axis=0).sum(axis=0)
    deviation = np.sqrt(np.clip(between, 0.0, None) / pairs) if pairs else every.std(axis=0)
    return np.where(deviation > 1e-6, deviation, 1.0)


def style_distances(styles: np.ndarray) -> np.ndarray:
    """Distance of all pairs of pictures in style: root of half the mean squared difference of the statistics.

    The root is taken because squares would let one prompt whose seeds differ a lot make up most of the mean over
    prompts; with the few prompts of a suite no interval of such a mean covers the truth.

    Args:
        styles: (..., n, K) statistics in their units, see :func:`style_scale`.

    Returns:
        (..., n, n); NaN where there is no statistic.
    """
    if not styles.shape[-1]:
        return np.full((*styles.shape[:-1], styles.shape[-2]), np.nan)
    # through the Gram matrix
    square = (styles**2).sum(axis=-1)
    gram = styles @ np.swapaxes(styles, -1, -2)
    total = np.clip(square[..., :, None] + square[..., None, :] - 2 * gram, 0.0, None)
    return np.asarray(np.sqrt(total / (2 * styles.shape[-1])))


def across_prompts(difference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cosine between the mean changes of different prompts.

    Args:
        difference: (P, M, D) change of each picture; mask: (P, M) which pictures count.

    Returns:
        (P, 1) pseudo-values, see :func:`pseudo_values`.
    """
    present = mask.any(axis=1)
    count = np.maximum(mask.sum(axis=1), 1)[:, None]
    means = np.where(mask[..., None], difference, 0.0).sum(axis=1) / count
    return pseudo_values(cosines(means)[None], (present & (np.linalg.norm(means, axis=1) > 1e-5))[None])[0][:, None]


def means_apart(styles: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Distance between the mean styles of different prompts.

    Args:
        styles: (P, M, K) statistics in their units; mask: (P, M) which pictures count.

    Returns:
        (P, 1) pseudo-values, see :func:`pseudo_values`.
    """
    present: np.ndarray = np.asarray(mask.any(axis=1))
    means = np.where(mask[..., None], styles, 0.0).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)[:, None]
    return pseudo_values(style_distances(means)[None], present[None])[0][:, None]


def seed_spread(features: np.ndarray, mask: np.ndarray) -> float:
    """Mean feature distance of two seeds of one prompt at weight 0, which the LoRA's effect is compared with.

    Args:
        features: (P, M, D) unit features at weight 0; mask: (P, M) which pictures exist.

    Returns:
        In [0, 2]; NaN where no prompt has two seeds.
    """
    total, count = 0.0, 0
    for p in range(len(mask)):
        x = features[p][mask[p]]
        if len(x) >= 2:
            distance = np.sqrt(np.clip(2.0 - 2.0 * (x @ x.T), 0.0, None))[np.triu_indices(len(x), 1)]
            total, count = total + float(distance.sum()), count + distance.size
    return total / count if count else float("nan")
