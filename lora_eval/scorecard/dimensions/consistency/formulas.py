"""Does every draw show the same edit? Numbers for one prompt over several seeds.

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
    """CARLoS of one prompt: mean difference (D,), mean length of the differences, mean pairwise cosine."""

    direction: np.ndarray
    strength: float
    consistency: float


def carlos(with_lora: np.ndarray, without: np.ndarray) -> Carlos:
    """Direction, strength and consistency of what the LoRA changes (CARLoS, arXiv 2512.08826).

    ``d_i = E(w, i) - E(0, i)``; direction ``mean_i d_i``; strength ``mean_i |d_i|`` in [0, 2];
    consistency ``mean_{i<j} cos(d_i, d_j)`` in [-1, 1]: 0 is noise, 1 the same edit at every seed.

    Args:
        with_lora, without: (n, D) unit features, paired row by row (same prompt and seed).

    Returns:
        Carlos; consistency is NaN below two pictures or where a difference is exactly zero.

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
    """Vendi score, the effective number of different pictures: ``exp(-sum l log l)``, l eigenvalues of K/n.

    K is the matrix of cosines. Range 1 (all alike) to n (all orthogonal). Compare equal n only.

    Raises:
        ValueError: not (n, D) finite unit features.
    """
    array = arrays.features(features, "features")
    return float(vendi_of_gram(array @ array.T))


def pairwise_similarity(features: np.ndarray) -> float:
    """Mean cosine over all pairs i < j, in [-1, 1]; high both for consistency and for collapse.

    Raises:
        ValueError: fewer than two pictures, or not finite unit features.
    """
    array = arrays.features(features, "features", at_least=2)
    return float(pair_mean((array @ array.T)[None], np.ones((1, len(array)), dtype=bool))[0])


def cosines(vectors: np.ndarray) -> np.ndarray:
    """(..., n, D) -> (..., n, n) cosines; NaN in the rows of zero vectors."""
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    # a difference of features that agree to rounding has a direction made of rounding errors
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = np.where(lengths > 1e-5, vectors / lengths, np.nan)
    return unit @ np.swapaxes(unit, -1, -2)


def pair_mean(matrix: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of the off-diagonal entries among masked rows: (..., n, n), (..., n) -> (...); NaN below two."""
    pairs = mask[..., :, None] & mask[..., None, :] & ~np.eye(mask.shape[-1], dtype=bool)
    count = pairs.sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, np.where(pairs, matrix, 0.0).sum(axis=(-2, -1)) / count, np.nan)


def row_mean(matrix: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean cosine of each masked row to the other masked rows: (..., n, n) -> (..., n)."""
    pairs = mask[..., :, None] & mask[..., None, :] & ~np.eye(mask.shape[-1], dtype=bool)
    count = pairs.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, np.where(pairs, matrix, 0.0).sum(axis=-1) / count, np.nan)


def pseudo_values(matrix: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Jackknife pseudo-values of the pair mean, one a picture: (..., n, n) -> (..., n), NaN outside the mask.

    Their mean is the pair mean itself, and they can be resampled like independent numbers (Arvesen,
    Ann. Math. Stat. 40, 1969), which pairs of resampled pictures cannot: a picture drawn twice would
    pair with itself. Two pictures are one pair: its cosine stands for the first, the second is NaN, so
    that nobody takes it for two numbers that agree.
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
    """Vendi score of (..., n, n) cosine matrices (order-1 entropy), shape (...)."""
    n = gram.shape[-1]
    values = np.linalg.eigvalsh(np.asarray(gram, dtype=np.float64) / n)
    values = np.clip(values, 1e-300, None)
    return np.exp(-(values * np.log(values)).sum(axis=-1))


def vendi_of_sets(gram: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Vendi score of the masked pictures of each set: (S, n, n), (S, n) -> (S,); NaN below two."""
    result = np.full(len(gram), np.nan)
    counts = mask.sum(axis=-1)
    for n in np.unique(counts[counts > 1]):
        chosen = np.flatnonzero(counts == n)
        index = np.argsort(~mask[chosen], axis=-1, kind="stable")[:, :n]
        part = gram[chosen[:, None, None], index[:, :, None], index[:, None, :]]
        result[chosen] = vendi_of_gram(part)
    return result


def expected_vendi(features: np.ndarray, n: int, draws: int = 64, seed: int = 0) -> float:
    """Mean Vendi score of random subsets of ``n`` pictures, to compare sets of unequal size.

    NaN when there are fewer than n or 2 pictures.
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
    """How far each picture falls out of its row, as a modified z-score; above 4 is an outlier.

    (The source has 3.5; with four draws a prompt 2 % of sound pictures pass that.)

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
    """How much of what seeds change lies on one line: (variance along it, its share of all variance).

    Features (P, M, D) are centred in each prompt over the masked seeds, so only what differs between
    draws of one prompt is left. Draws of two kinds (a mixed training set) put it on the line between
    the kinds. NaN pair below six degrees of freedom (draws less prompts): two draws are always on one line.
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
    """Spread of each style statistic over the pictures of weight 0, (K,); over all of the run, where there are none.

    Root of half the mean squared difference of pictures of different prompts: over all pictures, those of one prompt
    among them, it would be the smaller the fewer prompts there are.
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
    """(..., n, K) standardised -> (..., n, n) distance, root of half the mean squared difference of the statistics.

    Not its square: one prompt whose seeds fall out would then hold most of the mean over prompts, and with the
    handful of prompts of a suite no interval of such a mean holds the truth.
    """
    if not styles.shape[-1]:
        return np.full((*styles.shape[:-1], styles.shape[-2]), np.nan)
    # through the Gram matrix
    square = (styles**2).sum(axis=-1)
    gram = styles @ np.swapaxes(styles, -1, -2)
    total = np.clip(square[..., :, None] + square[..., None, :] - 2 * gram, 0.0, None)
    return np.asarray(np.sqrt(total / (2 * styles.shape[-1])))


def across_prompts(difference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cosine between the mean changes of different prompts, as pseudo-values (T, 1)."""
    present = mask.any(axis=1)
    count = np.maximum(mask.sum(axis=1), 1)[:, None]
    means = np.where(mask[..., None], difference, 0.0).sum(axis=1) / count
    return pseudo_values(cosines(means)[None], (present & (np.linalg.norm(means, axis=1) > 1e-5))[None])[0][:, None]


def means_apart(styles: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Distance between the prompts' mean styles, as pseudo-values (T, 1)."""
    present: np.ndarray = np.asarray(mask.any(axis=1))
    means = np.where(mask[..., None], styles, 0.0).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)[:, None]
    return pseudo_values(style_distances(means)[None], present[None])[0][:, None]


def seed_spread(features: np.ndarray, mask: np.ndarray) -> float:
    """Mean distance of two seeds of one prompt at weight 0: the yardstick of the LoRA's effect."""
    total, count = 0.0, 0
    for p in range(len(mask)):
        x = features[p][mask[p]]
        if len(x) >= 2:
            distance = np.sqrt(np.clip(2.0 - 2.0 * (x @ x.T), 0.0, None))[np.triu_indices(len(x), 1)]
            total, count = total + float(distance.sum()), count + distance.size
    return total / count if count else float("nan")
