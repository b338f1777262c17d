"""Charts: well-formed SVG, marks at the right places, nothing drawn that was not measured."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.report import charts


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def of(root: ET.Element, css: str) -> list[ET.Element]:
    return [node for node in root.iter() if css in (node.get("class") or "").split()]


CURVE = {
    "weights": [0.0, 0.5, 1.0],
    "gain": [0.0, 0.1, 0.2],
    "ci_low": [0.0, 0.05, 0.1],
    "ci_high": [0.0, 0.15, 0.3],
    "distorted": [False, False, True],
    "usable": [0.5],
    "onset": 1.0,
}


def test_radar_leaves_out_what_was_not_measured():
    root = parse(
        charts.radar([("a", 0.5, 0.4, 0.6), ("b", None, None, None), ("c", 1.0, None, None), ("d <x>", 0.2, 0.1, 0.3)])
    )
    assert len(of(root, "dot")) == 3 and len(of(root, "interval")) == 2
    assert "not measured" in "".join(root.itertext()) and "d <x>" in "".join(root.itertext())


def test_radar_puts_0_in_the_middle_and_1_on_the_rim():
    root = parse(charts.radar([("a", 0.0, None, None), ("b", 1.0, None, None), ("c", 2.0, None, None)], side=320))
    dots = [(float(n.get("cx")), float(n.get("cy"))) for n in of(root, "dot")]
    assert dots[0] == (160, 160)
    distances = [np.hypot(x - 160, y - 160) for x, y in dots[1:]]
    assert distances == pytest.approx([102, 102], abs=0.1)


def test_score_bar_is_empty_without_a_score():
    assert not of(parse(charts.score_bar(None, None, None)), "dot")
    root = parse(charts.score_bar(0.5, 0.25, 0.75))
    (band,) = of(root, "band")
    assert (float(band.get("x")), float(band.get("width"))) == (6 + 47, 94)


def test_response_curve_marks_usable_range_onset_distortion_and_the_advised_weight():
    root = parse(charts.response_curve(CURVE, "mine <1>", advised=0.5))
    assert len(of(root, "usable")) == len(of(root, "onset")) == len(of(root, "ring")) == len(of(root, "ci")) == 1
    assert len(of(root, "cross")) == 1 and len(of(root, "dot")) == 2
    (ring,), (onset,) = of(root, "ring"), of(root, "onset")
    assert float(ring.get("cx")) == pytest.approx((56 + 446) / 2, abs=0.1)
    assert float(onset.get("x1")) == pytest.approx(446, abs=0.1)


def test_response_curve_without_onset_or_interval_draws_neither():
    root = parse(
        charts.response_curve({**CURVE, "onset": None, "usable": [], "ci_low": [None] * 3, "ci_high": [None] * 3}, "m")
    )
    assert not of(root, "onset") and not of(root, "usable") and not of(root, "ci")


@pytest.mark.parametrize("curve", [{}, {"weights": [0.0], "gain": [0.0]}, {"weights": [0, 1], "gain": [None, None]}])
def test_no_response_is_said_and_not_drawn(curve):
    assert "not measured" in charts.response_curve(curve, "m") and "<svg" not in charts.response_curve(curve, "m")


def test_loss_chart_shows_both_losses_over_their_first_value_and_ticks_for_checkpoints():
    steps = np.arange(1, 101.0)
    svg = charts.loss_chart(steps, 2 * 0.99**steps, steps[::25], 5 * 0.98 ** steps[::25], [(50, "a <b>")])
    root = parse(svg)
    assert len(of(root, "second")) == 1 and len(of(root, "square")) == 4 and len(of(root, "mark")) == 1
    assert "a &lt;b&gt;" in svg


def test_loss_chart_with_nan_holes_and_a_single_point():
    steps = np.arange(1, 51.0)
    loss = np.where(steps % 7 == 0, np.nan, 1 / steps)
    assert of(parse(charts.loss_chart(steps, loss, np.zeros(0), np.zeros(0))), "line")
    assert "not measured" in charts.loss_chart(np.ones(1), np.ones(1), np.zeros(0), np.zeros(0))


def test_a_long_history_stays_a_small_picture():
    steps = np.arange(200_000.0)
    assert len(charts.loss_chart(steps, np.random.default_rng(0).random(200_000), np.zeros(0), np.zeros(0))) < 30_000


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_ascending_and_inside(low, span):
    high = low + span
    found = charts.ticks(low, high)
    assert 1 <= len(found) <= 12 and found == sorted(found)
    assert all(low - 1e-6 * span - 1e-9 <= value <= high + 1e-6 * span + 1e-9 for value in found) or len(found) == 1


def test_ticks_are_round():
    assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert charts.ticks(0, 150) == [0, 50, 100, 150]


def test_heat_is_blue_above_zero_orange_below_and_nothing_where_not_measured():
    assert charts.heat_style(None, 0, 1) == "" == charts.heat_style(float("nan"), 0, 1)
    assert "0,114,178" in charts.heat_style(0.5, -1, 1) and "213,94,0" in charts.heat_style(-0.5, -1, 1)
    strength = [float(re.search(r",([\d.]+)\)", charts.heat_style(v, 0, 1)).group(1)) for v in (0, 0.3, 0.6, 1)]
    assert strength == sorted(strength)
    assert "color:#fff" in charts.heat_style(1, 0, 1) and "color" not in charts.heat_style(0.2, 0, 1)
