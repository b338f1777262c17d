"""Measuring whole runs with a known truth: every planted fault is seen by its own dimension."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_eval.errors import RunError
from lora_eval.scorecard.data import Measure, Measurement, RunData, Scorecard
from lora_eval.scorecard.decision.decide import decide
from lora_eval.scorecard.dimensions.measure import measure
from tests.scorecard.synthetic_run import PIXELS, STYLES, kept, make_run


@lru_cache(maxsize=64)
def scored(
    fault: str, seed: int = 0, kind: str = "object", pixels: bool = False
) -> tuple[RunData, Measurement, Scorecard]:
    run = make_run(fault, rng_seed=seed, kind=kind, reference_pixels=pixels)
    found = measure(run, resamples=200)
    return run, found, decide(run, found)


def row(
    measurement: Measurement, dimension: str, name: str, weight: float | None, checkpoint: str = "zorp-300"
) -> Measure:
    (only,) = [
        m
        for m in measurement.summary
        if (m.dimension, m.measure, m.weight, m.checkpoint) == (dimension, name, weight, checkpoint)
    ]
    return only


def flagged(card: Scorecard) -> set[str]:
    return {name for name, d in card.dimensions.items() if d.verdict in ("weak", "poor")}


@pytest.mark.parametrize("seed", range(4))
def test_a_good_lora_is_flagged_by_no_dimension(seed: int) -> None:
    _, _, card = scored("good", seed)
    assert flagged(card) == set()
    assert card.checkpoint == "zorp-300" and card.weight in (0.8, 1.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("fault", "owner"),
    [
        ("collapse", "generalisation"),
        ("copies", "generalisation"),
        ("leak", "generalisation"),
        ("narrow", "generalisation"),
        ("misaligned", "alignment"),
        ("mixed", "consistency"),
        ("wrong concept", "fidelity"),
        ("undertrained", "fidelity"),
        ("no effect", "fidelity"),
    ],
)
def test_a_planted_fault_is_flagged_by_its_own_dimension_and_no_other(fault: str, owner: str, seed: int) -> None:
    assert flagged(scored(fault, seed)[2]) == {owner}


@pytest.mark.parametrize("seed", range(3))
def test_distortion_from_half_weight_is_a_fault_of_strength(seed: int) -> None:
    """The references' own statistics are known, so what lies far outside them is no learnt style."""
    _, _, card = scored("fried", seed, pixels=True)
    assert flagged(card) == {"strength"}
    assert card.dimensions["strength"].evidence["curve"]["onset"] == 0.4


def test_noise_in_place_of_an_edit_is_inconsistent_and_unlike() -> None:
    _, _, card = scored("inconsistent")
    assert {"consistency", "fidelity"} <= flagged(card)
    assert card.checkpoint is None


def test_the_drifting_picture_is_named() -> None:
    _, _, card = scored("drift")
    names = [d["image"] for d in card.dimensions["consistency"].evidence["drifting"]]
    assert names[0] == f"zorp-300-{card.weight:g}-fidelity-2-2.png"
    good = scored("good")[1].evidence["consistency"]["drifting"]
    assert sum(len(v) for v in good.values()) <= 0.03 * 6 * 32


def test_copies_are_listed_pair_by_pair() -> None:
    run, found, _ = scored("copies")
    pairs = found.evidence["generalisation"]["copies"]["zorp-300 @ 1"]
    table = run.cells.assign(copy=found.cell_metrics["copy"], name=found.cell_metrics["nn_name"])
    planted = table[(table.weight == 1.0) & (table.role != "unrelated") & (table.seed <= 2)]
    assert planted["copy"].mean() > 0.9
    assert table[table.weight < 0.6]["copy"].sum() == 0
    assert {p["image"] for p in pairs} == set(table[(table.weight == 1.0) & table["copy"]].image)
    first = planted.iloc[0]
    roles = list(dict.fromkeys(run.cells.prompt_id))
    assert first["name"] == f"train{(roles.index(first.prompt_id) * 4 + first.seed - 1) % 20}.png"


