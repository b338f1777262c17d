"""A knob rises evenly, a switch does not; distortion is what leaves the spread of weight 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.scorecard.dimensions.strength import formulas as metric

WEIGHTS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


def test_monotony_of_a_knob_is_one_and_of_its_reverse_minus_one() -> None:
    rising = np.array([0.0, 0.1, 0.4, 0.5, 0.9])
    assert metric.monotony(WEIGHTS, np.stack([rising, -rising])) == pytest.approx([1.0, -1.0])
    with pytest.raises(ValueError, match="3 ascending weights"):
        metric.monotony(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="ascending"):
        metric.monotony(np.array([0.0, 1.0, 0.5]), np.zeros(3))


def test_csm_is_0_for_an_even_response_and_greatest_for_a_switch() -> None:
    assert metric.csm(WEIGHTS, 3 * WEIGHTS + 7) == pytest.approx(0.0)
    switch = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    assert metric.csm(WEIGHTS, switch) == pytest.approx(metric.switch_csm(4))
    assert metric.csm(WEIGHTS, switch) == pytest.approx(np.std([0, 1, 0, 0]))
    assert math.isnan(metric.csm(WEIGHTS, np.ones(5)))


def test_csm_does_not_punish_uneven_grids() -> None:
    weights = np.array([0.0, 0.1, 0.5, 0.6, 1.2])
    assert metric.csm(weights, 2 * weights) == pytest.approx(0.0)


@given(st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_csm_does_not_depend_on_offset_and_scale(response: list[float]) -> None:
    values = np.round(np.array(response), 3)
    one, other = metric.csm(WEIGHTS, values), metric.csm(WEIGHTS, 10 * values - 3)
    assert (math.isnan(one) and math.isnan(other)) or one == pytest.approx(other, abs=1e-9)


def test_knee_is_where_more_weight_buys_little() -> None:
    weights = np.linspace(0, 1, 11)
    assert metric.knee(weights, np.minimum(weights / 0.4, 1.0) + 0.01 * weights) == pytest.approx(0.4)
    assert math.isnan(metric.knee(weights, weights**2))


def test_base_spread_recovers_the_spread_of_seeds_from_four_per_prompt() -> None:
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(40, 1, 2))
    centre, spread = metric.base_spread(centres + np.array([1.0, 3.0]) * rng.normal(size=(40, 4, 2)))
    assert spread == pytest.approx([1.0, 3.0], rel=0.25)
    assert centre == pytest.approx(centres[:, 0], abs=4.0)


def test_departure_is_zero_inside_what_the_references_show() -> None:
    centre, spread = np.zeros((1, 2)), np.ones(2)
    value = np.array([[4.0, 4.0]])
    assert metric.departure(value, centre, spread) == pytest.approx(np.array([[4.0, 4.0]]))
    allowed = np.array([[-1.0, -1.0], [5.0, 1.0]])
    assert metric.departure(value, centre, spread, allowed) == pytest.approx(np.array([[0.0, 3.0]]))
    assert metric.departure(-value, centre, spread, allowed) == pytest.approx(np.array([[-3.0, -3.0]]))


def test_votes_count_statistics_that_left() -> None:
    assert metric.votes(np.array([[4.0, -5.0, 1.0], [0.0, 0.0, np.nan]])).tolist() == [2, 0]


def test_onset_needs_two_neighbours_in_a_row_or_a_strong_last() -> None:
    weights = np.array([0.4, 0.8, 1.0, 1.2])
    assert metric.onset(weights, [False, True, False, False]) != metric.onset(weights, [False, True, True, False])
    assert math.isnan(metric.onset(weights, [False, True, False, False]))
    assert metric.onset(weights, [False, True, True, True]) == 0.8
    assert math.isnan(metric.onset(weights, [False, False, False, True]))
    assert metric.onset(weights, [False, False, False, True], [False, False, False, True]) == 1.2


def test_usable_is_eighty_percent_of_the_best_sound_gain_in_one_run() -> None:
    weights = np.array([0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
    gain = np.array([0.1, 0.5, 0.85, 1.0, 0.95, 1.5])
    fine = np.array([True, True, True, True, True, False])
    assert weights[metric.usable(weights, gain, fine)].tolist() == [0.6, 0.8, 1.0]
    assert not metric.usable(weights, -gain, fine).any()
    assert not metric.usable(weights, gain, ~np.ones(6, dtype=bool)).any()


def test_the_middle_of_an_even_number_of_weights_is_the_lower_one() -> None:
    weights = np.array([0.2, 0.4, 0.6, 0.8])
    assert metric.middle(weights, np.array([False, True, True, False])) == 0.4
    assert metric.middle(weights, np.array([False, True, True, True])) == 0.6
    assert math.isnan(metric.middle(weights, np.zeros(4, dtype=bool)))


def test_half_weight_is_where_half_of_the_best_response_is_reached() -> None:
    weights = np.array([0.0, 0.5, 1.0])
    curves = np.array([[0.0, 1.0, 2.0], [0.0, 2.0, 2.0], [0.0, 0.0, 4.0], [0.0, 3.0, 1.0]])
    assert metric.half_weight(weights, curves) == pytest.approx([0.5, 0.25, 0.75, 0.25])
    assert np.isnan(metric.half_weight(weights, np.array([0.0, -1.0, -2.0])))


@given(st.floats(1.1, 5.0))
def test_a_scaled_lora_reaches_half_at_a_scaled_weight(factor: float) -> None:
    weights = np.linspace(0.0, 1.0, 21)
    once, more = np.minimum(weights, 1.0), np.minimum(factor * weights, 1.0)
    assert metric.half_weight(weights, more) == pytest.approx(metric.half_weight(weights, once) / factor, abs=0.03)
