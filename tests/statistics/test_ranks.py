"""Rank statistics agree with scipy and ignore wild points."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lora_eval.statistics import ranks as s


def test_spearman_agrees_with_scipy_also_with_ties() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(4)
    x = np.arange(7.0)
    y = rng.integers(0, 4, size=(20, 7)).astype(float)
    mine = s.spearman(x, y)
    for row, value in zip(y, mine, strict=True):
        expected = stats.spearmanr(x, row).statistic
        assert (math.isnan(value) and math.isnan(expected)) or value == pytest.approx(expected)


def test_spearman_of_constant_or_missing_is_nan() -> None:
    assert np.isnan(s.spearman(np.arange(4.0), np.ones(4)))
    assert np.isnan(s.spearman(np.arange(4.0), np.array([1, 2, np.nan, 3.0])))


def test_theil_sen_agrees_with_scipy_and_ignores_wild_points() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(6)
    x = np.arange(30.0)
    y = 2.0 * x + rng.normal(size=30)
    slope, low, high = s.theil_sen(x, y)
    expected = stats.theilslopes(y, x, 0.95)
    assert slope == pytest.approx(expected.slope)
    assert (low, high) == pytest.approx((expected.low_slope, expected.high_slope), abs=0.02)
    y[::4] += 500 * rng.random(8)
    assert s.theil_sen(x, y)[0] == pytest.approx(2.0, abs=0.3)


def test_robust_z_known_values() -> None:
    z = s.robust_z(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    assert z[2] == 0 and z[4] == pytest.approx(97 / 1.4826)
