"""The decision: gates, rank by the likeness gained, ties to the earlier checkpoint and lower weight, advice."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from lora_eval.scorecard.data import Dimension, Measure, Scorecard
from lora_eval.scorecard.decision.advice import advise
from lora_eval.scorecard.decision.decide import decide
from lora_eval.scorecard.decision.standing import standing
from lora_eval.scorecard.decision.verdicts import Judged
from lora_eval.scorecard.dimensions import curve, strength
from lora_eval.scorecard.dimensions.measure import measure
from lora_eval.scorecard.dimensions.registry import DIMENSIONS as SPECS
from lora_eval.scorecard.dimensions.registry import NAMES
from tests.scorecard.synthetic_run import kept, make_run

WEIGHTS = (0.0, 0.4, 0.7, 1.0, 1.2)


def card_of(fault: str = "good", **options) -> Scorecard:
    run = make_run(fault, **options)
    return decide(run, measure(run, resamples=300))


def test_the_checkpoint_that_learnt_more_wins() -> None:
    card = card_of(weights=WEIGHTS, checkpoints={"z-100": (100, 0.3), "z-200": (200, 1.0), "z-300": (300, 0.7)})
    assert card.checkpoint == "z-200"
    assert [entry["checkpoint"] for entry in card.leaderboard] == ["z-200", "z-300", "z-100"]
    assert not card.leaderboard[1]["tied"] and card.leaderboard[0]["recommended"]


def test_equal_checkpoints_tie_and_the_earlier_is_taken() -> None:
    card = card_of(
        weights=WEIGHTS, checkpoints={"z-300": (300, 1.0), "z-100": (100, 1.0), "z-200": (200, 1.0)}, noise=0.5
    )
    assert card.checkpoint == "z-100"
    assert {entry["checkpoint"] for entry in card.tie} >= {"z-200", "z-300"}
    assert "cannot be told from" in card.verdict


def test_of_tied_weights_the_lower_is_taken() -> None:
    """Full likeness is reached at weight 1; 1.2 gives no more."""
    card = card_of(weights=WEIGHTS)
    assert card.weight == 1.0
    assert [entry["weight"] for entry in card.tie] == [1.2]


CHECKPOINTS = {"z-100": (100, 1.0), "z-200": (200, 1.0), "z-300": (300, 1.0)}


def tied_card(curve: dict[str, str], **margin: float) -> Scorecard:
    """Three checkpoints of equal likeness, their loss curves as named, the margin that each keeps where given."""
    run = make_run(weights=WEIGHTS, checkpoints=CHECKPOINTS, noise=0.5)
    found = measure(run, resamples=300)
    rows = [m for m in found.summary if m.dimension != "curve"]
    scores = {"converged": 1.0, "still falling": 0.6, "overfit": 0.3}
    rows += [
        Measure(name, step, None, "curve", "state", scores[curve[name]], score=scores[curve[name]], verdict=curve[name])
        for name, (step, _) in CHECKPOINTS.items() if name in curve
    ]  # fmt: skip
    rows = [
        replace(m, value=margin[m.checkpoint.replace("-", "")], ci_high=1.0)
        if (m.dimension, m.measure) == ("alignment", "score") and m.checkpoint.replace("-", "") in margin else m
        for m in rows
    ]  # fmt: skip
    return decide(run, replace(found, summary=rows))


def test_of_tied_checkpoints_the_latest_with_a_sound_loss_curve_is_taken() -> None:
    falling = dict.fromkeys(CHECKPOINTS, "still falling")
    card = tied_card(falling)
    assert card.checkpoint == "z-300" and "of equals the later is taken, whose loss curve is sound" in card.verdict
    assert tied_card({**falling, "z-300": "overfit"}).checkpoint == "z-200"
    # nothing is known of the curves, or they say that training did harm: what costs less
    assert tied_card({}).checkpoint == "z-100"
    overfit = tied_card(dict.fromkeys(CHECKPOINTS, "overfit"))
    assert overfit.checkpoint == "z-100" and "of equals the earlier and lower is taken" in overfit.verdict


def test_a_later_checkpoint_that_listens_less_is_not_taken() -> None:
    sound = dict.fromkeys(CHECKPOINTS, "converged")
    assert tied_card(sound, z100=0.98, z200=0.96, z300=0.96).checkpoint == "z-300"
    assert tied_card(sound, z100=0.98, z200=0.96, z300=0.80).checkpoint == "z-200"


def test_a_weight_that_gives_surely_less_is_no_tie() -> None:
    assert 0.4 not in {entry["weight"] for entry in card_of(weights=WEIGHTS).tie}


def test_the_verdict_is_one_sentence_with_checkpoint_weight_and_interval() -> None:
    card = card_of()
    assert card.verdict.startswith("Use zorp-300 at weight 1: likeness 0.7")
    assert "95 % interval" in card.verdict and card.verdict.endswith(".") and "\n" not in card.verdict


def test_what_may_be_nothing_is_no_advice() -> None:
    """The interval of the likeness holds 0 at every weight, and reaches too high to shut the gate."""
    run = make_run("good", weights=WEIGHTS)
    measured = measure(run, resamples=300)
    doubtful = [
        replace(row, ci_low=-0.2) if (row.dimension, row.measure) == ("fidelity", "score") else row
        for row in measured.summary
    ]
    card = decide(run, replace(measured, summary=doubtful))
    assert card.verdict.startswith("Not surely better than no LoRA")


def test_distorted_weights_are_out() -> None:
    card = card_of("distortion")
    assert card.weight is not None and card.weight < 1.2
    assert card.gates == ["distortion: zorp-300 at weight 1.2"]


def test_copying_weights_are_out_and_the_lora_is_called_memorised() -> None:
    card = card_of("copies")
    assert card.weight == 0.4
    assert card.dimensions["generalisation"].verdict == "poor"
    assert "copies from weight 0.6 on" in card.dimensions["generalisation"].reason
    assert any(a.dimension == "generalisation" for a in card.advice)


def test_copies_that_were_not_judged_are_not_advised_on() -> None:
    card = card_of("narrow", training=0)
    assert "not judged: copies" in card.dimensions["generalisation"].reason
    seen = [a.seen for a in card.advice if a.dimension == "generalisation"]
    assert seen == ["the concept weakens in new scenes"]
    assert "training pictures are copied" in [a.seen for a in card_of("copies").advice]


def test_collapsed_weights_are_out() -> None:
    card = card_of("collapse")
    assert any(gate.startswith("collapse") for gate in card.gates)
    assert card.weight is not None and card.weight <= 0.6


def test_a_lora_without_effect_is_not_recommended() -> None:
    card = card_of("no effect")
    assert card.checkpoint is None and card.weight is None
    assert "no effect" in card.verdict
    assert any(gate.startswith("no effect: zorp-300") for gate in card.gates)
    assert any("loaded" in a.change for a in card.advice)


def test_weights_that_draw_blank_pictures_are_out() -> None:
    """What NaN in a half-precision model is drawn as."""
    run = make_run()
    at = (run.cells.weight >= 1.0).to_numpy()
    run.thumbs[at] = 0.0
    card = decide(run, measure(run, 100))
    assert card.weight is not None and card.weight < 1.0
    assert "blank pictures: zorp-300 at weight 1, 1.2" in card.gates


def test_a_lora_of_something_else_is_not_recommended() -> None:
    card = card_of("wrong concept")
    assert card.checkpoint is None
    assert "no likeness" in card.verdict


def test_identical_pictures_have_no_effect_even_with_one_seed() -> None:
    run = make_run("no effect", weights=(0.0, 0.5, 1.0), seeds=1)
    base = {
        (p, s): i
        for i, (p, s, w) in enumerate(zip(run.cells.prompt_id, run.cells.seed, run.cells.weight, strict=True))
        if w == 0
    }
    for i, (p, s) in enumerate(zip(run.cells.prompt_id, run.cells.seed, strict=True)):
        run.features[i] = run.features[base[p, s]]
    card = decide(run, measure(run, 50))
    assert card.checkpoint is None and "no effect" in card.verdict


def test_without_references_the_verdict_says_what_it_rests_on() -> None:
    card = card_of(references=0)
    assert card.checkpoint == "zorp-300"
    assert "likeness could not be measured" in card.verdict
    assert card.dimensions["fidelity"].score is None


def test_every_dimension_is_answered_and_the_card_is_json() -> None:
    card = card_of()
    assert tuple(card.dimensions) == NAMES
    text = json.dumps(asdict(card), allow_nan=False)
    assert "zorp-300" in text
    for d in card.dimensions.values():
        assert d.reason and d.verdict in ("good", "weak", "poor", "not measured")


def test_weak_dimensions_are_advised_on_weakest_first_and_missing_ones_last() -> None:
    card = card_of("narrow")
    assert card.advice[0].dimension == "generalisation"
    assert "vary the captions" in card.advice[0].change
    assert card.advice[-1].seen == "not measured"


def test_the_curve_is_read_from_the_history_of_the_lora(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "history.csv"
    rows = [f"{i},{0.1 * (1 - 0.5 * (1 - np.exp(-i / 60))) * rng.lognormal(0, 0.4):.6f}," for i in range(1, 901)]
    path.write_text("step,loss,val_loss\n" + "\n".join(rows) + "\n")
    run = make_run(weights=WEIGHTS, checkpoints={"zorp-300": (900, 1.0)})
    card = decide(replace(run, histories={"zorp-300": path}), measure(replace(run, histories={"zorp-300": path}), 50))
    assert card.dimensions["curve"].verdict == "good"
    assert "converged" in card.dimensions["curve"].reason
    assert card.dimensions["curve"].evidence["curve"]["file"] == "history.csv"


def test_a_broken_history_is_not_measured_and_says_which_file(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("a,b\n1,2\n")
    run = replace(make_run(weights=WEIGHTS), histories={"zorp-300": path})
    card = decide(run, measure(run, 50))
    assert card.dimensions["curve"].score is None
    assert str(path) in card.dimensions["curve"].reason


def test_seeds_overlap_makes_a_tie_rather_than_a_winner() -> None:
    """Two checkpoints a hair apart, noisy pictures, two prompts of two seeds: nobody is separated."""
    card = card_of(
        weights=(0.0, 0.5, 1.0), seeds=2, noise=1.5, roles=("plain", "fidelity"),
        checkpoints={"z-100": (100, 0.97), "z-200": (200, 1.0)},
    )  # fmt: skip
    assert card.checkpoint == "z-100"
    assert any(entry["checkpoint"] == "z-200" for entry in card.tie)


def test_pictures_that_suit_every_lora_make_no_winner() -> None:
    """An adaptive sweep gives some conditions more seeds: their means are of other pictures than those of the rest."""
    data = make_run(noise=1.2, weights=(0.0, 1.0), checkpoints={"z-100": (100, 0.97), "z-200": (200, 1.0)})
    whole = standing(data, measure(data, 100))
    worse, better = 0, 1
    assert whole.first == better and (whole.gain == np.nanmean(whole.objective.cube, axis=(1, 2))).all()
    easy = data.cells["prompt_id"].str.contains("plain|fidelity")
    part = kept(data, ((data.cells["checkpoint"] != "z-100") | easy).to_numpy())
    now = standing(part, measure(part, 100))
    plain = np.nanmean(now.objective.cube, axis=(1, 2))
    assert plain[worse] > plain[better]
    assert now.first == better and now.gain[better] - now.gain[worse] == pytest.approx(
        float(np.nanmean(now.objective.cube[better] - now.objective.cube[worse]))
    )
    # and its interval moves along
    low, high = now.draws.interval()
    assert low[worse] < now.gain[worse] < high[worse]


@pytest.mark.parametrize(
    "rule", [rule for spec in SPECS for rule in spec.remedies], ids=lambda rule: str(rule.what[:40])
)
def test_every_row_of_the_advice_table_says_what_to_change(rule) -> None:
    assert len(rule.change) > 20 and len(rule.what) > 10


def test_advice_on_an_oscillating_curve_is_the_learning_rate() -> None:
    d = Dimension("curve", 0.4, None, None, 900, "weak", "oscillating")
    (advice, *_) = advise([Judged(curve.SPEC, curve.Result(state="oscillating"), d)], [], 2)
    assert "learning rate is too high" in advice.change


def test_advice_on_breaking_at_half_weight_is_overtraining_or_base_model() -> None:
    d = Dimension("strength", 0.4, None, None, 16, "weak", "")
    found = strength.Result(onset=0.4, weakest="unbroken")
    (advice, *_) = advise([Judged(strength.SPEC, found, d)], [], 2)
    assert "overtrained, or the base model does not fit" in advice.change
