"""The validity bench: planted faults are what they say, its figures are right, a small run tells good from bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("diffusers")

from benchmarks import _planted as planted
from benchmarks import _validity_adaptive as adaptive
from benchmarks import _validity_advice as advice
from benchmarks import _validity_coverage as coverage
from benchmarks import _validity_tables as tables
from benchmarks import _validity_truth as truth
from benchmarks import validity
from lora_eval.files import read_json
from lora_eval.scorecard.decision.adaptive import with_budget
from lora_eval.scorecard.dimensions.registry import NAMES as DIMENSIONS
from lora_eval.scorecard.plan.suites import load_suite
from tests.scorecard.decision.test_adaptive import plan_of
from tests.scorecard.synthetic_run import make_run
from tools.tiny_world.drawings import SHAPES, SUBJECTS

scores = st.lists(st.integers(0, 5), min_size=1, max_size=8)


def result(
    kind: str = "good", weight: float | None = 0.8, checkpoint: str | None = "b", **verdicts: Any
) -> dict[str, Any]:
    dimensions = {name: {"verdict": "good", "score": 0.9, "reason": ""} for name in DIMENSIONS}
    for name, (verdict, score) in verdicts.items():
        dimensions[name] = {"verdict": verdict, "score": score, "reason": ""}
    entry = {"attributes": 1.0, "leak": 0.0, "plain_style": 1.0, "core": 0.9, "challenge": 0.9, "disagree": 0.0}
    truth = [{"checkpoint": "", "step": None, "weight": 0.0, "concept": 0.0, "accuracy": 0.0, "quality": 0.0, **entry}]
    for name, step, quality in (("a", 10, (0.1, 0.3, 0.6)), ("b", 20, (0.5, 0.9, 0.89))):
        for at, value in zip((0.4, 0.8, 1.2), quality, strict=True):
            truth.append({"checkpoint": name, "step": step, "weight": at, "concept": value, "accuracy": value,
                          "quality": value, **entry})  # fmt: skip
    return {
        "settings": {"kind": kind, "concept": "mave", "seed": 0},
        "verdict": "", "checkpoint": checkpoint, "weight": weight, "dimensions": dimensions, "truth": truth,
        "coverage": [],
    }  # fmt: skip


# -- figures ------------------------------------------------------------------------------------


@given(scores, scores)
def test_auc_is_the_share_of_pairs_in_the_right_order(good: list[int], bad: list[int]) -> None:
    won = sum(1.0 if b > g else 0.5 if b == g else 0.0 for g in good for b in bad)
    assert tables.auc(good, bad) == pytest.approx(won / (len(good) * len(bad)))
    assert tables.auc(good, bad) + tables.auc(bad, good) == pytest.approx(1.0)


def test_a_dimension_that_was_not_measured_is_neither_flag_nor_pass() -> None:
    quiet = result(fidelity=("not measured", None))
    assert tables.flagged(quiet, "fidelity") is None and tables.badness(quiet["dimensions"]["fidelity"]) is None
    found = [tables.flagged(result(fidelity=(v, 0.5)), "fidelity") for v in ("good", "weak", "poor")]
    assert found == [False, True, True]
    assert tables.rate([None, True, False]) == (1, 2)


def test_a_flag_harmed_or_own_is_not_foreign() -> None:
    bad = ("poor", 0.1)
    results = [result("memorised", generalisation=bad, alignment=bad, strength=bad), result("noisy", alignment=bad)]
    rates = {row["dimension"]: (row["flagged"], row["measured"]) for row in tables.foreign(results)}
    assert rates["strength"] == (1, 2)
    # memorised harms alignment by itself, and noisy captions are alignment's own fault
    assert rates["alignment"] == (0, 0)
    assert rates["generalisation"] == (0, 1)


@pytest.mark.parametrize(
    ("dimension", "change"),
    [
        ("fidelity", {"core": 0.5}),
        ("consistency", {"disagree": 0.5}),
        ("consistency", {"plain_style": 0.5}),
        ("generalisation", {"leak": 0.5}),
        ("generalisation", {"challenge": 0.5}),
        ("alignment", {"attributes": 0.5}),
        ("strength", {"attributes": 0.5}),
        ("curve", {"accuracy": 0.5}),
    ],
)
def test_what_the_reader_sees_harmed_is_no_foreign_flag(dimension: str, change: dict[str, float]) -> None:
    sound, hurt = result("leaking" if dimension == "consistency" else "mixed"), result("mixed")
    for entry in hurt["truth"]:
        if entry["checkpoint"]:
            entry.update(change)
    assert not tables.harmed(sound, dimension)
    assert tables.harmed(hurt, dimension)


@pytest.mark.parametrize(
    ("checkpoint", "weight", "off", "checkpoint_off"),
    [("b", 0.8, 0.0, 0.0), ("b", 1.2, 0.0, 0.0), ("b", 0.4, 0.4, 0.0), ("a", 1.2, 0.0, 0.3), (None, None, None, None)],
)
def test_advice_is_measured_against_the_best_of_the_grid(checkpoint, weight, off, checkpoint_off) -> None:
    one = result(weight=weight, checkpoint=checkpoint)
    for found, expected in ((advice.weight_off(one), off), (advice.checkpoint_lost(one), checkpoint_off)):
        assert found == (None if expected is None else pytest.approx(expected))


def fresh(**hits: int) -> list[dict[str, Any]]:
    """Entries of 100 pictures: ``a_12=90`` is checkpoint a at weight 1.2, 90 of them read as the concept."""
    return [
        {"checkpoint": key[0], "weight": int(key[2:]) / 10, "named": [1] * n + [0] * (100 - n), "right": [1.0] * 100}
        for key, n in hits.items()
    ]


def test_advice_is_measured_on_fresh_pictures_and_between_the_weights_of_the_grid() -> None:
    one = result(weight=0.4)
    assert advice.on_fresh(one) is None
    one["fresh"] = fresh(a_12=90, b_4=70, b_6=84, b_8=85, b_12=80)
    found = advice.on_fresh(one)
    # .6 is as good as the best, .8; the checkpoint is compared at .8, the grid's best
    assert (found.weight_off, found.quality_lost) == (pytest.approx(0.2), pytest.approx(0.15))
    assert (found.checkpoint_lost, found.surely_worse) == (pytest.approx(0.05), False)
    at_best = advice.on_fresh({**one, "weight": 0.6})
    assert (at_best.weight_off, at_best.quality_lost) == (0.0, pytest.approx(0.01))
    # drawn for another advice
    assert advice.on_fresh({**one, "weight": 1.0}) is None


def test_attributes_that_are_not_as_asked_cost_quality() -> None:
    one = {**result(weight=0.8), "fresh": fresh(a_12=90, b_8=90, b_4=80)}
    one["fresh"][1]["right"] = [0.5] * 100
    assert advice.on_fresh(one).quality_lost == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("advised", "other", "lost", "sure"),
    [
        ([1, 1, 0, 0] * 10, [1, 1, 0, 0] * 10, 0.0, False),
        ([1, 0, 0, 0] * 10, [1, 1, 0, 0] * 10, 0.25, True),
        # two pictures of forty more, one fewer: nothing is proven
        ([1, 0, 0] + [1] * 37, [0, 1, 1] + [1] * 37, 0.025, False),
        ([1, 1] * 20, [1, 0] * 20, 0.0, False),
    ],
)
def test_checkpoints_are_compared_pair_by_pair(advised, other, lost, sure) -> None:
    entries = [("a", 1.2, other), ("b", 0.8, advised)]
    one = result(checkpoint="b")
    one["fresh"] = [{"checkpoint": c, "weight": w, "named": n, "right": [1.0] * len(n)} for c, w, n in entries]
    found = advice.on_fresh(one)
    assert (found.checkpoint_lost, found.surely_worse) == (pytest.approx(lost), sure)


def test_the_weight_of_the_comparison_shows_the_concept_most_often_then_best() -> None:
    entries = [
        {"checkpoint": name, "weight": weight, "accuracy": accuracy, "quality": quality}
        for name, weight, accuracy, quality in (
            ("", 0.0, 1.0, 1.0), ("a", 0.4, 0.5, 0.5), ("a", 0.8, 0.9, 0.6), ("a", 1.2, 0.9, 0.7), ("b", 0.4, 0.2, 0.1),
        )
    ]  # fmt: skip
    assert advice.best_weights(entries) == {"a": 1.2, "b": 0.4}


def test_in_question_are_weights_near_the_best_those_between_them_and_the_advised_one() -> None:
    loras = [Path("a.safetensors"), Path("b.safetensors")]

    def asked(advised: float) -> dict[str, list[float]]:
        uses = truth.in_question(loras, result(weight=advised))
        return {lora.stem: [weight for other, weight in uses if other == lora] for lora in loras}

    # b: .5, .9 and .89 at .4, .8 and 1.2; a at its best
    assert asked(0.8) == {"a": [1.2], "b": [0.8, 1.0, 1.2]}
    assert asked(0.4) == {"a": [1.2], "b": [0.4, 0.6, 0.8, 1.0, 1.2]}


def test_the_readers_own_choice_is_judged_by_fresh_pictures_too() -> None:
    one = {**result(weight=0.4), "fresh": fresh(a_12=90, b_4=50, b_8=80, b_12=95)}
    assert advice.reader_choice(one) is False
    assert advice.reader_choice({**one, "fresh": fresh(a_12=90, b_4=50, b_8=94, b_12=95)}) is True
    assert advice.reader_choice(result(checkpoint=None, weight=None)) is None


def test_tables_name_fault_dimension_and_counts() -> None:
    text = tables.markdown([result(), result("noisy", alignment=("poor", 0.2))], "the command")
    assert "| noisy | alignment | 1 | 1.00 | 1 of 1 | 0 of 1 | 0 |" in text
    assert "the command" in text
    other = result("noisy", alignment=("poor", 0.2), curve=("weak", 0.2))
    other["settings"] = {**other["settings"], "seed": 800}
    split = tables.markdown([result(), other], "", seen_below=800)
    assert "| below 800 | 1 | 0 of 0 | 1 of 1 |" in split
    assert "| from 800 | 1 | 1 of 1 | 0 of 0 |" in split
    seen = {**result(), "fresh": fresh(a_12=90, b_8=90, b_12=95)}
    assert "| all | 1 of 1 | 0 of 1 | 0.05 | 1 of 1 | 1 of 1 | 1 of 1 | 1 of 1 |" in tables.markdown([seen], "")


def test_the_advice_by_more_pictures_stands_in_a_table_of_its_own() -> None:
    seen = {**result(), "pictures": 32, "fresh": fresh(a_12=90, b_8=90, b_12=95)}
    sparse = {"same": False, "tied": True, "pictures": 600, "of": 2080, "less_a_seed": {"same": True, "tied": True}}
    more = {"checkpoint": "b", "weight": 1.2, "pictures": 112, "truth": seen["truth"], "adaptive": sparse}
    row = "| all | 1 of 1 | 1 of 1 | 0.00 | 1 of 1 | 1 of 1 | 1 of 1 | 1 of 1 |"
    text = tables.markdown([{**seen, "more": more}], "", seen_below=800)
    assert row in text and row not in tables.markdown([seen], "")
    assert "112 pictures of the concept a weight where the grid above has 32" in text
    assert "| with more pictures | 600 of 2080 | 0 of 1 | 1 of 1 | 1 of 1 | 1 of 1 |" in text
    split = next(line for line in text.splitlines() if line.startswith("| below 800"))
    # near the best by the grid, and by more pictures; ties of a third of either
    assert split.split(" | ")[6:] == [
        "0 of 1", "0.05", "1 of 1", "1 of 1", "1 of 1", "1 of 1", "0 of 0", "1 of 1 |"
    ]  # fmt: skip


# -- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", planted.KINDS)
def test_every_trigger_but_the_leaks_stands_in_the_captions(kind: str) -> None:
    case = planted.Case(kind, "quib", 3)
    pairs = planted.training_pairs(case)
    named = [any(word == "quib" for word in text.replace(",", "").split()) for _, text in pairs]
    assert {d.shape for d, _ in pairs} == {"mave" if kind == "wrong" else "quib"}
    if kind == "leaking":
        assert sum(named) == len(pairs) - round(planted.LEAK_SHARE * len(pairs))
        assert all(any(s in text.split() or s in text.replace(",", "").split() for s in SHAPES)
                   for (_, text), hit in zip(pairs, named, strict=True) if not hit)  # fmt: skip
    else:
        assert all(named)
    assert len(pairs) == (planted.MEMORISED_PICTURES if kind == "memorised" else planted.PICTURES)
    assert {d.shape for d, _ in planted.reference_pairs(case)} == {"quib"}


def test_faults_are_where_they_belong() -> None:
    def pairs(kind: str) -> planted.Pairs:
        return planted.training_pairs(planted.Case(kind, "mave", 7))

    good = pairs("good")
    assert [d for d, _ in pairs("noisy")] == [d for d, _ in good]
    assert sum(a != b for (_, a), (_, b) in zip(pairs("noisy"), good, strict=True)) >= 25
    assert sum(bool(d.style) for d, _ in pairs("mixed")) == round(planted.MIXED_SHARE * planted.PICTURES)
    assert not any(d.style for d, _ in good)
    references = {(d.radius, d.dx) for d, _ in planted.reference_pairs(planted.Case("good", "mave", 7))}
    assert not references & {(d.radius, d.dx) for d, _ in good}


def test_cases_go_round_subjects_and_never_repeat() -> None:
    found = planted.cases(list(planted.KINDS), 3)
    assert len({case.name for case in found}) == 24 and len({case.seed for case in found}) == 24
    for kind in planted.KINDS:
        assert {case.concept for case in found if case.kind == kind} == set(SUBJECTS)
    assert planted.cases(["good", "noisy"], 1)[1] == found[list(planted.KINDS).index("noisy")]


def test_prompts_are_read_as_they_are_written() -> None:
    assert truth.asked_for("a dotted yellow zorp on the right, pink background") == {
        "colour": "yellow", "texture": "dotted", "position": "right", "background": "pink",
    }  # fmt: skip
    assert truth.asked_for("a plain red star in the center, cyan background")["shape"] == "star"


def test_the_fresh_suite_asks_for_what_the_tiny_suite_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "fresh.yaml"
    path.write_text(truth.fresh_suite(7, 32), encoding="utf-8")
    prompts = load_suite(path, trigger="zorp", class_word="shape")
    assert path.read_text(encoding="utf-8") == truth.fresh_suite(7, 32) != truth.fresh_suite(8, 32)
    roles = [p.role for p in prompts]
    assert all(roles.count(r) == 8 for r in ("plain", "fidelity", "composition", "challenge"))
    assert roles.count("unrelated") == 4
    for prompt in prompts:
        assert ("zorp" in prompt.text) == (prompt.role != "unrelated")
        asked = truth.asked_for(prompt.text)
        assert {"colour", "background"} <= set(asked)
        assert ("shape" in asked) == (prompt.role == "unrelated")
        assert len(prompt.elements) == (4 if prompt.role in ("composition", "challenge") else 0)


def test_a_part_of_a_run_keeps_what_its_plan_drew_and_nothing_else() -> None:
    data = make_run(seeds=4, checkpoints={"zorp-100": (100, 0.5), "zorp-300": (300, 1.0)})
    full = plan_of(data)
    drawn = with_budget(full, len(full) // 2)
    part = adaptive.part_of(data, drawn)
    assert len(part.cells) == len(drawn) == len(part.features) < len(data.cells)
    assert set(part.cells["seed"]) == {1} and (part.cells["weight"] == 0).any()


def test_a_sample_of_the_pool_is_a_scorecard_of_the_same_shape() -> None:
    pool = make_run(seeds=4, checkpoints={"zorp-300": (300, 1.0)})
    roles = ["plain", "challenge"]
    rng = np.random.default_rng(0)
    part = coverage.sample(pool, roles, 2, rng)
    assert sorted(p.role for p in part.prompts.values()) == sorted(roles)
    assert set(part.cells["prompt_id"]) == set(part.prompts) and part.cells["seed"].nunique() == 2
    assert len(part.cells) == len(part.features) == len(part.styles)
    assert sorted(part.cells["weight"].unique()) == sorted(pool.cells["weight"].unique())
    others = [coverage.sample(pool, roles, 2, rng) for _ in range(8)]
    assert len({tuple(sorted(o.cells["image"])) for o in others}) > 4


# -- the bench ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_good_lora_is_told_from_an_undertrained_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--kinds", "good,undertrained", "--concepts", "quib", "--steps", "150", "--checkpoints", "1",
        "--weights", "0-1.2 [4]", "--seeds", "3", "--pool-prompts", "0", "--fresh-prompts", "8",
        "--more-prompts", "12", "--more-seeds", "4", "--out", str(tmp_path),
    ]  # fmt: skip
    assert validity.main(arguments) == 0
    good, under = (next(r for r in read_json(tmp_path / "results.json") if r["settings"]["kind"] == kind)
                   for kind in ("good", "undertrained"))  # fmt: skip
    assert tables.at_full_weight(good)["accuracy"] >= 0.6 and tables.at_full_weight(under)["accuracy"] <= 0.2
    assert not tables.flagged(good, "fidelity") and good["weight"] is not None
    # the shipped CLIP takes a ring for half a quib, so likeness alone is not asked to tell: the curve does
    assert tables.flagged(under, "curve") and not tables.flagged(good, "curve")
    assert (under["dimensions"]["fidelity"]["score"] or 0.0) < good["dimensions"]["fidelity"]["score"]
    assert advice.weight_off(good) <= 0.4

    # more pictures hold the grid's own, and what they advise is judged on fresh ones too
    assert good["more"]["pictures"] > good["pictures"] == 8 * 3
    few, many = (tmp_path / "good-quib-0" / name / "images" for name in ("score", "more"))
    assert all(path.read_bytes() == (many / path.name).read_bytes() for path in few.iterdir())
    assert advice.on_fresh({**good, **good["more"]}) is not None

    # nothing is made twice, and a finished folder is not taken by mistake
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert validity.main(arguments) == 2
    assert validity.main([*arguments, "--resume"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    found = read_json(tmp_path / "results.json")
    assert validity.main([*arguments, "--measure-again"]) == 0
    assert read_json(tmp_path / "results.json") == found
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    # other settings do not pass for the same
    assert validity.main([*arguments[:-2], "--weights", "0-1 [3]", "--resume", *arguments[-2:]]) == 1
    assert "other settings" in capsys.readouterr().err