def test_onset_is_the_weight_where_distortion_was_planted() -> None:
    assert row(scored("distortion")[1], "strength", "onset", None).value == 1.2
    assert row(scored("good")[1], "strength", "onset", None).value is None


def test_a_style_that_moves_saturation_on_purpose_is_not_distorted() -> None:
    """Statistics leave weight 0's spread as far as the likeness does, and stay there."""
    found = scored("saturated style", kind="style")[1]
    z = [row(found, "strength", "distortion_z", w).value for w in (0.2, 0.6, 1.0, 1.2)]
    assert z[2] is not None and z[2] > 5
    assert row(found, "strength", "onset", None).value is None


def test_what_the_references_show_is_not_distortion_for_an_object_either() -> None:
    found = scored("saturated style", pixels=True)[1]
    assert row(found, "strength", "onset", None).value is None


def test_relative_fidelity_is_the_formula_on_the_means() -> None:
    run, found, _ = scored("good")
    references = run.references
    assert references is not None
    here = row(found, "fidelity", "clip_i", 1.0)
    f = references.features.astype(float)
    loo = np.mean([f[i] @ f[j] for i in range(len(f)) for j in range(len(f)) if i != j])
    cells = run.cells.reset_index(drop=True)
    core = cells.role.isin(["plain", "fidelity"])
    of = lambda w: (run.features[core & (cells.weight == w)].astype(float) @ f.T).mean()  # noqa: E731
    assert here.value == pytest.approx(of(1.0), abs=1e-5)
    assert here.baseline == pytest.approx(of(0.0), abs=1e-5)
    assert here.ceiling == pytest.approx(loo, abs=1e-5)
    assert row(found, "fidelity", "score", 1.0).value == pytest.approx((of(1.0) - of(0.0)) / (loo - of(0.0)), abs=1e-4)


def test_the_leak_is_the_share_of_the_movement_that_needs_no_trigger() -> None:
    assert row(scored("leak")[1], "generalisation", "leak", 1.0).value == pytest.approx(0.9, abs=0.15)
    assert abs(row(scored("good")[1], "generalisation", "leak", 1.0).value or 1) < 0.15


def test_a_style_may_leak() -> None:
    _, _, card = scored("leak", kind="style")
    assert "generalisation" not in flagged(card)
    assert card.dimensions["generalisation"].evidence["measures"]["leak"]["value"] > 0.7


def test_the_negative_prompt_effect_is_measured_against_its_twin() -> None:
    effect = row(scored("good")[1], "alignment", "negative_effect", 1.0)
    assert effect.value is not None and effect.value < 0 and effect.baseline is not None and effect.baseline < 0


def test_a_better_fidelity_by_another_encoder_has_rows_of_its_own() -> None:
    run = make_run("good")
    run.extra = {"dino": run.features.copy()}
    run.extra_references = {"dino": run.references.features.copy()}  # type: ignore[union-attr]
    unread = int(np.flatnonzero(run.cells.role == "unrelated")[0])
    run.extra["dino"][unread] = np.nan
    found = measure(run, 50)
    assert row(found, "fidelity", "dino_score", 1.0).value == row(found, "fidelity", "score", 1.0).value
    assert row(found, "fidelity", "dino_detected", 1.0).value == 1.0
    assert np.isnan(found.cell_metrics["dino"].iloc[unread])


def test_weight_zero_of_each_picture_is_its_own_baseline() -> None:
    run, found, _ = scored("good")
    cells = pd.concat([run.cells, found.cell_metrics], axis=1)
    base = cells[cells.weight == 0].set_index(["prompt_id", "seed"])
    assert (base.clip_i_gain == 0).all() and (base.clip_t_delta == 0).all()
    at_one = cells[cells.weight == 1.0].set_index(["prompt_id", "seed"])
    expected = at_one.clip_i - base.clip_i
    assert np.allclose(at_one.clip_i_gain, expected.loc[at_one.index], atol=2e-6)


