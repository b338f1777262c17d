"""Verdicts: which dimension answers for what, and what an everyday weight above the advised one brings to light."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lora_eval.scorecard.data import Measure, Measurement, RunData, Scorecard
from lora_eval.scorecard.decision import standing as deciding
from lora_eval.scorecard.decision.decide import decide
from lora_eval.scorecard.decision.standing import standing
from lora_eval.scorecard.decision.verdicts import advised, judge
from lora_eval.scorecard.dimensions.consistency.judgement import varies_more
from lora_eval.scorecard.dimensions.measure import measure
from lora_eval.scorecard.dimensions.place import Place, SummaryIndex
from lora_eval.scorecard.dimensions.registry import spec_of
from lora_eval.scorecard.grid import Condition
from lora_eval.statistics.bootstrap import resample
from lora_eval.statistics.intervals import wilson
from tests.scorecard.synthetic_run import make_run

RESAMPLES = 200


def card_of(run: RunData) -> Scorecard:
    return decide(run, measure(run, RESAMPLES))


def found_at(measurement: Measurement, dimension: str, name: str, weight: float) -> Measure:
    (only,) = [m for m in measurement.summary if (m.dimension, m.measure, m.weight) == (dimension, name, weight)]
    return only


def changed(measurement: Measurement, dimension: str, name: str, weight: float, **values: float) -> Measurement:
    """The measurement with one row rewritten."""
    old = found_at(measurement, dimension, name, weight)
    rows = [replace(m, **values) if m is old else m for m in measurement.summary]
    return replace(measurement, summary=rows)


def verdict_of(measurement: Measurement, name: str, weight: float, gated: dict[float, list[str]] | None = None,
               free: float | None = None) -> tuple[str, str]:  # fmt: skip
    places = {c.weight: c for c in (Condition("zorp-300", 300, w) for w in (0.2, 0.4, 0.6, 0.8, 1.0, 1.2))}
    shut = {places[w]: gates for w, gates in {**{key: [] for key in places}, **(gated or {})}.items()}
    place = Place(places[weight], SummaryIndex(measurement))
    found = judge(spec_of(name), advised(place, places[weight if free is None else free], shut)).answer
    return found.verdict, found.reason


@pytest.fixture(scope="module")
def good() -> Measurement:
    return measure(make_run("good"), RESAMPLES)


# -- what the smallest of several parts is worth ------------------------------------------------


@pytest.mark.parametrize("name", ["generalisation", "strength"])
def test_the_smallest_of_parts_is_good_until_its_interval_is_surely_below_the_limit(
    name: str, good: Measurement
) -> None:
    limit = spec_of(name).limits.good
    weight = None if name == "strength" else 0.8
    row = next(m for m in good.summary if (m.dimension, m.measure, m.weight) == (name, "score", weight))
    for high, expected in ((limit + 0.01, "good"), (limit - 0.01, "weak")):
        rows = [replace(m, value=limit - 0.2, score=limit - 0.2, ci_low=0.0, ci_high=high) if m is row else m
                for m in good.summary]  # fmt: skip
        verdict, reason = verdict_of(replace(good, summary=rows), name, 0.8)
        assert verdict == expected
        assert ("too unsure to count by itself" in reason) == (expected == "good")


def test_a_mean_below_the_limit_is_weak_however_wide_its_interval(good: Measurement) -> None:
    low = spec_of("fidelity").limits.good - 0.01
    found = changed(good, "fidelity", "score", 0.8, value=low, score=low, ci_low=0.0, ci_high=1.0)
    assert verdict_of(found, "fidelity", 0.8)[0] == "weak"


# -- everyday weights above the advised one -----------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "gates", "expected"),
    [(1.0, [], "weak"), (1.2, [], "good"), (1.0, ["distortion"], "good"), (1.0, ["prompt ignored"], "good")],
)
def test_style_that_varies_at_an_everyday_weight_is_found_where_pictures_are_whole(
    weight: float, gates: list[str], expected: str, good: Measurement
) -> None:
    found = changed(good, "consistency", "style_spread_ratio", weight, value=2.9, ci_low=1.5, ci_high=4.0)
    verdict, reason = verdict_of(found, "consistency", 0.6, {weight: gates})
    assert verdict == expected
    assert ("from weight 1 on the style varies 2.9 times" in reason) == (expected == "weak")


def test_what_is_surely_lost_at_an_everyday_weight_counts_against_generalisation(good: Measurement) -> None:
    for high, expected in ((0.5, "weak"), (0.9, "good")):
        found = changed(good, "generalisation", "score", 1.0, value=0.2, score=0.2, ci_low=0.0, ci_high=high)
        verdict, reason = verdict_of(found, "generalisation", 0.6)
        assert verdict == expected and ("from weight 1 on" in reason) == (expected == "weak")


# -- whose gate ---------------------------------------------------------------------------------


def test_a_prompt_ignored_only_well_above_the_advised_weight_is_strengths(good: Measurement) -> None:
    gated = {1.0: ["prompt ignored"]}
    assert verdict_of(good, "alignment", 0.6, gated)[0] == "good"
    verdict, reason = verdict_of(good, "strength", 0.6, gated)
    assert verdict == "weak" and "prompt ignored from weight 1 on" in reason


def test_a_prompt_lost_as_soon_as_the_concept_shows_is_alignments(good: Measurement) -> None:
    """Raised by half at most, the weight loses the prompt: no matter of strength."""
    gated = {1.0: ["prompt ignored"]}
    assert verdict_of(good, "strength", 0.8, gated)[0] == "good"
    verdict, reason = verdict_of(good, "alignment", 0.8, gated)
    assert verdict == "weak" and "prompt ignored from weight 1 on" in reason
    # below the gate's certainty too, when the margin is surely not what it was
    for high, expected in ((0.85, "weak"), (0.95, "good")):
        found = changed(good, "alignment", "score", 1.0, value=0.7, score=0.7, ci_low=0.5, ci_high=high)
        assert verdict_of(found, "alignment", 0.8)[0] == expected
        assert verdict_of(found, "alignment", 0.6)[0] == "good"


@pytest.mark.parametrize(("likeness", "expected"), [(0.9, "good"), (0.4, "weak")])
def test_a_prompt_lost_on_the_way_to_a_concept_that_never_shows_is_alignments(
    likeness: float, expected: str, good: Measurement
) -> None:
    """At .4 the concept must show for the loss at 1 to be a matter of strength."""
    found = changed(good, "fidelity", "score", 0.4, value=likeness, score=likeness)
    found = changed(found, "alignment", "score", 1.0, value=0.6, ci_low=0.4, ci_high=0.8)
    verdict, reason = verdict_of(found, "alignment", 0.4)
    assert verdict == expected and ("from weight 1 on only 0.60" in reason) == (expected == "weak")


@pytest.mark.parametrize(
    ("ratio", "low", "n", "expected"),
    [
        (1.7, 1.2, 32, True),
        # 19 of 20 are not asked for
        (1.8, 0.9, 32, True),
        (1.8, 0.5, 32, False),
        (1.5, 1.4, 32, False),
        # one prompt of three seeds
        (5.0, 1.5, 3, False),
        (5.0, 1.7, 3, True),
        (None, None, 32, False),
    ],
)
def test_style_varies_more_when_it_does_so_by_much_and_in_nine_of_ten_resamples(ratio, low, n, expected) -> None:
    assert varies_more(ratio, low, n) is expected


def test_style_that_varies_three_times_as_much_is_found_even_where_pictures_break(good: Measurement) -> None:
    for value, expected in ((2.9, "good"), (3.1, "weak")):
        found = changed(good, "consistency", "style_spread_ratio", 1.0, value=value, ci_low=1.5, ci_high=5.0)
        assert verdict_of(found, "consistency", 0.6, {1.0: ["distortion"]})[0] == expected


def test_where_no_weight_shows_the_concept_and_listens_it_is_alignments(good: Measurement) -> None:
    gated = {w: ["prompt ignored"] for w in (0.6, 0.8, 1.0, 1.2)}
    assert verdict_of(good, "alignment", 0.2, gated, free=1.0)[0] == "poor"
    assert verdict_of(good, "strength", 0.2, gated, free=1.0)[0] == "good"


def test_generalisation_is_read_where_the_concept_shows(good: Measurement) -> None:
    lost = changed(good, "generalisation", "score", 1.0, value=0.1, score=0.1, ci_low=0.0, ci_high=0.2)
    verdict, reason = verdict_of(lost, "generalisation", 0.2, {1.0: ["prompt ignored"]}, free=1.0)
    assert verdict == "poor" and reason.startswith("at weight 1, where the concept shows")


# -- data that show something else ----------------------------------------------------------------


def test_training_pictures_of_something_else_are_fidelitys_finding_and_no_gap() -> None:
    run = make_run("good")
    training = run.training
    assert training is not None
    # three quarters of the way from another thing to the concept
    other = make_run("good", rng_seed=9).training
    assert other is not None
    mixed = 0.55 * training.features + 0.45 * other.features
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    strange = replace(run, training=replace(training, features=mixed.astype(np.float32)))
    plain, found = measure(run, RESAMPLES), measure(strange, RESAMPLES)
    assert found_at(plain, "fidelity", "training_likeness", 1.0).value == pytest.approx(1.0, abs=0.15)
    row = found_at(found, "fidelity", "training_likeness", 1.0)
    assert row.ci_high is not None and row.ci_high < 0.85
    card = decide(strange, found)
    assert card.dimensions["fidelity"].verdict == "weak"
    assert "they show something else" in card.dimensions["fidelity"].reason
    assert "something else" in found.notes["generalisation.held_out_gap"]
    assert any("both folders" in a.change for a in card.advice)


def test_pictures_nearer_to_the_training_set_than_held_out_ones_are_data_copying() -> None:
    run = make_run("good")
    assert run.training is not None and run.references is not None
    plain = found_at(measure(run, RESAMPLES), "generalisation", "data_copying", 1.0)
    rows = np.flatnonzero((run.cells["weight"] == 1.0) & (run.cells["role"] != "unrelated"))
    near = rows[::2]
    features = run.features.copy()
    # half of the pictures almost on a training picture, nearer than any held-out one
    blend = 0.9 * run.training.features[np.arange(len(near)) % len(run.training)] + 0.1 * features[near]
    features[near] = blend / np.linalg.norm(blend, axis=1, keepdims=True)
    copied = found_at(measure(replace(run, features=features), RESAMPLES), "generalisation", "data_copying", 1.0)
    assert plain.value is not None and plain.value <= 0.1
    assert copied.value is not None and copied.value >= len(near) / len(rows) - 1e-9
    assert (copied.ci_low, copied.ci_high) == pytest.approx(wilson(round(copied.value * len(rows)), len(rows)))


def test_surely_more_pictures_near_the_training_set_than_chance_is_a_hard_finding(good: Measurement) -> None:
    for low, gap, expected in ((0.04, 0.2, "good"), (0.06, 0.2, "weak"), (0.06, 0.05, "good")):
        found = changed(good, "generalisation", "data_copying", 0.8, value=0.14, ci_low=low, ci_high=0.3, baseline=0.05)
        found = changed(found, "generalisation", "held_out_gap", 0.8, value=gap)
        verdict, reason = verdict_of(found, "generalisation", 0.8)
        assert verdict == expected and ("14% of the pictures lie nearer" in reason) == (expected == "weak")


# -- rank and ties --------------------------------------------------------------------------------


def test_the_rank_is_the_mean_and_not_its_lower_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weight .4 brings a little on every prompt, weight 1 far more on most: the lower end would prefer .4."""
    run = make_run("good", weights=(0.0, 0.4, 1.0))
    found = measure(run, RESAMPLES)
    seeds = np.ones((8, 4))
    cube = np.stack([0.10 * seeds, np.array([0.4, 0.4, 0.4, 0.4, 0.4, 0.0, -0.1, -0.1])[:, None] * seeds])
    draws = resample(cube, RESAMPLES)
    assert draws.interval()[0][1] < draws.interval()[0][0] and draws.estimate[1] > draws.estimate[0]
    monkeypatch.setattr(deciding, "_objective", lambda grid, measurement: deciding.Objective(draws, cube, "gain"))
    now = standing(run, found)
    assert now.chosen is not None and now.grid.conditions[now.chosen].weight == 1.0


