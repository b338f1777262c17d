"""Two runs side by side: known differences, independent statistics, refusals, bytes."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from lora_eval.errors import RunError
from lora_eval.report.comparison import to_json, write_comparison
from lora_eval.scorecard.comparison.compare import compare
from lora_eval.scorecard.comparison.verdict import Row, standing, verdict
from tests.fakes_scorecard import read_json, small_score, tree_hashes

CORE = ("plain", "fidelity")
FIDELITY = "likeness to the references (CLIP-I)"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """One run of two checkpoints, three weights, six prompts, three seeds."""
    root = tmp_path_factory.mktemp("compare")
    small_score(root, root / "run", prompts=6, seeds=3)
    return root / "run"


@pytest.fixture
def two(drawn, tmp_path):
    """The same run in two folders, to be changed at will."""
    for name in ("one", "two"):
        shutil.copytree(drawn, tmp_path / name)
    return tmp_path / "one", tmp_path / "two"


def both(two, **changes):
    return compare(two, ["zorp-000200:1", "zorp-000200:1"], **changes)


def row_of(comparison, measure: str) -> Row:
    return next(row for row in comparison.rows if row.measure.startswith(measure))


def cells(run: Path) -> list[dict[str, str]]:
    with open(run / "cells.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def edit_cells(run: Path, change) -> None:  # type: ignore[no-untyped-def]
    table = cells(run)
    for row in table:
        change(row)
    with open(run / "cells.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def shift(column: str, by: float, roles: tuple[str, ...] = (), noise: float = 0.0):
    """Add ``by`` (and reproducible noise) to a column of all pictures with LoRA."""
    rng = np.random.default_rng(7)

    def change(row: dict[str, str]) -> None:
        if row["weight"] != "0" and row[column] and (not roles or row["role"] in roles):
            row[column] = f"{float(row[column]) + by + noise * rng.normal():.6g}"

    return change


def edit_json(path: Path, change) -> None:  # type: ignore[no-untyped-def]
    raw = read_json(path)
    change(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")


class TestDifferences:
    def test_a_run_against_its_copy_is_a_tie_in_everything(self, two):
        found = both(two)
        tested = [row for row in found.rows if row.ahead]
        assert {row.dimension for row in tested} >= {"consistency", "fidelity", "generalisation", "alignment"}
        assert all((row.difference, row.ci_low, row.ci_high, row.ahead) == (0, 0, 0, "tie") for row in tested)
        assert found.verdict.startswith("A tie")

    def test_a_known_shift_is_found_exactly_and_goes_to_the_better_side(self, two):
        edit_cells(two[1], shift("clip_i", -0.1, ("plain", "fidelity")))
        found = both(two)
        row = row_of(found, FIDELITY)
        assert row.difference == pytest.approx(0.1, abs=2e-6)
        assert (row.ci_low, row.ci_high) == (pytest.approx(0.1, abs=2e-6), pytest.approx(0.1, abs=2e-6))
        assert row.ahead == found.sides[0].label
        assert standing(found.rows, row.first, row.second)["fidelity"] == row.ahead
        assert row_of(found, "likeness on challenge").ahead == "tie"

    @pytest.mark.parametrize(("by", "better"), [(2.0, 0), (-0.0, None)])
    def test_of_distortion_less_is_better(self, two, by, better):
        edit_cells(two[0], lambda row: row.update(distortion_z="3.5") if row["distortion_z"] else None)
        edit_cells(two[1], lambda row: row.update(distortion_z=f"{3.5 + by}") if row["distortion_z"] else None)
        found = both(two)
        row = row_of(found, "distortion")
        assert row.difference == pytest.approx(-by)
        assert row.ahead == ("tie" if better is None else found.sides[better].label)

    def test_distortion_inside_the_spread_of_weight_0_counts_for_nothing(self, two):
        edit_cells(two[1], lambda row: row.update(distortion_z="2.9") if row["distortion_z"] else None)
        edit_cells(two[0], lambda row: row.update(distortion_z="0.1") if row["distortion_z"] else None)
        assert row_of(both(two), "distortion").difference == 0

    def test_value_and_p_agree_with_an_independent_computation(self, two):
        edit_cells(two[1], shift("clip_t", -0.01, noise=0.02))
        row = row_of(both(two), "fit to the prompt")
        tables = [
            {(r["prompt"], r["negative_prompt"], r["seed"]): float(r["clip_t"]) for r in cells(run)
             if r["checkpoint"] == "zorp-000200" and r["weight"] == "1"
             and r["role"] in ("plain", "fidelity", "challenge", "composition")}
            for run in two
        ]  # fmt: skip
        off = {key: tables[0][key] - tables[1][key] for key in tables[0]}
        assert row.n == len(off)
        assert row.difference == pytest.approx(np.mean(list(off.values())), abs=1e-6)
        assert row.first_value == pytest.approx(np.mean(list(tables[0].values())), abs=1e-6)
        if row.n <= 12:
            total = abs(sum(off.values()))
            signs = itertools.product((-1, 1), repeat=len(off))
            exact = np.mean([abs(np.dot(s, list(off.values()))) >= total * (1 - 1e-12) for s in signs])
            assert row.p == pytest.approx(exact, abs=1e-6)

    def test_order_of_the_runs_changes_the_sign_and_nothing_else(self, two):
        edit_cells(two[1], shift("clip_i", -0.05, noise=0.02))
        edit_cells(two[1], shift("clip_t", 0.03, noise=0.01))
        here, there = both(two), both(two[::-1])
        first_label, second_label = (side.label for side in here.sides)
        swap = {first_label: there.sides[1].label, second_label: there.sides[0].label, "tie": "tie", "": ""}
        for row, back in zip(here.rows, there.rows, strict=True):
            assert back.ahead == swap[row.ahead]
            if row.difference is not None and row.n:
                assert back.difference == pytest.approx(-row.difference, abs=2e-6)
                assert (back.ci_low, back.ci_high) == (
                    pytest.approx(-row.ci_high, abs=2e-6), pytest.approx(-row.ci_low, abs=2e-6),
                )  # fmt: skip

    def test_what_prompt_and_seed_bring_cancels(self, two):
        """The same noise on both sides leaves the difference as sharp as without it."""
        for run in two:
            edit_cells(run, shift("clip_i", 0.0, noise=0.5))
        edit_cells(two[1], shift("clip_i", -0.02))
        row = row_of(both(two), FIDELITY)
        assert row.difference == pytest.approx(0.02, abs=1e-5) and row.ci_low == pytest.approx(0.02, abs=1e-5)

    def test_holm_over_all_rows_that_could_be_significant(self, two):
        edit_cells(two[1], shift("clip_i", -0.1, noise=0.01))
        rows = both(two).rows
        family = [row for row in rows if row.p is not None and row.p_best <= 0.05]
        running = 0.0
        for rank, row in enumerate(sorted(family, key=lambda row: row.p)):
            running = max(running, min(1.0, (len(family) - rank) * row.p))
            assert row.p_holm == pytest.approx(running, abs=1e-5)
        assert family and all(row.p_holm is None for row in rows if row not in family)

    def test_the_smallest_p_is_that_of_differences_of_one_sign(self, two):
        edit_cells(two[1], shift("clip_i", -0.1, ("plain", "fidelity")))
        found = both(two)
        row = row_of(found, FIDELITY)
        assert row.n == 6 and row.p == row.p_best == pytest.approx(2 / 2**6)
        same = row_of(found, "copies")
        assert (same.p_best, same.p_holm) == (1.0, None), "pictures that differ in nothing are no test"

    def test_agreement_between_seeds_is_resampled_as_pseudo_values(self, two):
        """Known answer: the jackknife's own formula on the matrix of cosines that the table's means come from."""
        rng = np.random.default_rng(3)
        wanted = []
        for run in two:
            matrices: dict[str, np.ndarray] = {}

            def change(row, matrices=matrices):  # type: ignore[no-untyped-def]
                if row["weight"] == "0" or row["checkpoint"] != "zorp-000200" or row["weight"] != "1":
                    return
                if row["prompt_id"] not in matrices:
                    half = rng.uniform(0, 1, (3, 3))
                    matrices[row["prompt_id"]] = half + half.T
                m = matrices[row["prompt_id"]]
                at = int(row["seed"]) - 1
                row["carlos"] = repr(float(np.delete(m[at], at).mean()))

            edit_cells(run, change)
            roles = {row["prompt_id"]: row["role"] for row in cells(run)}
            means = [m[np.triu_indices(3, 1)].mean() for name, m in matrices.items() if roles[name] in CORE]
            wanted.append(np.mean(means))
        row = row_of(both(two), "agreement")
        assert row.first_value == pytest.approx(wanted[0], abs=1e-6)
        assert row.difference == pytest.approx(wanted[0] - wanted[1], abs=1e-6)

    def test_two_seeds_give_one_agreement_a_prompt_and_no_false_certainty(self, two):
        for run, value in zip(two, ("0.9", "0.5"), strict=True):
            edit_cells(run, lambda row, v=value: row.update(carlos=v if row["seed"] != "3" else ""))
        row = row_of(both(two), "agreement")
        assert row.n == 2 and row.difference == pytest.approx(0.4)
        assert (row.ci_low, row.ahead) == (None, "") and "no interval" in row.note


class TestWhatIsCompared:
    def test_recommended_checkpoint_and_weight_by_default(self, two):
        for run, weight in zip(two, (0.5, 1.0), strict=True):
            edit_json(
                run / "scorecard.json",
                lambda raw, w=weight: raw.update(recommended={"checkpoint": "zorp-000100", "weight": w}),
            )
        assert [(side.checkpoint, side.weight) for side in compare(two).sides] == [
            ("zorp-000100", 0.5), ("zorp-000100", 1.0),
        ]  # fmt: skip

    def test_two_checkpoints_of_one_run(self, drawn):
        found = compare([drawn, drawn], ["zorp-000100:1", "zorp-000200:1"])
        assert row_of(found, FIDELITY).ahead == "zorp-000200 at 1", "the fake LoRA is stronger with its steps"

    def test_labels_are_unique_and_short(self, two):
        assert [side.label for side in both(two).sides] == ["one: zorp-000200 at 1", "two: zorp-000200 at 1"]
        found = compare(two, ["zorp-000100:1", "zorp-000200:1"])
        assert [side.label for side in found.sides] == ["zorp-000100 at 1", "zorp-000200 at 1"]

    def test_another_trigger_is_paired_by_the_sentence_around_it(self, two):
        def rename(raw):  # type: ignore[no-untyped-def]
            raw["trigger"] = "blarg"
            for prompt in raw["prompts"]:
                prompt["text"] = re.sub(r"\bzorp\b", "blarg", prompt["text"])

        edit_json(two[1] / "plan.json", rename)
        found = both(two)
        assert len(found.keys) == 18
        assert any("triggers differ (zorp, blarg)" in note for note in found.notes)

    def test_only_shared_prompts_and_seeds_count(self, two):
        edit_cells(two[1], lambda row: row.update(seed="9") if row["seed"] == "3" else None)
        edit_json(two[1] / "plan.json", lambda raw: raw.update(seeds=[1, 2, 9]))
        found = both(two)
        assert {key.seed for key in found.keys} == {1, 2}
        assert any("6 of 18 pictures have no partner" in note for note in found.notes)

    def test_three_runs_give_three_pairs(self, two, drawn):
        edit_cells(two[1], shift("clip_i", -0.1, ("plain", "fidelity")))
        found = compare([*two, drawn], ["zorp-000200:1"] * 3)
        assert len({(row.first, row.second) for row in found.rows}) == 3


class TestNotMeasured:
    def test_other_references_leave_likeness_out_and_say_so(self, two):
        edit_cells(two[1], lambda row: row.update(clip_i=f"{float(row['clip_i']) + 0.2:.6g}"))
        row = row_of(both(two), FIDELITY)
        assert (row.difference, row.ahead) == (None, "")
        assert "other reference pictures" in row.note and "--data" in row.note

    def test_without_likeness_the_rest_is_compared(self, two):
        edit_cells(two[1], lambda row: row.update(clip_i="", clip_i_gain=""))
        found = both(two)
        assert row_of(found, FIDELITY).note.startswith("not measured")
        assert row_of(found, "fit to the prompt").ahead == "tie"

    def test_another_class_word_leaves_alignment_out(self, two):
        def other(raw):  # type: ignore[no-untyped-def]
            for prompt in raw["prompts"]:
                prompt["class_text"] = prompt["class_text"].replace("shape", "thing")

        edit_json(two[1] / "plan.json", other)
        row = row_of(both(two), "fit to the prompt")
        assert row.difference is None and "--class-word" in row.note

    def test_without_features_diversity_is_not_measured_and_nothing_fails(self, two):
        (two[0] / "features.npz").unlink()
        found = both(two)
        assert "not measured" in row_of(found, "diversity").note
        assert row_of(found, FIDELITY).ahead == "tie"

    def test_curves_are_told_not_tested(self, two):
        row = row_of(both(two), "state of the loss curve")
        assert row.p is None and row.ahead == "" and "not tested" in row.note


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda raw: raw["model"].update(name="other"), "the model"),
            (lambda raw: raw["model"].update(sha256="b" * 64), "hash of model fake"),
            (lambda raw: raw["sampling"].update(sampler="DPM++ 2M"), "sampler"),
            (lambda raw: raw["sampling"].update(width=128), "width"),
            (lambda raw: raw["sampling"].update(steps=99), "steps"),
        ],
    )
    def test_another_model_or_sampling(self, two, change, says):
        edit_json(two[1] / "plan.json", change)
        with pytest.raises(RunError, match=rf"cannot compare: .*{re.escape(says)}.*{two[1].name}.*; score one") as info:
            both(two)
        assert "\n" not in str(info.value)

    def test_another_encoder(self, two):
        edit_json(two[1] / "scorecard.json", lambda raw: raw["provenance"].update(encoder="other"))
        with pytest.raises(RunError, match=r"encoder is fake in .* and other in .*--encoder"):
            both(two)

    def test_no_shared_seed(self, two):
        edit_cells(two[1], lambda row: row.update(seed=str(int(row["seed"]) + 100)))
        edit_json(two[1] / "plan.json", lambda raw: raw.update(seeds=[101, 102, 103]))
        with pytest.raises(RunError, match=r"share no prompt with the same seed; .*--suite and --seeds"):
            both(two)

    def test_a_run_that_recommends_nothing(self, two):
        edit_json(two[0] / "scorecard.json", lambda raw: raw.update(recommended={"checkpoint": None, "weight": None}))
        with pytest.raises(RunError, match=r"one recommends no checkpoint and weight; name one with --at"):
            compare(two)

    @pytest.mark.parametrize(
        ("at", "says"),
        [
            (["zorp-000200"], "not NAME:WEIGHT"),
            (["zorp-000200:lots"], "not NAME:WEIGHT"),
            (["zorp-000200:nan"], "not NAME:WEIGHT"),
            (["nobody:1"], "no run has the checkpoint nobody; there are zorp-000100, zorp-000200"),
            (["zorp-000200:1"], "fits several runs"),
            (["zorp-000200:0.7", "zorp-000200:1"], "drawn were 0.5, 1"),
            (["zorp-000200:0", "zorp-000200:1"], "drawn were 0.5, 1"),
        ],
    )
    def test_at_that_fits_nothing(self, two, at, says):
        with pytest.raises(RunError, match=re.escape(says)):
            compare(two, at)

    def test_the_same_pictures_twice(self, drawn):
        with pytest.raises(RunError, match="named twice"):
            compare([drawn, drawn], ["zorp-000200:1", "zorp-000200:1"])

    def test_one_run_no_run_half_a_run(self, two, tmp_path):
        with pytest.raises(RunError, match="needs two"):
            compare(two[:1])
        with pytest.raises(RunError, match="does not exist"):
            compare([two[0], tmp_path / "nothing"])
        (tmp_path / "empty").mkdir()
        with pytest.raises(RunError, match=r"neither plan\.json nor table\.json"):
            compare([two[0], tmp_path / "empty"])
        (two[1] / "scorecard.json").unlink()
        with pytest.raises(RunError, match="not measured to its end"):
            compare(two)

    def test_a_table_that_does_not_fit_its_plan(self, two):
        edit_cells(two[1], lambda row: row.update(prompt_id="invented"))
        with pytest.raises(RunError, match=r"cells.csv, line 2 does not fit plan.json"):
            both(two)


class TestFiles:
    def test_same_bytes_again_and_the_runs_stay_as_they_are(self, two, tmp_path):
        edit_cells(two[1], shift("clip_i", -0.05, noise=0.02))
        before = [tree_hashes(run) for run in two]
        for name in ("a", "b"):
            write_comparison(tmp_path / name, both(two))
        assert tree_hashes(tmp_path / "a") == tree_hashes(tmp_path / "b")
        files = {name for name in tree_hashes(tmp_path / "a") if not name.startswith("thumbs/")}
        assert files == {"compare.csv", "compare.json", "compare.html"}
        assert [tree_hashes(run) for run in two] == before

    def test_table_and_json_hold_the_same_rows(self, two, tmp_path):
        found = both(two)
        write_comparison(tmp_path / "out", found)
        with open(tmp_path / "out" / "compare.csv", encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        raw = read_json(tmp_path / "out" / "compare.json")
        assert raw == to_json(found) and raw["verdict"] == found.verdict
        assert [row["measure"] for row in table] == [row["measure"] for row in raw["rows"]]
        for line, row in zip(table, raw["rows"], strict=True):
            assert line["difference"] == ("" if row["difference"] is None else f"{row['difference']:.6g}")

    def test_the_page_needs_nothing_from_outside(self, two, tmp_path):
        page = write_comparison(tmp_path / "out", both(two)).read_text(encoding="utf-8")
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
        # 18 pairs, each with weight 0 and two sides
        assert len(re.findall(r'<img src="data:image/', page)) == 18 * 3
        assert "Side by side" in page and "zorp-000200 at 1" in page

    def test_names_from_outside_are_escaped(self, two, tmp_path):
        evil = tmp_path / "<script>alert(1)"
        shutil.copytree(two[0], evil)
        page = write_comparison(tmp_path / "out", both((evil, two[1]))).read_text(encoding="utf-8")
        assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page


def made(first: str, second: str, dimension: str, ahead: str, p: float = 0.001) -> Row:
    return Row(first, second, dimension, "m", "higher", 1, 0, 1, 0.5, 1.5, 12, 4, p, 0.0005, p, ahead)


class TestVerdict:
    def test_ahead_and_behind_in_nothing(self):
        rows = [made("A", "B", "fidelity", "A"), made("A", "B", "alignment", "tie")]
        assert verdict(["A", "B"], rows) == "Take A: ahead of B in fidelity, behind in nothing."

    def test_a_winner_that_does_not_survive_the_correction_is_only_likely(self):
        said = verdict(["A", "B"], [made("A", "B", "fidelity", "A", p=0.2)])
        assert said.startswith("Likely A: ") and "corrected p is 0.2" in said

    def test_each_ahead_in_something_is_no_winner(self):
        rows = [made("A", "B", "fidelity", "A"), made("A", "B", "alignment", "B")]
        assert verdict(["A", "B"], rows) == (
            "No clear winner: A is ahead of B in fidelity; B is ahead of A in alignment."
        )

    def test_a_dimension_split_in_itself_is_no_win(self):
        rows = [made("A", "B", "generalisation", "A"), made("A", "B", "generalisation", "B")]
        assert standing(rows, "A", "B") == {"generalisation": "mixed"}
        assert verdict(["A", "B"], rows).startswith("No clear winner")

    def test_all_ties(self):
        assert verdict(["A", "B"], [made("A", "B", "fidelity", "tie")]).startswith("A tie: no dimension tells A and B")

    def test_nothing_tested_is_not_decided(self):
        assert verdict(["A", "B"], [Row("A", "B", "fidelity", "m", "higher")]).startswith("Not decided")

    def test_of_three_the_one_that_beats_one_and_ties_the_other(self):
        rows = [
            made("A", "B", "fidelity", "B"),
            made("A", "C", "fidelity", "tie"),
            made("B", "C", "fidelity", "tie"),
        ]
        assert verdict(["A", "B", "C"], rows) == "Take B: ahead of A in fidelity, behind in nothing; a tie with C."

    def test_of_three_without_a_winner_the_leaders_are_named_by_dimension(self):
        rows = [
            made("A", "B", "fidelity", "A"),
            made("A", "C", "fidelity", "A"),
            made("B", "C", "alignment", "C"),
            made("A", "C", "alignment", "C"),
        ]
        assert verdict(["A", "B", "C"], rows) == "No clear winner: A leads in fidelity; C leads in alignment."

    def test_too_few_pairs_for_a_test_is_no_certainty(self):
        row = made("A", "B", "fidelity", "A")
        row.p_holm = None
        assert "too few pairs for a test" in verdict(["A", "B"], [row])

    def test_a_circle_has_no_winner(self):
        rows = [made("A", "B", "fidelity", "A"), made("B", "C", "fidelity", "B"), made("A", "C", "fidelity", "C")]
        assert verdict(["A", "B", "C"], rows).startswith("No clear winner")
