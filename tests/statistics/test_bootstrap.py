"""Intervals cover what they claim; tests and ranks agree with independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.statistics import bootstrap as s
from lora_eval.statistics.intervals import wilson


def coverage(prompts: int, seeds: int, between: float, within: float, datasets: int = 1500) -> float:
    """Share of 95 % intervals that hold the truth: the mean over prompts like these or, below four, over these."""
    rng = np.random.default_rng([prompts, seeds, int(10 * between)])
    hits = 0
    for part in range(30):
        size = datasets // 30
        effects = between * rng.normal(size=(size, prompts, 1))
        draws = s.resample(effects + within * rng.normal(size=(size, prompts, seeds)), resamples=400, seed=part)
        truth = 0.0 if prompts >= s.CLUSTERS_NEEDED else effects.mean(axis=(1, 2))
        low, high = draws.interval()
        hits += int(((low <= truth) & (truth <= high)).sum())
    return hits / datasets


@pytest.mark.parametrize(
    ("prompts", "seeds", "between"),
    [
        (6, 4, 0.0),
        (6, 4, 0.5),
        (6, 4, 2.0),
        (4, 4, 0.5),
        (8, 8, 0.5),
        (12, 4, 0.5),
        (3, 4, 0.5),
        (2, 4, 0.5),
        (1, 5, 0.0),
    ],
)
def test_95_percent_intervals_hold_the_truth_in_92_to_98_percent(prompts: int, seeds: int, between: float) -> None:
    assert 0.92 <= coverage(prompts, seeds, between, 1.0) <= 0.98


@pytest.mark.parametrize(
    ("prompts", "seeds", "of_seeds"), [(8, 4, 0.3), (8, 4, 1.0), (6, 4, 0.5), (8, 8, 1.0), (12, 4, 0.5), (3, 4, 0.5)]
)
def test_intervals_hold_the_truth_where_a_seed_suits_every_prompt(prompts: int, seeds: int, of_seeds: float) -> None:
    """All prompts share the same seeds: what a seed does to one of them it does to all."""
    rng = np.random.default_rng([prompts, seeds, int(10 * of_seeds)])
    between = 0.5 if prompts >= s.CLUSTERS_NEEDED else 0.0
    hits = blind = 0
    for part in range(20):
        common = of_seeds * rng.normal(size=(75, 1, seeds))
        data = between * rng.normal(size=(75, prompts, 1)) + common + rng.normal(size=(75, prompts, seeds))
        low, high = s.resample(data, resamples=400, seed=part).interval()
        hits += int(((low <= 0) & (high >= 0)).sum())
        # the same numbers with every prompt's seeds put in an order of their own: no resampling can see the seeds
        low, high = s.resample(rng.permuted(data, axis=2), resamples=400, seed=part).interval()
        blind += int(((low <= 0) & (high >= 0)).sum())
    assert 0.92 <= hits / 1500 <= 0.98
    assert blind < hits


def test_what_seeds_add_is_paired_between_sets_of_prompts_and_nothing_where_they_agree() -> None:
    common = np.array([0.0, 3.0, -1.0, 5.0])
    for prompts in (5, 7):
        flat = np.broadcast_to(common, (1, prompts, 4)).copy()
        first = s._seed_deviations(flat, np.ones_like(flat), 200, 3)
        again = s._seed_deviations(2 * flat, np.ones_like(flat), 200, 3)
        assert np.allclose(again, 2 * first)
        # a pure seed effect is resampled whole: the bootstrap of the four numbers, stretched for four of them
        spread = common.std() / 2 * s._stretch(4, 3)
        assert first.std() == pytest.approx(spread, rel=0.15)
    apart = np.arange(5.0)[:, None] + np.zeros((5, 4))
    assert not s._seed_deviations(apart[None], np.ones((1, 5, 4)), 50, 0).any()


@given(st.integers(4, 8), st.integers(2, 5), st.integers(0, 9))
def test_missing_pictures_leave_the_estimate_the_mean_of_what_is_there(prompts: int, seeds: int, case: int) -> None:
    rng = np.random.default_rng(case)
    values = np.where(rng.random((prompts, seeds)) < 0.3, np.nan, rng.normal(size=(prompts, seeds)))
    draws = s.resample(values, 50)
    assert np.isnan(draws.estimate) if np.isnan(values).all() else draws.estimate == pytest.approx(np.nanmean(values))
    assert draws.n == np.isfinite(values).sum()


def test_a_plain_percentile_bootstrap_of_six_prompts_would_be_too_narrow() -> None:
    """Why the deviations are stretched: the unstretched interval holds the truth too seldom."""
    rng = np.random.default_rng(5)
    data = rng.normal(size=(1500, 6, 1)) + 0.5 * rng.normal(size=(1500, 6, 4))
    draws = s.resample(data, resamples=400)
    stretch = s._stretch(6, 5)
    low, high = draws.interval()
    plain_low = draws.estimate + (low - draws.estimate) / stretch
    plain_high = draws.estimate + (high - draws.estimate) / stretch
    assert np.mean((plain_low <= 0) & (plain_high >= 0)) < 0.90


def test_ratio_intervals_hold_the_truth() -> None:
    """Relative fidelity is a ratio of two means over the same pictures."""
    rng = np.random.default_rng(2)
    hits = total = 0
    for part in range(20):
        base = 0.5 + 0.03 * rng.normal(size=(50, 6, 1)) + 0.03 * rng.normal(size=(50, 6, 4))
        here = base + 0.2 + 0.03 * rng.normal(size=(50, 6, 1)) + 0.03 * rng.normal(size=(50, 6, 4))
        ratio = s.resample(here, 400, part).map(lambda w, zero: (w - zero) / (0.9 - zero), s.resample(base, 400, part))
        low, high = ratio.interval()
        hits += int(((low <= 0.5) & (high >= 0.5)).sum())
        total += 50
    assert 0.92 <= hits / total <= 0.98


def test_the_estimate_is_the_mean_over_all_pictures_and_missing_ones_do_not_count() -> None:
    values = np.array([[1.0, 2.0, np.nan], [4.0, 5.0, 6.0]])
    draws = s.resample(values, 10)
    assert draws.estimate == pytest.approx(18 / 5)
    assert draws.n == 5


def test_bootstrap_spread_matches_an_independent_loop() -> None:
    """Cluster bootstrap written as a loop over resampled prompts gives the same standard deviation."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(7, 5))
    draws = s.resample(values, 20_000)
    loop = [values[rng.integers(0, 7, size=7)].mean() for _ in range(20_000)]
    assert draws.samples.std() / s._stretch(7, 6) == pytest.approx(np.std(loop), rel=0.03)


