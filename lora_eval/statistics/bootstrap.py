"""Bootstrap intervals for means over pictures that come in groups: several seeds of several prompts.

Seeds of one prompt resemble one another, so pictures are not independent and the usual standard error is too small. The
unit of resampling is therefore the prompt (cluster bootstrap: Davison and Hinkley, *Bootstrap Methods*, 1997, section
3.8; Field and Welsh, JRSS-B 69, 2007). A suite has few prompts, and the plain percentile bootstrap of k clusters is too
narrow by about ``sqrt((k - 1) / k)`` and uses a normal where a t quantile belongs (Hesterberg, Am. Stat. 69, 2015,
"narrowness bias"). Every resampled deviation is stretched by exactly that much; ``coverage`` in the tests measures the
result.

- Four prompts or more: prompts are resampled whole, with ``k - 1`` degrees of freedom. Resampling the seeds again
  inside a drawn prompt would count the noise of seeds twice.
- Fewer: the prompts stay as they are, and seeds are resampled inside each, with ``n - k`` degrees of freedom; the
  interval then holds for these prompts only.
- One seed of fewer than four prompts: there is no interval.

A scorecard draws every prompt with the same seeds, and a seed that suits one prompt often suits the others: prompts are
then not independent either, and resampling prompts alone misses that. Pictures are crossed by prompt and seed; the
plain bootstrap of both (Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 1, 2007) counts the noise of single pictures
three times. So the seeds' own effects are resampled beside the prompts, shrunk to the part of their variance that
exceeds that noise (method of moments: ``1 - MS_residual / MS_seed``, 0 where negative; Searle, Casella and McCulloch,
*Variance Components*, 1992, chapter 4), with ``s - 1`` degrees of freedom. Two seeds have one degree, whose quantile
(12.7) would make every interval useless: they use the quantile of two degrees, which is too small where seeds matter
much. Where every prompt has seeds of its own, the term is 0 but for chance.

Resampling is one matrix product. The same seed gives the same resamples, so that differences between two conditions are
paired draw by draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lora_eval.statistics.intervals import LEVEL, t_quantile, wilson

CLUSTERS_NEEDED = 4


@dataclass(frozen=True)
class Draws:
    """An estimate with its bootstrap draws, already stretched for the small sample.

    Attributes:
        estimate: shape S, the statistic on the data themselves; NaN where nothing was measured.
        samples: shape (resamples, *S); NaN throughout where no interval can be given.
        n: shape S, number of pictures behind each estimate.
        scope: what the interval holds for: ``prompts`` (prompts like these), ``seeds`` (these prompts only), or
            ``none``.
    """

    estimate: np.ndarray
    samples: np.ndarray
    n: np.ndarray
    scope: str

    def interval(
        self, level: float = LEVEL, low: float = -np.inf, high: float = np.inf
    ) -> tuple[np.ndarray, np.ndarray]:
        """Percentile interval of the draws.

        Args:
            level: of confidence.
            low, high: range of the statistic, to which the interval is clipped.

        Returns:
            Lower and upper ends, shape S each; NaN where a draw is NaN.
        """
        tail = 50.0 * (1.0 - level)
        if self.samples.shape[0] == 0:
            missing = np.full(self.estimate.shape, np.nan)
            return missing, missing.copy()
        # one sort instead of nanpercentile's per-slice Python loop; a column with a NaN has no interval
        ordered = np.sort(self.samples, axis=0)
        edges = np.percentile(ordered, [tail, 100.0 - tail], axis=0)
        return np.clip(edges[0], low, high), np.clip(edges[1], low, high)

    def share_interval(self, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        """Interval of a share of pictures: Wilson's, with an effective number of trials.

        The error of a share near 0 or 1 is not symmetric, and where all pictures agree the draws do not vary. So the
        draws only determine the number of trials: as many as independent pictures would need for the same spread
        (design effect; Korn and Graubard, Surv. Methodol. 24, 1998), at most the number of pictures.

        Args:
            level: of confidence.

        Returns:
            Lower and upper ends in [0, 1], shape S each; NaN where there is no picture.
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
        """Draws of a statistic that is always above 0, such as a variance, with deviations on a logarithmic scale.

        A variance of few pictures is skewed, and symmetric deviations reach below 0; those of its logarithm are closer
        to symmetric (delta method: d log x = dx / x).
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            off = (self.samples - self.estimate) / self.estimate
        samples = np.where(self.estimate > 0, self.estimate * np.exp(np.clip(off, -50.0, 50.0)), self.samples)
        return Draws(self.estimate, samples, self.n, self.scope)

    def map(self, function: Callable[..., np.ndarray], *others: Draws) -> Draws:
        """The same function of the estimates and of the draws.

        Args:
            function: of this value and those of ``others``, element by element.
            others: draws with the same number of resamples; those made with the same seed are paired.

        Returns:
            Draws; results that are not finite become NaN. ``n`` is the largest, ``scope`` the narrowest of all.
        """
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
        values: (..., P, M): P prompts with up to M seeds each; NaN where there is no picture. The m-th seed of one
            prompt need not be that of another.
        resamples: number of draws.
        seed: the same seed, P and M give the same resamples: use one seed for values that are paired, and different
            seeds for unrelated sets of pictures.

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
    """Deviations of the mean that come from effects which seeds have on all prompts alike.

    Args:
        flat, mask: (N, P, M) values, 0 where ``mask`` is 0.
        resamples: number of draws.
        seed: the same for all prompts of a run, so that the same seeds are drawn for each set of prompts.

    Returns:
        (resamples, N), 0 where there is no such effect.
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
    """Factor for deviations of the percentile bootstrap (see the module); NaN where no spread can be estimated.

    Args:
        size: number of units that are resampled; freedom: degrees of freedom.
    """
    if size < 2 or freedom < 1:
        return math.nan
    return math.sqrt(size / (size - 1)) * t_quantile(0.975, freedom) / NormalDist().inv_cdf(0.975)


def balanced_means(values: np.ndarray) -> np.ndarray:
    """Means of conditions adjusted for which prompts and seeds each was drawn with.

    Some prompts and seeds suit every condition better than others, so means over different pictures are not
    comparable. Fits ``x[c, k] = mean[c] + effect[k]`` to the existing pictures by least squares (two-way layout with
    empty cells: Searle, *Linear Models*, 1971, chapter 7); the effects have mean 0 over the pictures that any condition
    has. Where no picture is missing the result is the plain means.

    Args:
        values: (C, ...), NaN where there is no picture.

    Returns:
        (C,) means; NaN for a condition without pictures. Conditions that share no picture with the others, not even
        through a third one, cannot be compared with them: their level is that of the pictures of their own group.
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
    """(C, K) bool -> (C, C) whether two rows share a column, directly or through other rows."""
    linked = there @ there.T
    # squared, the way doubles in length
    for _ in range(len(there).bit_length()):
        linked = linked @ linked
    return linked
