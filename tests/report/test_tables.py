"""The CSV files: the same bytes for the same numbers, and nothing a spreadsheet would run."""

from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.scorecard.data import Measure
from lora_eval.scorecard.tables import cell_text, read_text, safe_text, to_csv, write_cells, write_summary

FORMULAS = ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", '=HYPERLINK("http://x","y")', "＝1+1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text(text):
    assert safe_text(text) == "'" + text
    assert not safe_text(text).startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@pytest.mark.parametrize("text", ["a cat", "a = b", "1-2", "", "it's", "'quoted'", "<b>"])
def test_harmless_text_stays_as_it_is(text):
    assert safe_text(text) == text


@given(st.text(alphabet=st.characters(blacklist_characters="\0", blacklist_categories=("Cs",))))
def test_any_text_reads_back(text):
    assert read_text(safe_text(text)) == text


@given(
    st.lists(
        st.lists(
            st.text(alphabet=st.characters(blacklist_characters="\0", blacklist_categories=("Cs",))),
            min_size=2,
            max_size=2,
        )
    )
)
def test_any_table_of_text_reads_back_through_csv_with_no_formula_in_it(rows):
    made = to_csv(["a", "b"], rows)
    read = list(csv.reader(io.StringIO(made, newline="")))
    assert [[read_text(cell) for cell in row] for row in read[1:]] == rows
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in read for cell in row)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (float("inf"), ""),
        (np.nan, ""),
        (pd.NA, ""),
        (0.0, "0"),
        (-0.0, "0"),
        (0.1 + 0.2, "0.3"),
        (1 / 3, "0.333333"),
        (np.float32(0.1), "0.1"),
        (1e-9, "1e-09"),
        (-0.25, "-0.25"),
        (7, "7"),
        (np.int64(7), "7"),
        (True, "true"),
        (np.bool_(False), "false"),
        ("=x", "'=x"),
    ],
)
def test_values_have_one_form(value, text):
    assert cell_text(value) == text


def test_a_negative_number_is_a_number_and_not_a_formula():
    assert to_csv(["x"], [[-0.5]]) == "x\n-0.5\n"


def test_column_names_are_made_safe_too():
    assert to_csv(["=cmd"], []) == "'=cmd\n"


def test_cells_keep_whole_numbers_whole_beside_missing_ones(tmp_path):
    cells = pd.DataFrame({"checkpoint": ["", "a"], "step": [None, 100], "seed": [1, 2], "prompt": ["=a", "b, c"]})
    metrics = pd.DataFrame({"clip_i": [np.nan, 0.5], "copy": np.array([None, True], dtype=object)}, index=[5, 6])
    write_cells(tmp_path / "cells.csv", cells, metrics)
    assert (tmp_path / "cells.csv").read_bytes() == (
        b'checkpoint,step,seed,prompt,clip_i,copy\n,,1,\'=a,,\na,100,2,"b, c",0.5,true\n'
    )


def test_summary_has_a_column_for_each_field_and_empty_for_not_measured(tmp_path):
    rows = [
        Measure("a", 100, 0.5, "fidelity", "score", 0.25, 0.125, 0.5, 8, 0.0, 1.0, 0.25, ""),
        Measure("a", None, None, "curve", "state", None, verdict="not measured: no history"),
    ]
    write_summary(tmp_path / "summary.csv", rows)
    assert (tmp_path / "summary.csv").read_text(encoding="utf-8").splitlines() == [
        "checkpoint,step,weight,dimension,measure,value,ci_low,ci_high,n,baseline,ceiling,score,verdict",
        "a,100,0.5,fidelity,score,0.25,0.125,0.5,8,0,1,0.25,",
        "a,,,curve,state,,,,0,,,,not measured: no history",
    ]