def test_one_seed_of_few_prompts_has_no_interval() -> None:
    draws = s.resample(np.array([[0.3], [0.4]]), 50)
    low, high = draws.interval()
    assert draws.estimate == pytest.approx(0.35)
    assert np.isnan(low) and np.isnan(high)
    assert draws.scope == "none"


def test_nothing_measured_is_nan_and_not_zero() -> None:
    draws = s.resample(np.full((3, 4), np.nan), 10)
    assert np.isnan(draws.estimate) and draws.n == 0


def test_few_prompts_give_an_interval_about_these_prompts_only() -> None:
    far_apart = np.array([[0.0, 0.1, 0.05, 0.02], [10.0, 10.1, 10.05, 10.02]])
    low, high = s.resample(far_apart).interval()
    assert high - low < 0.2
    assert s.resample(far_apart).scope == "seeds"


def test_same_seed_gives_paired_draws() -> None:
    """The difference of two conditions that move together has a narrow interval."""
    rng = np.random.default_rng(1)
    first = rng.normal(size=(6, 4))
    both = s.resample(np.stack([first, first + 0.1]), 200)
    off = both.samples[:, 1] - both.samples[:, 0]
    assert np.allclose(off, 0.1)


def test_resample_refuses_shapes_and_counts_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="prompts, seeds"):
        s.resample(np.zeros(4))
    with pytest.raises(ValueError, match="resamples"):
        s.resample(np.zeros((2, 2)), resamples=0)


def test_shares_of_independent_pictures_have_wilsons_interval() -> None:
    """Every prompt and every seed holds as many hits: nothing says that pictures of one of them agree."""
    hits = np.array([[1.0, 0.0], [0.0, 1.0]] * 3)
    low, high = s.resample(hits, 400).share_interval()
    assert (float(low), float(high)) == pytest.approx(wilson(6, 12))
    low, high = s.resample(np.ones((8, 4)), 400).share_interval()
    assert (float(low), float(high)) == pytest.approx(wilson(32, 32))


