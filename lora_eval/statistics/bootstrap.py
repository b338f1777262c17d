"""Intervals and tests for pictures that come in groups: several seeds of several prompts.

Seeds of one prompt resemble one another, so pictures are not independent and the usual standard
error is too small. The unit of resampling is therefore the prompt (cluster bootstrap: Davison and
Hinkley, *Bootstrap Methods*, 1997, section 3.8; Field and Welsh, JRSS-B 69, 2007). A suite has few
prompts, and the plain percentile bootstrap of k clusters is too narrow by about
``sqrt((k - 1) / k)`` and uses a normal where a t quantile belongs (Hesterberg, Am. Stat. 69, 2015,
"narrowness bias"). Every resampled deviation is stretched by exactly that much; ``coverage`` in the
tests measures the result.

- four prompts or more: prompts are resampled whole, ``k - 1`` degrees of freedom. Resampling the
  seeds again inside a drawn prompt would count the seed noise twice;
- fewer: prompts are taken as they are, seeds are resampled inside each, ``n - k`` degrees of
  freedom; the interval then speaks of these prompts only;
- one seed of fewer than four prompts: there is no interval.

A scorecard draws every prompt with the same seeds, and a seed that suits one prompt often suits the
others: prompts are then not independent either, and no resampling of prompts sees it. Pictures are
crossed by prompt and seed (Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 1, 2007), whose plain
bootstrap counts the noise of single pictures thrice. So the seeds' own effects are resampled beside
the prompts, shrunk to the variance that is theirs beyond that noise (method of moments:
``1 - MS_residual / MS_seed``, 0 where negative; Searle, Casella and McCulloch, *Variance
Components*, 1992, chapter 4), ``s - 1`` degrees of freedom. Two seeds have one, whose quantile
(12.7) would bury what prompts say: they are given the quantile of two, and are too few where seeds
matter much. Where every prompt has seeds of its own the term is 0 but for chance.

Resampling is one matrix product, and the same seed gives the same resamples, so that differences
between two conditions are paired draw by draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
CLUSTERS_NEEDED = 4


@dataclass(frozen=True)
class Draws:
    """An estimate with its bootstrap draws, already stretched for the small sample.

    Attributes:
        estimate: shape S, the statistic on the data themselves; NaN where nothing was measured.
        samples: shape (resamples, *S); NaN throughout where no interval can be given.
        n: shape S, number of pictures behind each estimate.
        scope: ``prompts`` (speaks of prompts like these), ``seeds`` (of these prompts only), ``none``.
    """

    estimate: np.ndarray
    samples: np.ndarray
    n: np.ndarray
    scope: str

    def interval(
        self, level: float = LEVEL, low: float = -np.inf, high: float = np.inf
    ) -> tuple[np.ndarray, np.ndarray]:
        """Percentile interval of the draws, shape S each, clipped to the statistic's range."""
        tail = 50.0 * (1.0 - level)
        if self.samples.shape[0] == 0:
            missing = np.full(self.estimate.shape, np.nan)
            return missing, missing.copy()
        # one sort instead of nanpercentile's per-slice Python loop; a column with a NaN has no interval
        ordered = np.sort(self.samples, axis=0)
        edges = np.percentile(ordered, [tail, 100.0 - tail], axis=0)
        return np.clip(edges[0], low, high), np.clip(edges[1], low, high)

    def share_interval(self, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        """Interval of shares, values of 0 and 1 or in between, shape S each: Wilson's, with fewer trials than pictures.

        Draws of a share near 0 or 1 cannot be symmetric, and where all pictures agree they do not vary at all. So the
        draws only say how much pictures of one prompt or seed agree: the trials are as many as independent pictures
        would give that spread (design effect; Korn and Graubard, Surv. Methodol. 24, 1998), at most all of them.
        """
        share, n = np.clip(self.estimate, 0.0, 1.0), np.maximum(self.n, 1).astype(float)
        spread = self.samples.std(axis=0) if self.samples.shape[0] else np.full(share.shape, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            trials = share * (1.0 - share) / spread**2
        trials = np.where(np.isfinite(trials) & (trials > 0), np.clip(trials, 1.0, n), n)
        edges = [wilson(p * t, t, level) if k else (math.nan, math.nan)
                 for p, t, k in zip(share.ravel(), trials.ravel(), np.ravel(self.n), strict=True)]  # fmt: skip
        low, high = (np.array(edge).reshape(share.shape) for edge in zip(*edges, strict=True))
        return low, high

    def positive(self) -> Draws:
        """The same for a statistic that is always above 0, a variance for instance: deviations multiply.

        A variance that a few pictures make is skewed, and symmetric deviations of it reach below 0; on the scale of
        its logarithm they are closer to symmetric (delta method: d log x = dx / x).
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            off = (self.samples - self.estimate) / self.estimate
        samples = np.where(self.estimate > 0, self.estimate * np.exp(np.clip(off, -50.0, 50.0)), self.samples)
        return Draws(self.estimate, samples, self.n, self.scope)

    def map(self, function: Callable[..., np.ndarray], *others: Draws) -> Draws:
        """Apply ``function`` to estimate and draws alike; pairs draws made with the same seed."""
        with np.errstate(divide="ignore", invalid="ignore"):
            estimate = np.asarray(function(self.estimate, *(o.estimate for o in others)), dtype=float)
            samples = np.asarray(function(self.samples, *(o.samples for o in others)), dtype=float)
        estimate = np.where(np.isfinite(estimate), estimate, np.nan)
        samples = np.where(np.isfinite(samples), samples, np.nan)
        n = self.n
        for other in others:
            n = np.maximum(n, other.n)
        scopes = {self.scope, *(o.scope for o in others)}
        scope = next(s for s in ("none", "seeds", "prompts") if s in scopes)
        return Draws(estimate, samples, np.broadcast_to(n, estimate.shape), scope)


def resample(values: np.ndarray, resamples: int = 1000, seed: int | Sequence[int] = 0) -> Draws:
    """Mean over prompts and seeds, with bootstrap draws.

    Args:
        values: (..., P, M): P prompts, up to M seeds each; NaN where there is no picture. The last
            axis may differ in meaning from prompt to prompt (seeds are nested in prompts).
        resamples: number of draws.
        seed: the same seed and P, M give the same resamples: use one seed for values to be paired, and
            different ones for sets of pictures that have nothing to do with each other.

    Returns:
        Draws of shape ``values.shape[:-2]``. Every picture counts once.

    Raises:
        ValueError: fewer than two axes, or ``resamples`` < 1.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim < 2:
        raise ValueError(f"values must be (..., prompts, seeds), got shape {values.shape}")
    if resamples < 1:
        raise ValueError("resamples must be at least 1")
    return _resample(values, resamples, seed)


def _resample(values: np.ndarray, resamples: int, seed: int | Sequence[int]) -> Draws:
    shape = values.shape[:-2]
    if not values.size:
        return Draws(np.full(shape, np.nan), np.full((resamples, *shape), np.nan), np.zeros(shape, dtype=int), "none")
    valid = np.isfinite(values)
    flat = np.where(valid, values, 0.0).reshape(-1, *values.shape[-2:])
    mask = valid.reshape(flat.shape).astype(np.float64)
    kept = mask.any(axis=(0, 2))
    flat, mask = flat[:, kept], mask[:, kept]
    prompts, seeds = flat.shape[1], flat.shape[2]
    n = mask.sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = flat.sum(axis=(1, 2)) / n
    rng = np.random.default_rng(seed)
    if prompts >= CLUSTERS_NEEDED:
        weights = rng.multinomial(prompts, np.full(prompts, 1.0 / prompts), size=resamples).astype(np.float64)
        total, count = weights @ flat.sum(axis=2).T, weights @ mask.sum(axis=2).T
        present = mask.any(axis=2).sum(axis=1)
        stretch = np.array([_stretch(int(k), int(k) - 1) for k in present])
        unseen = 1.0
        scope = "prompts"
    else:
        weights = (
            np.stack(
                [rng.multinomial(seeds, np.full(seeds, 1.0 / seeds), size=resamples) for _ in range(prompts)], axis=1
            )
            if prompts and seeds
            else np.zeros((resamples, prompts, seeds))
        )
        weights = weights.reshape(resamples, -1).astype(np.float64)
        total, count = weights @ flat.reshape(len(flat), -1).T, weights @ mask.reshape(len(mask), -1).T
        present = mask.any(axis=2).sum(axis=1)
        stretch = np.array([_stretch(int(m / max(k, 1)), int(m - k)) for m, k in zip(n, present, strict=True)])
        # seeds were resampled prompt by prompt, which sees the share of their common effect that prompts do not share
        unseen = math.sqrt(1.0 - 1.0 / prompts) if prompts else 0.0
        scope = "seeds"
    with np.errstate(divide="ignore", invalid="ignore"):
        samples = total / count
    # a draw may miss every picture of a sparse condition; it then says nothing
    samples = np.where(count > 0, samples, estimate)
    samples = estimate + stretch * (samples - estimate)
    first = seed if isinstance(seed, int | np.integer) else seed[0]
    samples = samples + unseen * _seed_deviations(flat, mask, resamples, int(first))
    if not np.isfinite(stretch).any():
        scope = "none"
    return Draws(estimate.reshape(shape), samples.reshape(resamples, *shape), n.astype(int).reshape(shape), scope)


def _seed_deviations(flat: np.ndarray, mask: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """What the seeds' common effect adds to each draw of the mean, (resamples, N); 0 where there is none.

    Args:
        flat, mask: (N, P, M) values, 0 where ``mask`` is 0.
        seed: the same for all prompts of a run, so that the same seeds are drawn for each set of prompts.
    """
    per_prompt, per_seed = mask.sum(axis=2), mask.sum(axis=1)
    total, seeds = per_seed.sum(axis=1), (per_seed > 0).sum(axis=1)
    freedom = total - (per_prompt > 0).sum(axis=1) - seeds + 1
    residual = (flat - (flat.sum(axis=2) / np.maximum(per_prompt, 1))[..., None]) * mask
    summed = residual.sum(axis=1)
    effect = summed / np.maximum(per_seed, 1)
    between = (per_seed * effect**2).sum(axis=1)
    # of a seed that some prompts lack the effect is only nearly apart from theirs; full grids are exact
    within = np.maximum((residual**2).sum(axis=(1, 2)) - between, 0.0)
    found = (seeds >= 2) & (freedom >= 1) & (between > 0)
    if not found.any():
        return np.zeros((resamples, len(flat)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (within / freedom) / (between / (seeds - 1))
        share = np.where(found, np.sqrt(np.clip(1.0 - ratio, 0.0, None)), 0.0)
    width = mask.shape[2]
    drawn = np.random.default_rng([seed, width]).multinomial(width, np.full(width, 1.0 / width), size=resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = (drawn @ summed.T) / (drawn @ per_seed.T)
    stretch = np.array([_stretch(int(k), max(2, int(k) - 1)) if k >= 2 else 0.0 for k in seeds])
    return np.where(np.isfinite(deviation), deviation, 0.0) * (share * stretch)


def _stretch(size: int, freedom: int) -> float:
    """What a percentile deviation is multiplied with; NaN where no spread can be estimated."""
    if size < 2 or freedom < 1:
        return math.nan
    return math.sqrt(size / (size - 1)) * t_quantile(0.975, freedom) / NormalDist().inv_cdf(0.975)


def t_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's t (Hill, CACM 13, 1970, algorithm 396); error below 1e-4 for p in [.5, 1).

    Raises:
        ValueError: ``p`` outside (0, 1) or ``freedom`` < 1.
    """
    if not 0.0 < p < 1.0 or freedom < 1:
        raise ValueError("p must be in (0, 1) and freedom at least 1")
    if p < 0.5:
        return -t_quantile(1.0 - p, freedom)
    n, tail = float(freedom), 2.0 * (1.0 - p)
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return math.sqrt(2.0 / (tail * (2.0 - tail)) - 2.0)
    if tail >= 1.0:
        return 0.0
    a = 1.0 / (n - 0.5)
    b = (48.0 / a) / a
    c = ((20700.0 * a / b - 98.0) * a - 16.0) * a + 96.36
    d = ((94.5 / (b + c) - 3.0) / b + 1.0) * math.sqrt(a * math.pi / 2.0) * n
    y = (d * tail) ** (2.0 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tail / 2.0)
        y = x * x
        if freedom < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5.0) * x - 7.0) * x - 2.0) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36.0) * y + 94.5) / c - y - 3.0) / b + 1.0) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1.0 / (((n + 6.0) / (n * y) - 0.089 * d - 0.822) * (n + 2.0) * 3.0) + 0.5 / (n + 4.0)) * y - 1.0) * (
            n + 1.0
        ) / (n + 2.0) + 1.0 / y
    return math.sqrt(n * y)


def wilson(successes: float, trials: float, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a rate (Wilson, JASA 22, 1927), inside [0, 1] also for 0 and all successes.

    Trials that are not independent count as fewer, so neither number need be whole.

    Raises:
        ValueError: no trials, or successes outside 0..trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"a rate needs 0 <= successes <= trials, trials >= 1, got {successes} of {trials}")
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # exactly 0 and 1 at the ends, where rounding would leave the rate outside its own interval
    return (max(0.0, centre - half) if successes else 0.0), (min(1.0, centre + half) if successes < trials else 1.0)


def balanced_means(values: np.ndarray) -> np.ndarray:
    """Means of conditions that were not all drawn for the same prompts and seeds, as if they had been.

    Some prompts and seeds suit every condition better than others, so means over different pictures are not
    comparable. Fits ``x[c, k] = mean[c] + effect[k]`` to the pictures there are by least squares (two-way layout with
    empty cells: Searle, *Linear Models*, 1971, chapter 7); the effects have mean 0 over the pictures that any condition
    has. Where none is missing these are the plain means.

    Args:
        values: (C, ...), NaN where there is no picture.

    Returns:
        (C,) means; NaN for a condition without any. Conditions that share no picture with the others, not even by way
        of a third, cannot be compared with them: their level is that of the pictures of their own group.
    """
    values = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    there = np.isfinite(values)
    values = np.where(there, values, 0.0)
    n, shared = there.sum(axis=1), there.sum(axis=0)
    # normal equations without the effects: a weighted graph Laplacian of who shares pictures with whom
    per = np.where(shared > 0, 1.0 / np.maximum(shared, 1), 0.0)
    each = there * per
    matrix = np.diag(n.astype(np.float64)) - each @ there.T
    found = np.linalg.lstsq(matrix, values.sum(axis=1) - each @ values.sum(axis=0), rcond=None)[0]
    effect = (values.sum(axis=0) - found @ there) * per
    of_group = _connected(there) @ there
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n > 0, found + (of_group @ effect) / of_group.sum(axis=1), np.nan)


def _connected(there: np.ndarray) -> np.ndarray:
    """(C, C) whether two rows of (C, K) share a column, be it by way of others."""
    linked = there @ there.T
    # squared, the way doubles in length
    for _ in range(len(there).bit_length()):
        linked = linked @ linked
    return linked


def sign_flip_test(differences: np.ndarray, resamples: int = 1000, seed: int = 0) -> float:
    """Two-sided p that paired differences have mean zero (Fisher's randomisation test).

    Args:
        differences: (P, M) per prompt and seed, or (n,); NaN ignored. Signs flip prompt by prompt
            when there are at least six prompts (seeds of a prompt are not independent), else picture
            by picture. Up to 12 units every sign pattern is tried, which makes p exact.

    Returns:
        p in (0, 1]; NaN without differences.
    """
    differences = np.asarray(differences, dtype=np.float64)
    valid = np.isfinite(differences)
    if differences.ndim == 2 and valid.any(axis=1).sum() >= 6:
        units = np.where(valid, differences, 0.0).sum(axis=1)[valid.any(axis=1)]
    else:
        units = differences[valid]
    count = units.size
    if count == 0:
        return math.nan
    if count <= 12:
        patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        totals = np.abs((2.0 * patterns - 1.0) @ units)
        return float(np.mean(totals >= abs(units.sum()) * (1 - 1e-12) - 1e-300))
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(resamples, count))
    totals = np.abs(signs @ units)
    return float((1 + np.sum(totals >= abs(units.sum()) * (1 - 1e-12))) / (1 + resamples))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the family-wise error (Holm, Scand. J. Stat. 6, 1979); NaN stays."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = [int(i) for i in np.argsort(p, kind="stable") if np.isfinite(p[i])]
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * float(p[index])))
        adjusted[index] = running
    return [float(value) for value in adjusted]


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the last axis, ties averaged; NaN-free input (..., n)."""
    values = np.asarray(values, dtype=np.float64)
    below = (values[..., None, :] < values[..., :, None]).sum(axis=-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(axis=-1)
    return below + (equal + 1) / 2.0


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis; ``x`` (n,) or like ``y`` (..., n).

    Returns:
        Values in [-1, 1], shape ``y.shape[:-1]``; NaN where one side is constant, or has a NaN or n < 3.
    """
    y = np.asarray(y, dtype=np.float64)
    x = np.broadcast_to(np.asarray(x, dtype=np.float64), y.shape)
    if y.shape[-1] < 3:
        return np.full(y.shape[:-1], np.nan)
    rx, ry = ranks(x), ranks(y)
    rx, ry = rx - rx.mean(axis=-1, keepdims=True), ry - ry.mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = (rx * ry).sum(axis=-1) / np.sqrt((rx**2).sum(axis=-1) * (ry**2).sum(axis=-1))
    bad = ~(np.isfinite(x).all(axis=-1) & np.isfinite(y).all(axis=-1))
    return np.where(bad, np.nan, np.clip(rho, -1.0, 1.0))


def theil_sen(x: np.ndarray, y: np.ndarray, level: float = LEVEL) -> tuple[float, float, float]:
    """Median of the pairwise slopes and its interval (Sen, JASA 63, 1968): (slope, low, high).

    The interval inverts Kendall's test, so a third of wild points does not move it. NaN triple below
    three points or when all x are equal.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    kept = np.isfinite(x) & np.isfinite(y)
    x, y = x[kept], y[kept]
    n = x.size
    if n < 3:
        return math.nan, math.nan, math.nan
    i, j = np.triu_indices(n, 1)
    apart = x[i] != x[j]
    if not apart.any():
        return math.nan, math.nan, math.nan
    slopes = np.sort((y[j] - y[i])[apart] / (x[j] - x[i])[apart])
    half = NormalDist().inv_cdf(0.5 + level / 2.0) * math.sqrt(n * (n - 1) * (2 * n + 5) / 18.0)
    lower = int(np.clip(math.floor((slopes.size - half) / 2.0), 0, slopes.size - 1))
    upper = int(np.clip(math.ceil((slopes.size + half) / 2.0), 0, slopes.size - 1))
    return float(np.median(slopes)), float(slopes[lower]), float(slopes[upper])


def robust_z(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Modified z-score (Iglewicz and Hoaglin, 1993): (x - median) / (1.4826 MAD); NaN ignored.

    A spread of zero gives 0 for the median and infinity for everything else.
    """
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = values - np.nanmedian(values, axis=axis, keepdims=True)
        spread = 1.4826 * np.nanmedian(np.abs(off), axis=axis, keepdims=True)
        return np.where(off == 0, 0.0, off / spread)
