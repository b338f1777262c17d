"""The registry of dimensions: order of measuring, unique ranks, results and checks of a run without any number."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from lora_eval.scorecard.data import Measure, Measurement
from lora_eval.scorecard.dimensions import fidelity, strength
from lora_eval.scorecard.dimensions.measure import measure
from lora_eval.scorecard.dimensions.place import Place, SummaryIndex
from lora_eval.scorecard.dimensions.registry import CHECKS, DIMENSIONS, NAMES, measuring_order, spec_of
from lora_eval.scorecard.dimensions.spec import Advised, AnySpec
from lora_eval.scorecard.grid import Condition
from tests.scorecard.synthetic_run import make_run

ROOT = Path(__file__).resolve().parents[3]
EMPTY = Measurement(pd.DataFrame(), [])
NOWHERE = Place(Condition("zorp-300", 300, 1.0), SummaryIndex(EMPTY))


def test_each_dimension_is_measured_after_those_it_names() -> None:
    order = [spec.name for spec in measuring_order()]
    assert sorted(order) == sorted(NAMES)
    for spec in DIMENSIONS:
        assert all(order.index(name) < order.index(spec.name) for name in spec.after)


def test_rows_of_the_summary_are_in_the_order_of_measuring() -> None:
    found = measure(make_run("good", weights=(0.0, 0.5, 1.0)), 20)
    # copies and what they are made from are found before everything else
    names = list(dict.fromkeys(m.dimension for m in found.summary if m.measure != "copies"))
    assert names == [spec.name for spec in measuring_order()]


@pytest.mark.parametrize("after", [("strength",), ("no such dimension",)])
def test_dimensions_that_cannot_be_ordered_are_an_error(after: tuple[str, ...]) -> None:
    specs = [strength.SPEC, replace(fidelity.SPEC, after=after)]
    with pytest.raises(ValueError, match="wait for each other"):
        measuring_order([replace(specs[0], after=("fidelity",)), specs[1]])


def test_names_and_ranks_are_unique() -> None:
    columns = [column for spec in DIMENSIONS for column in spec.columns]
    for values in (
        NAMES,
        [check.name for _, check in CHECKS],
        [check.rank for _, check in CHECKS],
        [column.name for column in columns],
        [column.rank for column in columns],
    ):
        assert len(set(values)) == len(values)
    assert spec_of("curve").name == "curve"
    with pytest.raises(KeyError):
        spec_of("beauty")


@pytest.mark.parametrize("spec", DIMENSIONS, ids=NAMES)
def test_a_dimension_has_its_words_and_limits(spec: AnySpec) -> None:
    assert spec.title and spec.question.endswith("?") and spec.compared and spec.add
    assert 1.0 >= spec.limits.good > spec.limits.poor >= 0.0
    assert sum(remedy.otherwise for remedy in spec.remedies) <= 1
    assert {column.colour for column in spec.columns} <= {"", "gain", "level", "fault"}


@pytest.mark.parametrize("spec", DIMENSIONS, ids=NAMES)
def test_where_nothing_was_measured_the_result_is_empty_and_no_check_fails(spec: AnySpec) -> None:
    result = spec.read(NOWHERE)
    assert is_dataclass(result)
    assert not any(isinstance(getattr(result, item.name), Measure) for item in fields(result))
    assert not any(check.fails(result, NOWHERE) for check in spec.checks)
    assert spec.read_at(Advised(NOWHERE, NOWHERE)) == NOWHERE
    assert spec.found_above(Advised(NOWHERE, NOWHERE)) is None
    assert spec.excuse(Advised(NOWHERE, NOWHERE), "reason") is None


@pytest.mark.parametrize("spec", DIMENSIONS, ids=NAMES)
def test_the_result_has_the_rows_of_the_summary_as_attributes(spec: AnySpec) -> None:
    found = measure(make_run("good", weights=(0.0, 0.5, 1.0)), 20)
    place = Place(Condition("zorp-300", 300, 1.0), SummaryIndex(found))
    result = spec.read(place)
    for item in fields(result):
        value = getattr(result, item.name)
        if isinstance(value, Measure):
            assert value.dimension == spec.name and value.weight in (None, 1.0) and value.value is not None
            assert item.name in (value.measure, "row")


def test_each_failed_check_counts_against_a_dimension_or_none() -> None:
    for _, check in CHECKS:
        if check.counts_against is not None:
            assert check.counts_against(Advised(NOWHERE, NOWHERE)) in NAMES


def test_words_load_nothing_that_only_measuring_needs() -> None:
    heavy = ["torch", "pandas", "skimage", "yaml", "lora_eval.training.curve", "lora_eval.training.logs"]
    code = f"import sys, lora_eval.report.words; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
