"""The state of a loss curve: known kinds with realistic noise, and the words' conditions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.training.curve import STATES, Samples, diagnose
from tests.training.synthetic_curves import KINDS, make_curve

PER_KIND = 20


def state_of(kind: str, seed: int, validated: bool) -> str:
    curve = make_curve(kind, np.random.default_rng([seed, KINDS.index(kind), validated]), validated)
    if not validated:
        return diagnose(curve.step, curve.loss).state
    return diagnose(curve.step, curve.loss, curve.val_loss, val_step=curve.val_step).state


def test_at_least_95_percent_of_260_curves_of_known_kind_are_named_right() -> None:
    """Per-step noise of .3 to .6 of the level; overfit needs validation, the rest are read with and without."""
    wrong: Counter[tuple[str, str, bool]] = Counter()
    total = 0
    for validated in (False, True):
        for kind in KINDS:
            if kind == "overfit" and not validated:
                continue
            for seed in range(PER_KIND):
                found = state_of(kind, seed, validated)
                total += 1
                if found != kind:
                    wrong[kind, found, validated] += 1
    assert total == 260
    assert sum(wrong.values()) <= 0.05 * total, wrong


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "too short"])
def test_no_kind_is_named_right_in_less_than_85_percent(kind: str) -> None:
    assert sum(state_of(kind, 100 + seed, True) == kind for seed in range(PER_KIND)) >= 0.85 * PER_KIND


def quiet(level: np.ndarray, seed: int = 0, noise: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.arange(1, len(level) + 1), 0.1 * level * rng.lognormal(0, noise, len(level))


def u_shape(points: int = 21, minimum: int = 8, rise: float = 0.3) -> np.ndarray:
    i = np.arange(points)
    return 0.1 * np.where(i <= minimum, 1 - 0.4 * i / minimum, 0.6 + rise * (i - minimum) / (points - 1 - minimum))


def falling_train() -> tuple[np.ndarray, np.ndarray]:
    return quiet(1 - 0.5 * np.arange(1000) / 1000)


AT = np.linspace(0, 1000, 21)


def test_converged_says_from_which_step() -> None:
    found = diagnose(*quiet(0.5 + 0.5 * np.exp(-np.arange(2000) / 80), noise=0.3))
    assert found.state == "converged"
    assert found.since_step is not None and 50 <= found.since_step <= 600


def test_the_late_slope_of_a_level_curve_has_an_interval_about_zero() -> None:
    hits = 0
    for seed in range(40):
        found = diagnose(*quiet(0.5 + 0.5 * np.exp(-np.arange(2000) / 80), seed, noise=0.3))
        assert found.slope is not None and found.slope_low is not None and found.slope_high is not None
        hits += found.slope_low <= 0 <= found.slope_high
    assert hits >= 35


def test_still_falling_has_a_slope_surely_below_zero() -> None:
    found = diagnose(*quiet(1 - 0.6 * np.arange(2000) / 2000, noise=0.3))
    assert found.state == "still falling"
    assert found.slope_high is not None and found.slope_high < 0


def test_overfit_when_validation_rises_while_training_falls_and_no_picture_is_there_to_ask() -> None:
    found = diagnose(*falling_train(), u_shape(), val_step=AT)
    assert found.state == "overfit" and found.best_step == 400 and found.since_step == 400
    assert "no pictures" not in found.reason


def test_overfit_needs_the_samples_to_agree() -> None:
    worse = Samples([300, 600, 1000], fidelity=[0.7, 0.7, 0.7], alignment=[0.9, 0.8, 0.5])
    fine = Samples([300, 600, 1000], fidelity=[0.6, 0.7, 0.75], alignment=[0.9, 0.9, 0.88], diversity=[1, 1, 0.97])
    overfit = diagnose(*falling_train(), u_shape(), worse, val_step=AT)
    usable = diagnose(*falling_train(), u_shape(), fine, val_step=AT)
    assert overfit.state == "overfit" and "alignment fell" in overfit.reason
    assert usable.state == "converged" and "still usable" in usable.reason


def test_samples_of_one_checkpoint_cannot_be_asked() -> None:
    found = diagnose(*falling_train(), u_shape(), Samples([300], fidelity=[0.7]), val_step=AT)
    assert found.state == "overfit" and "no pictures of later checkpoints" in found.reason


def test_two_rising_evaluations_are_not_enough() -> None:
    val = 0.1 * np.linspace(1, 0.6, 19)
    found = diagnose(*falling_train(), np.append(val, [0.064, 0.066]), val_step=AT)
    assert found.state != "overfit"


def test_validation_and_training_rising_together_is_divergence() -> None:
    train = quiet(np.concatenate([np.linspace(1, 0.6, 400), np.linspace(0.6, 2.5, 600)]))
    assert diagnose(*train, u_shape(rise=1.5), val_step=AT).state == "diverged"


def test_a_loss_that_is_nan_has_diverged_at_that_step() -> None:
    step, loss = quiet(np.ones(200))
    loss[50], loss[120:] = np.nan, np.nan
    found = diagnose(step, loss)
    assert found.state == "diverged" and found.since_step == 121


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("at", [[0], [200], [200, 201], [40, 200, 398]])
def test_a_loss_that_recovers_from_nan_is_judged_by_the_rest_and_the_gap_is_counted(bad: float, at: list[int]) -> None:
    """A GradScaler skips such a step and the training goes on; bmaltais/kohya_ss#2701, kohya-ss/sd-scripts#293."""
    step, loss = falling_train()
    sound = diagnose(step, loss)
    loss = loss.copy()
    loss[at] = bad
    found = diagnose(step, loss)
    assert found.state == sound.state
    words = (
        f"{len(at)} of {len(loss)} training values were not a number (steps {step[at[0]]:.0f} to {step[at[-1]]:.0f})"
    )
    assert words in found.reason and "recovered" in found.reason and "not a number" not in sound.reason