def test_where_nothing_is_gained_the_least_bad_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("good", weights=(0.0, 0.4, 1.0))
    cube = np.stack([np.full((8, 4), -0.02), np.full((8, 4), -0.03)])
    draws = resample(cube, RESAMPLES)
    monkeypatch.setattr(deciding, "_objective", lambda grid, measurement: deciding.Objective(draws, cube, "gain"))
    now = standing(run, measure(run, RESAMPLES))
    assert now.chosen == now.first == 0


@pytest.mark.parametrize(
    ("gains", "margins", "weight"),
    [
        # what is as good within a hundredth costs less at the lower weight
        ((0.10, 0.298, 0.30), (1.0, 1.0, 1.0), 1.0),
        ((0.10, 0.290, 0.30), (1.0, 1.0, 1.0), 1.2),
        # a tenth of the prompt is worth a fortieth of likeness
        ((0.10, 0.290, 0.30), (1.0, 1.0, 0.85), 1.0),
        ((0.10, 0.270, 0.30), (1.0, 1.0, 0.85), 1.2),
        # a margin above the base model's is no merit
        ((0.10, 0.290, 0.30), (1.0, 1.5, 1.0), 1.2),
    ],
)
def test_a_weight_is_worth_its_likeness_and_the_prompt_that_it_keeps(monkeypatch, gains, margins, weight) -> None:
    run = make_run("good", weights=(0.0, 0.4, 1.0, 1.2))
    found = measure(run, RESAMPLES)
    for at, margin in zip((0.4, 1.0, 1.2), margins, strict=True):
        found = changed(found, "alignment", "score", at, value=margin, ci_low=0.8, ci_high=margin)
    cube = np.array(gains)[:, None, None] * np.ones((3, 8, 4))
    draws = resample(cube, RESAMPLES)
    monkeypatch.setattr(deciding, "_objective", lambda grid, measurement: deciding.Objective(draws, cube, "gain"))
    now = standing(run, found)
    assert now.chosen is not None and now.grid.conditions[now.chosen].weight == weight
    card = decide(run, found)
    nearer = "weight 1.2 comes nearer and follows the prompt less" in card.verdict
    # .29 is surely less than .30 here, and a tie only within a fiftieth
    assert nearer == (weight == 1.0 and gains[1] < 0.98 * gains[2])
    tied = "cannot be told from weight" in card.verdict
    assert tied == (gains[1] >= 0.98 * gains[2])
    if tied:
        assert "of equals the earlier and lower is taken" in card.verdict


