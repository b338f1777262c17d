"""Ranges: the X/Y/Z plot's syntax in exact decimals."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.errors import ConfigError
from lora_eval.scorecard.plan.ranges import MAX_VALUES, format_number, parse_int_range, parse_range


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1-5", [1, 2, 3, 4, 5]),
        ("0-1(+0.2)", [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("0-1 (+0.2)", [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("0-1 [6]", [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("0-1.2 [7]", [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2]),
        ("0.4, 0.6, 0.9", [0.4, 0.6, 0.9]),
        ("0.7", [0.7]),
        ("-0.5", [-0.5]),
        ("-1-1", [-1, 0, 1]),
        ("-3--1", [-3, -2, -1]),
        ("10-5(-3)", [10, 7]),
        ("5-3", [5, 4, 3]),
        ("0-1(+0.3)", [0, 0.3, 0.6, 0.9]),
        ("0-1 [4]", [0, 0.3333, 0.6667, 1]),
        ("0-0.3(+0.1), 1, 2-3", [0, 0.1, 0.2, 0.3, 1, 2, 3]),
        ("0.5, 0.50, 1", [0.5, 1]),
        (".5-1.5", [0.5, 1.5]),
        ("2-9 [1]", [2]),
    ],
)
def test_syntax(text, values):
    assert parse_range(text) == values


@pytest.mark.parametrize(
    "text", ["", "  ", "a", "1,,2", "1-5(-1)", "1-5(+0)", "0-1 [0]", "nan", "1e3", "0-99999", "1-2-3"]
)
def test_an_error_is_one_line_with_an_example_or_the_mend(text):
    with pytest.raises(ConfigError) as error:
        parse_range(text, "weights")
    line = str(error.value)
    assert "\n" not in line and "weights" in line
    assert "for example" in line or "larger step" in line or "at least" in line


@given(st.integers(-50, 50), st.integers(1, 40), st.integers(1, 30))
def test_stepped_values_are_the_exact_decimals(start, step, count):
    first, gap = Decimal(start) / 10, Decimal(step) / 100
    last = first + gap * count
    expected = [float(first + gap * k) for k in range(count + 1)]
    assert parse_range(f"{first}-{last}(+{gap})") == expected


@given(st.integers(2, 50), st.integers(0, 30), st.integers(31, 90))
def test_a_count_gives_so_many_evenly_spaced_numbers_and_both_ends(count, start, end):
    values = parse_range(f"{start}-{end} [{count}]")
    assert len(values) == count and values[0] == start and values[-1] == end
    gaps = [b - a for a, b in pairwise(values)]
    assert max(gaps) - min(gaps) < 2.1e-4


@given(st.floats(-10, 10).map(lambda x: round(x, 4)))
def test_a_formatted_number_reads_back_as_itself(value):
    assert parse_range(format_number(value)) == [value]


def test_formatted_numbers_are_short():
    assert [format_number(x) for x in (0.0, -0.0, 1.0, 0.30, 1e-5, -0.25)] == ["0", "0", "1", "0.3", "0.00001", "-0.25"]


def test_whole_numbers_are_asked_for():
    assert parse_int_range("1-3") == [1, 2, 3]
    with pytest.raises(ConfigError, match=r"holds 0\.5"):
        parse_int_range("0.5", "seeds")


def test_no_more_than_a_thousand_numbers():
    assert len(parse_range(f"1-{MAX_VALUES}")) == MAX_VALUES
    with pytest.raises(ConfigError, match="more than 1000"):
        parse_range(f"1-{MAX_VALUES}, 2000")