def test_a_validation_that_is_nan_is_counted_and_one_that_stays_nan_has_diverged() -> None:
    val = 0.1 * (0.6 + 0.4 * np.exp(-AT / 60))
    val[3] = np.nan
    found = diagnose(*falling_train(), val, val_step=AT)
    assert found.state == "converged" and f"1 of {len(AT)} validation values were not a number" in found.reason
    val[-2:] = np.nan
    found = diagnose(*falling_train(), val, val_step=AT)
    assert found.state == "diverged" and found.since_step == AT[-2]


def test_a_row_of_validation_alone_is_no_nan_loss() -> None:
    step, loss = quiet(0.5 + 0.5 * np.exp(-np.arange(600) / 40))
    val = np.full(601, np.nan)
    val[::60] = 0.1 * (0.5 + 0.5 * np.exp(-np.arange(0, 601, 60) / 40))
    found = diagnose(np.append(0, step), np.append(np.nan, loss), val)
    assert found.state == "converged" and found.series == "validation" and found.n == 11


def test_validation_is_preferred_to_the_noisy_training_loss() -> None:
    val = 0.1 * (0.6 + 0.4 * np.exp(-AT / 60))
    found = diagnose(*falling_train(), val, val_step=AT)
    assert found.series == "validation" and found.state == "converged"


def test_four_validations_are_too_few_and_the_training_loss_is_read() -> None:
    found = diagnose(*falling_train(), [0.1, 0.09, 0.08, 0.07], val_step=[0, 300, 600, 900])
    assert found.series == "training"


def test_neighbours_that_alternate_oscillate() -> None:
    level = np.exp(0.5 * (-1.0) ** np.arange(400))
    assert diagnose(*quiet(level, noise=0.2)).state == "oscillating"


def test_growing_noise_oscillates() -> None:
    rng = np.random.default_rng(0)
    loss = 0.1 * np.exp(rng.normal(size=1200) * np.linspace(0.2, 0.9, 1200))
    assert diagnose(np.arange(1200), loss).state == "oscillating"


def test_a_running_average_is_not_accused_of_swinging() -> None:
    step, loss = quiet(0.5 + 0.5 * np.exp(-np.arange(1500) / 100))
    smooth = np.convolve(loss, np.ones(100) / 100, mode="valid")
    assert diagnose(step[99:], smooth, averaged=True).state == "converged"


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="step and loss"):
        diagnose([1, 2], [0.1])
    with pytest.raises(ValueError, match="val_step"):
        diagnose([1, 2], [0.1, 0.1], [0.1], val_step=[1, 2])


@given(st.floats(0.01, 100.0), st.sampled_from(KINDS), st.integers(0, 30))
def test_the_word_does_not_depend_on_the_unit_of_the_loss_or_the_order_of_rows(
    scale: float, kind: str, seed: int
) -> None:
    curve = make_curve(kind, np.random.default_rng([seed, 7]), True)
    one = diagnose(curve.step, curve.loss, curve.val_loss, val_step=curve.val_step)
    order = np.random.default_rng(seed).permutation(len(curve.step))
    other = diagnose(curve.step[order], scale * curve.loss[order], scale * curve.val_loss, val_step=curve.val_step)
    assert one.state == other.state and one.since_step == other.since_step
    assert one.state in STATES and one.reason and "\n" not in one.reason


def test_a_loss_near_its_floor_may_be_noisier_in_proportion() -> None:
    rng = np.random.default_rng(0)
    level = 0.15 + 0.85 * np.exp(-np.arange(1200) / 150)
    loss = level * np.exp(rng.normal(size=1200) * np.where(level > 0.4, 0.2, 0.5))
    assert diagnose(np.arange(1200), loss).state == "converged"