def shuffled(run: RunData, seed: int) -> tuple[RunData, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(run.cells))
    return replace(
        run, cells=run.cells.iloc[order].reset_index(drop=True), features=run.features[order],
        thumbs=run.thumbs[order], styles=run.styles[order], pixels=run.pixels[order],
    ), order  # fmt: skip


@settings(max_examples=5)
@given(st.integers(0, 100))
def test_row_order_is_nothing(seed: int) -> None:
    run = make_run("good", weights=(0.0, 0.5, 1.0), seeds=3)
    plain = measure(run, 50)
    other_run, order = shuffled(run, seed)
    other = measure(other_run, 50)
    assert other.summary == plain.summary
    assert json.dumps(other.evidence, sort_keys=True) == json.dumps(plain.evidence, sort_keys=True)
    assert decide(other_run, other) == decide(run, plain)
    pd.testing.assert_frame_equal(other.cell_metrics, plain.cell_metrics.iloc[order].reset_index(drop=True))


def test_the_same_input_gives_the_same_bytes() -> None:
    run = make_run("good", weights=(0.0, 0.5, 1.0), seeds=3)
    one, two = measure(run, 100), measure(run, 100)
    assert one.cell_metrics.to_csv() == two.cell_metrics.to_csv()
    assert repr(one.summary) == repr(two.summary)
    assert json.dumps(one.evidence, allow_nan=False) == json.dumps(two.evidence, allow_nan=False)


@settings(max_examples=8)
@given(st.sampled_from(["good", "copies", "collapse", "inconsistent", "no effect", "fried"]), st.integers(0, 50))
def test_numbers_stay_in_their_ranges_and_intervals_hold_their_value(fault: str, seed: int) -> None:
    run = make_run(fault, rng_seed=seed, weights=(0.0, 0.5, 1.0), seeds=3)
    found = measure(run, 50)
    card = decide(run, found)
    bounds = {"clip_i": (-1, 1), "clip_t": (-1, 1), "drift_z": (0, 99), "nn_train": (-1, 1), "nn_ssim": (-1, 1),
              "elements_won": (0, 1), "effect": (0, 2), "carlos": (-1, 1)}  # fmt: skip
    for name, (low, high) in bounds.items():
        values = found.cell_metrics[name].dropna()
        assert ((values >= low) & (values <= high)).all(), name
    for m in found.summary:
        if m.value is not None and m.ci_low is not None and m.ci_high is not None:
            assert m.ci_low <= m.ci_high
    for d in card.dimensions.values():
        assert d.score is None or 0.0 <= d.score <= 1.0
        assert (d.score is None) == (d.verdict == "not measured")


@pytest.mark.parametrize(
    ("change", "dimension", "words"),
    [
        (lambda r: replace(r, references=None), "fidelity", "no reference pictures"),
        (lambda r: replace(r, histories={}), "curve", "no loss history"),
        (lambda r: replace(r, texts={}), "alignment", "not encoded"),
    ],
)
def test_what_is_missing_is_said_and_not_scored(change, dimension: str, words: str) -> None:
    run = change(make_run("good", weights=(0.0, 0.5, 1.0), seeds=3))
    card = decide(run, measure(run, 50))
    assert card.dimensions[dimension].score is None
    assert card.dimensions[dimension].verdict == "not measured"
    assert words in card.dimensions[dimension].reason
    assert any(a.dimension == dimension and words in a.change for a in card.advice)


def test_one_seed_has_no_consistency() -> None:
    run = make_run("good", weights=(0.0, 0.5, 1.0), seeds=1)
    card = decide(run, measure(run, 50))
    assert "one seed" in card.dimensions["consistency"].reason
    assert card.dimensions["consistency"].score is None


def test_one_prompt_has_no_alignment() -> None:
    run = make_run("good", weights=(0.0, 0.5, 1.0), roles=("plain",))
    card = decide(run, measure(run, 50))
    assert "one prompt" in card.dimensions["alignment"].reason
    assert card.dimensions["alignment"].score is None


