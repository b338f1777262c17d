"""Rows that a dimension adds, and looking them up again."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from lora_eval.scorecard.data import Measurement
from lora_eval.scorecard.dimensions.context import Context, Estimate, Series, number
from lora_eval.scorecard.dimensions.place import Place, SummaryIndex, below, interval_text, upper_end
from lora_eval.scorecard.grid import grid_of
from lora_eval.statistics.bootstrap import resample
from lora_eval.statistics.intervals import wilson
from tests.scorecard.synthetic_run import make_run


@pytest.fixture()
def context() -> Context:
    run = make_run("good", weights=(0.0, 0.5, 1.0))
    return Context(run, grid_of(run), 100, 0)


def index_of(context: Context) -> SummaryIndex:
    return SummaryIndex(Measurement(pd.DataFrame(), context.summary, {"beauty": {"kept": 1}}))


def test_a_row_has_rounded_numbers_and_none_for_what_is_not_finite(context: Context) -> None:
    where = context.grid.conditions[0]
    found = Estimate(1 / 3, (math.nan, math.inf), 7, baseline=-0.0000000001, score=None, verdict="word")
    context.add(where, "beauty", "charm", found)
    (row,) = context.summary
    assert (row.checkpoint, row.step, row.weight) == ("zorp-300", 300, 0.5)
    assert (row.value, row.ci_low, row.ci_high, row.n, row.verdict) == (0.333333, None, None, 7, "word")
    # no minus zero, which would be another byte in the table
    assert row.baseline == 0.0 and math.copysign(1.0, row.baseline) == 1.0
    assert number(None) is None and number(math.nan) is None


def test_a_series_is_a_row_for_each_condition(context: Context) -> None:
    draws = resample(np.array([np.full((8, 4), 0.2), np.full((8, 4), 0.9)]), 50)
    series = Series(draws, np.array([0.1, 0.3]), 1.0, draws.estimate, ["a", "b"], bounds=(0.0, 1.0))
    context.add_series("beauty", "charm", series)
    assert [(m.weight, m.value, m.baseline, m.ceiling, m.score, m.verdict) for m in context.summary] == [
        (0.5, 0.2, 0.1, 1.0, 0.2, "a"),
        (1.0, 0.9, 0.3, 1.0, 0.9, "b"),
    ]


def test_intervals_of_shares_that_agree_are_no_points() -> None:
    draws = resample(np.ones((2, 8, 4)), 50)
    low, high = Series(draws, bounds=(0.0, 1.0)).ends()
    assert (low == high).all()
    for kind in ("widened", "wilson"):
        low, high = Series(draws, bounds=(0.0, 1.0), interval=kind).ends()  # type: ignore[arg-type]
        assert low == pytest.approx(wilson(32, 32)[0]) and (high == 1.0).all()


def test_what_was_not_measured_says_why_at_every_condition(context: Context) -> None:
    context.not_measured("beauty", "charm", "no mirror; add one")
    assert [m.verdict for m in context.summary] == ["not measured: no mirror; add one"] * 2
    place = Place(context.grid.conditions[0], index_of(context))
    assert place.rows_of("beauty")("charm") is None
    row = place.index.row(place.where, "beauty", "charm")
    assert row is not None and row.value is None


def test_a_number_of_the_checkpoint_is_found_at_each_of_its_weights(context: Context) -> None:
    here, there = context.grid.conditions
    context.add(here, "beauty", "charm", Estimate(0.5), whole_checkpoint=True)
    context.add(there, "beauty", "grace", Estimate(0.25, (0.1, 0.4)))
    index = index_of(context)
    for where in (here, there):
        row = Place(where, index).rows_of("beauty")("charm")
        assert row is not None and row.weight is None and row.value == 0.5
    assert Place(here, index).rows_of("beauty")("grace") is None
    assert index.largest_weight("zorp-300") == there and index.largest_weight("fox") is None
    assert [m.measure for m in index.of("zorp-300", "beauty")] == ["charm", "grace"]
    assert Place(here, index).evidence("beauty") == {"kept": 1} and Place(here, index).evidence("wit") == {}


def test_a_row_is_below_a_limit_with_its_whole_interval(context: Context) -> None:
    where = context.grid.conditions[0]
    for found in (Estimate(0.25, (0.1, 0.4)), Estimate(0.25)):
        context.add(where, "beauty", "grace", found)
    with_interval, without = context.summary
    assert (upper_end(with_interval), upper_end(without)) == (0.4, 0.25)
    assert below(with_interval, 0.41) and not below(with_interval, 0.39)
    assert below(without, 0.26) and not below(None, 1.0)
    assert interval_text(with_interval) == "0.25 (0.10 to 0.40)" and interval_text(without, 3) == "0.250"
