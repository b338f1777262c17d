"""Quantiles and Wilson's interval agree with tables and with scipy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.statistics import intervals as s


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 7, 10, 30, 200])
@pytest.mark.parametrize("p", [0.55, 0.9, 0.975, 0.995])
def test_t_quantile_agrees_with_scipy(p: float, freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert s.t_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), abs=1e-3)
    assert s.t_quantile(1 - p, freedom) == pytest.approx(-s.t_quantile(p, freedom))


def test_t_quantile_known_values() -> None:
    assert s.t_quantile(0.975, 5) == pytest.approx(2.5706, abs=1e-4)
    assert s.t_quantile(0.975, 1) == pytest.approx(12.7062, abs=1e-4)
    with pytest.raises(ValueError, match="freedom"):
        s.t_quantile(0.975, 0)


def test_wilson_known_values() -> None:
    """Newcombe, Stat. Med. 17 (1998), table I, method 3: 81 of 263 and 0 of 20."""
    assert s.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert s.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert s.wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)
    with pytest.raises(ValueError, match="trials"):
        s.wilson(0, 0)


@given(st.integers(1, 200), st.floats(0, 1))
def test_wilson_holds_the_rate_and_stays_in_range(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = s.wilson(successes, trials)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