def test_two_weights_have_no_strength() -> None:
    run = make_run("good", weights=(0.0, 1.0))
    card = decide(run, measure(run, 50))
    assert card.dimensions["strength"].score is None
    assert "at least 3" in card.dimensions["strength"].reason


def test_without_challenge_training_and_references_generalisation_says_what_to_add() -> None:
    run = make_run("good", weights=(0.0, 0.5, 1.0), roles=("plain", "plain", "fidelity"), references=0, training=0)
    card = decide(run, measure(run, 50))
    reason = card.dimensions["generalisation"].reason
    assert card.dimensions["generalisation"].score is None
    assert "challenge prompt" in reason and "training pictures" in reason


def test_without_held_out_pictures_the_gap_is_not_judged() -> None:
    run = make_run("good", weights=(0.0, 0.5, 1.0))
    run.references.held_out = False  # type: ignore[union-attr]
    found = measure(run, 50)
    gap = row(found, "generalisation", "held_out_gap", 1.0)
    assert gap.value is None and "held-out" in gap.verdict
    assert "held out gap" in decide(run, found).dimensions["generalisation"].reason


def test_without_weight_zero_nothing_is_compared() -> None:
    run = make_run("good", weights=(0.0, 0.5, 1.0))
    run = kept(run, (run.cells.weight != 0).to_numpy())
    found = measure(run, 50)
    card = decide(run, found)
    for name in ("consistency", "fidelity", "strength", "alignment"):
        assert "weight 0" in card.dimensions[name].reason, name
    assert card.checkpoint is None
    assert row(found, "fidelity", "clip_i", 1.0).value is not None


def test_references_as_mixed_as_the_base_model_measure_nothing() -> None:
    run = make_run("good", weights=(0.0, 0.5, 1.0))
    rng = np.random.default_rng(0)
    noise = rng.normal(size=run.references.features.shape)  # type: ignore[union-attr]
    run.references.features = (noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float32)  # type: ignore[union-attr]
    card = decide(run, measure(run, 50))
    assert card.dimensions["fidelity"].score is None
    assert "as alike" in card.dimensions["fidelity"].reason


def test_missing_pictures_are_left_out_and_not_counted_as_zero() -> None:
    run = make_run("good", weights=(0.0, 0.5, 1.0))
    part = kept(run, ~run.cells.index.isin([3, 50, 90, 100]))
    whole, less = (row(measure(r, 50), "fidelity", "score", 1.0).value for r in (run, part))
    assert less == pytest.approx(whole, abs=0.02)


def test_a_plain_table_without_roles_and_prompts_can_be_measured() -> None:
    """X/Y/Z plots drawn elsewhere: image, prompt_id, seed and weight are all there is."""
    run = make_run("good", weights=(0.0, 0.5, 1.0))
    cells = run.cells[["weight", "prompt_id", "seed", "image"]].assign(checkpoint="mine")
    run = replace(run, cells=cells, prompts={}, texts={}, training=None)
    card = decide(run, measure(run, 50))
    assert card.dimensions["fidelity"].score is not None
    assert card.checkpoint == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.cells.drop(columns="seed"), "seed"),
        (lambda r: r.cells.assign(weight=0.0), "weight above 0"),
        (lambda r: r.cells.assign(weight="a lot"), "no number"),
        (lambda r: r.cells.assign(seed=1), "two pictures"),
        (lambda r: r.cells.iloc[:0], "no row"),
    ],
)
def test_a_broken_table_is_refused_in_one_line(change, words: str) -> None:
    run = make_run("good", weights=(0.0, 1.0), seeds=2)
    cells = change(run)
    n = len(cells)
    broken = replace(
        run, cells=cells, features=run.features[:n], thumbs=run.thumbs[:n], styles=run.styles[:n], pixels=run.pixels[:n]
    )
    with pytest.raises(RunError, match=words) as caught:
        measure(broken)
    assert "\n" not in str(caught.value)