def test_shares_that_prompts_agree_on_count_as_fewer_pictures() -> None:
    whole = np.repeat([[1.0], [0.0]], 4, axis=0) * np.ones(4)
    low, high = s.resample(whole, 4000).share_interval()
    # eight prompts of all or nothing are eight trials, less what their number costs
    few, many = wilson(4, 8), wilson(16, 32)
    assert low < few[0] + 0.02 < many[0] and high > few[1] - 0.02 > many[1]


def test_share_intervals_hold_the_truth_where_prompts_differ() -> None:
    rng = np.random.default_rng(3)
    hits = total = 0
    for part in range(20):
        rates = rng.beta(2.0, 6.0, size=(50, 8, 1))
        draws = s.resample((rng.random((50, 8, 4)) < rates).astype(float), resamples=400, seed=part)
        low, high = draws.share_interval()
        hits += int(((low <= 0.25) & (high >= 0.25)).sum())
        total += 50
    assert 0.92 <= hits / total <= 0.985


def test_draws_of_what_is_always_positive_stay_so_and_small_ones_hardly_change() -> None:
    rng = np.random.default_rng(4)
    skewed = np.exp(2.0 * rng.normal(size=(3, 8, 4)))
    plain = s.resample(skewed, 500)
    found = plain.positive()
    assert (plain.samples < 0).any() and (found.samples > 0).all()
    assert np.array_equal(found.estimate, plain.estimate)
    steady = s.resample(1.0 + 0.01 * rng.normal(size=(8, 4)), 500)
    assert np.allclose(steady.positive().samples, steady.samples, atol=2e-3)


def with_dummies(values: np.ndarray) -> np.ndarray:
    """Balanced means by an ordinary least squares fit with a column for every condition and every picture."""
    conditions, pictures = values.shape
    rows = [(c, k) for c in range(conditions) for k in range(pictures) if np.isfinite(values[c, k])]
    seen = sorted({k for _, k in rows})
    design = np.zeros((len(rows), conditions + len(seen)))
    for row, (c, k) in enumerate(rows):
        design[row, c] = design[row, conditions + seen.index(k)] = 1.0
    fit = np.linalg.lstsq(design, np.array([values[at] for at in rows]), rcond=None)[0]
    return fit[:conditions] + fit[conditions:].mean()


@given(st.integers(2, 5), st.integers(3, 12), st.integers(0, 99))
def test_balanced_means_are_those_of_a_least_squares_fit(conditions: int, pictures: int, case: int) -> None:
    rng = np.random.default_rng(case)
    values = rng.normal(size=(conditions, pictures))
    assert s.balanced_means(values) == pytest.approx(values.mean(axis=1))
    values[rng.random(values.shape) < 0.4] = np.nan
    values[:, 0] = rng.normal(size=conditions)  # one picture that all have
    assert s.balanced_means(values) == pytest.approx(with_dummies(values))


def test_pictures_that_suit_all_conditions_do_not_count_for_those_that_have_them() -> None:
    """The second has only the easy half; it is worse on every picture that both have."""
    easy = np.array([[0.9, 0.8, 0.1, 0.0]])
    values = np.concatenate([easy, easy - 0.05, np.full((1, 4), np.nan)])[:, None]
    values[1, 0, 2:] = np.nan
    first, second, none = s.balanced_means(values)
    assert np.nanmean(values[1]) > np.nanmean(values[0])
    assert (first, second) == pytest.approx((0.45, 0.40)) and np.isnan(none)


def test_conditions_that_share_no_picture_keep_the_level_of_their_own() -> None:
    one = np.array([0.9, 0.8, np.nan, np.nan, np.nan])
    values = np.array([one, [np.nan, 0.6, 0.4, np.nan, np.nan], [np.nan, np.nan, np.nan, 0.1, 0.3]])
    first, second, other = s.balanced_means(values)
    # 0.2 apart on the one picture that both have; apart from the third there is nothing to compare
    assert first - second == pytest.approx(0.2) and other == pytest.approx(0.2)
    assert s.balanced_means(values[:2]) == pytest.approx([first, second])
    alone = s.balanced_means(np.stack([one, values[2]]))
    assert alone == pytest.approx([0.85, 0.2])
