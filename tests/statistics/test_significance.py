"""Sign flips and Holm agree with enumeration and with published values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.statistics import significance as s


def test_sign_flip_is_exact_for_few_prompts() -> None:
    """Five positive differences: two of 32 sign patterns are as far out."""
    assert s.sign_flip_test(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 / 32)
    assert s.sign_flip_test(np.array([1.0, -1.0])) == 1.0
    assert math.isnan(s.sign_flip_test(np.array([np.nan])))


def test_sign_flip_agrees_with_enumeration() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(0.4, 1, size=9)
    totals = [
        abs(sum(sign * v for sign, v in zip(signs, x, strict=True))) for signs in itertools.product((-1, 1), repeat=9)
    ]
    expected = np.mean(np.array(totals) >= abs(x.sum()) - 1e-12)
    assert s.sign_flip_test(x) == pytest.approx(expected)


def test_sign_flip_rejects_at_its_level_when_seeds_resemble_each_other() -> None:
    rng = np.random.default_rng(8)
    rejected = 0
    for _ in range(300):
        data = rng.normal(size=(8, 1)) + 0.3 * rng.normal(size=(8, 4))
        rejected += s.sign_flip_test(data) <= 0.05
    assert rejected / 300 < 0.09


def test_holm_known_values() -> None:
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = s.holm([0.5, float("nan"), 0.9])
    assert adjusted[0] == pytest.approx(1.0) and math.isnan(adjusted[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_and_keeps_order(p: list[float]) -> None:
    adjusted = s.holm(p)
    assert all(a >= b - 1e-12 and a <= 1 for a, b in zip(adjusted, p, strict=True))
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= -1e-12)