def test_features_of_another_number_or_not_finite_are_refused() -> None:
    run = make_run("good", weights=(0.0, 1.0), seeds=2)
    with pytest.raises(RunError, match="rows of"):
        measure(replace(run, styles=run.styles[:-1]))
    bad = run.features.copy()
    bad[4] = np.nan
    with pytest.raises(RunError, match="row 5"):
        measure(replace(run, features=bad))


def test_style_and_pixel_statistics_may_be_missing() -> None:
    run = make_run("good", weights=(0.0, 0.5, 1.0))
    n = len(run.cells)
    run = replace(
        run, styles=np.zeros((n, 0), np.float32), style_names=[], pixels=np.zeros((n, 0), np.float32), pixel_names=[]
    )
    card = decide(run, measure(run, 50))
    assert card.dimensions["consistency"].score is not None
    assert "not measured" in card.dimensions["strength"].evidence["measures"]["onset"]["verdict"]
    assert len(STYLES) == len(PIXELS) == 6


@pytest.mark.parametrize("roles", [("unrelated",), ("negative",), ("plain", "unrelated"), ("challenge",)])
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_the_smallest_runs_cry_at_nothing_but_what_was_planted(roles: tuple[str, ...], seeds: int) -> None:
    run = make_run(weights=(0.0, 0.5, 1.0), roles=roles, seeds=seeds)
    card = decide(run, measure(run, 50))
    assert flagged(card) == set()
    assert (card.checkpoint is None) == (roles == ("unrelated",))


def test_negative_weights_are_measured_and_never_recommended() -> None:
    run = make_run(weights=(0.0, -0.5, 0.5, 1.0))
    found = measure(run, 50)
    backwards = row(found, "fidelity", "clip_i_gain", -0.5).value
    assert backwards is not None and backwards < 0
    assert decide(run, found).weight == 1.0
    only = make_run(weights=(0.0, -0.5))
    assert decide(only, measure(only, 50)).checkpoint is None


QUICK = ("plain", "composition", "negative", "fidelity", "challenge", "unrelated")


@pytest.mark.parametrize(
    ("fault", "owner"),
    [
        ("good", set()),
        ("collapse", {"generalisation"}),
        ("copies", {"generalisation"}),
        ("leak", {"generalisation"}),
        ("narrow", {"generalisation"}),
        ("misaligned", {"alignment"}),
        ("mixed", {"consistency"}),
        ("wrong concept", {"fidelity"}),
        ("undertrained", {"fidelity"}),
        ("no effect", {"fidelity"}),
    ],
)
def test_the_quick_preset_finds_the_same_faults(fault: str, owner: set[str]) -> None:
    """Six prompts of one role each, four seeds, five weights, six references."""
    run = make_run(fault, rng_seed=50, roles=QUICK, weights=(0.0, 0.3, 0.6, 0.9, 1.2), references=6)
    assert flagged(decide(run, measure(run, 200))) == owner


@pytest.mark.parametrize("fault", ["good", "narrow"])
def test_a_base_model_nearer_to_the_references_on_challenge_prompts_is_no_loss_of_likeness(fault: str) -> None:
    run = make_run(fault)
    middle = run.references.features.mean(axis=0)
    roles = np.array([run.prompts[name].role for name in run.cells["prompt_id"]])
    nearer = (run.cells["weight"] == 0).to_numpy() & np.isin(roles, ["challenge", "composition"])
    features = run.features.copy()
    features[nearer] += 0.2 * middle
    features[nearer] /= np.linalg.norm(features[nearer], axis=1, keepdims=True)
    measured = measure(replace(run, features=features), resamples=200)
    kept = row(measured, "generalisation", "fidelity_kept", 1.0)
    core, wide = (np.isin(roles, found) for found in (["plain", "fidelity"], ["challenge", "composition"]))
    full = (run.cells["weight"] == 1.0).to_numpy()
    gain = measured.cell_metrics["clip_i_gain"].to_numpy()
    by_gain = gain[full & wide].mean() / gain[full & core].mean()
    if fault == "good":
        # the gain alone would say that much is lost, though the pictures with the LoRA are as they were
        assert by_gain < 0.6 < kept.ci_low
    else:
        assert kept.ci_high < 0.6