def test_a_lower_weight_that_ties_and_is_not_taken_is_not_called_the_one_that_is(monkeypatch) -> None:
    run = make_run("good", weights=(0.0, 0.4, 1.0, 1.2))
    found = measure(run, RESAMPLES)
    cube = np.array([0.1, 0.28, 0.3])[:, None, None] + 0.2 * np.random.default_rng(0).normal(size=(3, 8, 4))
    cube += np.array([0.1, 0.28, 0.3])[:, None, None] - cube.mean(axis=(1, 2), keepdims=True)
    draws = resample(cube, RESAMPLES)
    monkeypatch.setattr(deciding, "_objective", lambda grid, measurement: deciding.Objective(draws, cube, "gain"))
    card = decide(run, found)
    assert card.weight == 1.2
    assert "cannot be told from weight 1, likeness and prompt together speak for this one" in card.verdict


# -- intervals ------------------------------------------------------------------------------------


def test_shares_that_all_agree_have_wilsons_interval_and_not_a_point() -> None:
    found = measure(make_run("good"), RESAMPLES)
    points = [m for m in found.summary if m.measure in ("foils_beaten", "foils_beaten_delta") and m.ci_low is not None]
    assert points and all((m.ci_high or 0.0) - (m.ci_low or 0.0) > 0.01 for m in points)
    for m in points:
        if m.measure == "foils_beaten" and m.value == 1.0:
            assert (m.ci_low, m.ci_high) == pytest.approx((wilson(m.n, m.n)[0], 1.0), abs=1e-6)


def test_the_interval_of_the_weakest_part_spans_all_parts() -> None:
    found = measure(make_run("good"), RESAMPLES)
    parts = found.evidence["generalisation"]["weakest"]["zorp-300 @ 1"]["parts"].values()
    row = found_at(found, "generalisation", "score", 1.0)
    assert row.ci_low == pytest.approx(min(p["ci_low"] for p in parts if p["ci_low"] is not None), abs=1e-6)
    assert row.ci_high == pytest.approx(min(1.0, *(p["ci_high"] for p in parts if p["ci_high"] is not None)), abs=1e-6)
