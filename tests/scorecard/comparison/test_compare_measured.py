"""Comparing folders measured from a table: what is paired, by prompt alone, not at all, and what is refused."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lora_eval.errors import RunError
from lora_eval.report.comparison import write_comparison
from lora_eval.scorecard.comparison.compare import compare
from lora_eval.scorecard.comparison.pairs import _loose, permutation_test
from lora_eval.scorecard.comparison.runs import Key
from lora_eval.scorecard.comparison.verdict import BY_PROMPT, OPEN, PAIRED, Row
from lora_eval.service.measured import MeasureRequest
from lora_eval.service.scoring import measure_table, report
from tests.fakes_scorecard import FakeEncoder, read_json, small_score, tree_hashes

AT = "zorp-000200:1"
FIDELITY = "likeness to the references (CLIP-I)"
KEPT = ("role", "prompt", "negative_prompt", "seed", "weight", "checkpoint", "step")


def cells(run: Path) -> list[dict[str, str]]:
    with open(run / "cells.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def change_cells(run: Path, change) -> None:  # type: ignore[no-untyped-def]
    rows = cells(run)
    for row in rows:
        change(row)
    write(run / "cells.csv", rows)


def shift(column: str, by: float):  # type: ignore[no-untyped-def]
    def change(row: dict[str, str]) -> None:
        if row["weight"] != "0" and row[column]:
            row[column] = f"{float(row[column]) + by:.6g}"

    return change


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run``: drawn, six prompts and three seeds. ``mine``: the same pictures measured from a table."""
    base = tmp_path_factory.mktemp("measured")
    small_score(base, base / "run", prompts=6, seeds=3)
    measured(base, base / "mine")
    return base


def measured(base: Path, out: Path, change=None, keep=KEPT, **settings) -> Path:  # type: ignore[no-untyped-def]
    """The run's pictures as a table, changed row by row (False: left out), measured into ``out``."""
    rows = []
    for row in cells(base / "run"):
        one = {"image": str(base / "run" / row["image"]), **{name: row[name] for name in keep}}
        if change is None or change(one) is not False:
            rows.append(one)
    table = write(out.with_suffix(".csv"), rows)
    # some tables of these tests say of the pictures what is not so, to make pairs of another kind
    given = {"trigger": "zorp", "class_word": "shape", "data": base / "data", "believe_table": True, **settings}
    measure_table(table, out, MeasureRequest(**given), encoder=FakeEncoder(), resamples=50)
    return out


def other_seeds(row: dict[str, str]) -> None:
    row["seed"] = str(int(row["seed"]) + 100)


def other_prompts(row: dict[str, str]) -> None:
    row["prompt"] += ", on paper"


@pytest.fixture
def copies(root: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The drawn run and the measured folder, to be changed at will."""
    shutil.copytree(root / "run", tmp_path / "run")
    shutil.copytree(root / "mine", tmp_path / "mine")
    # paths of a table's pictures are relative to its folder
    change_cells(tmp_path / "mine", lambda row: row.update(image=str(root / "mine" / row["image"])))
    return tmp_path / "run", tmp_path / "mine"


def of(comparison, measure: str) -> Row:  # type: ignore[no-untyped-def]
    return next(row for row in comparison.rows if row.measure.startswith(measure))


def judged(comparison) -> list[Row]:  # type: ignore[no-untyped-def]
    return [row for row in comparison.rows if row.ahead]


class TestPaired:
    def test_two_identical_measured_folders_tie_in_everything(self, root: Path, copies) -> None:  # type: ignore[no-untyped-def]
        found = compare([root / "mine", copies[1]], [AT, AT])
        assert {row.dimension for row in judged(found)} >= {"consistency", "fidelity", "generalisation", "alignment"}
        assert {(row.difference, row.ci_low, row.ci_high, row.ahead) for row in judged(found)} == {(0, 0, 0, "tie")}
        assert {row.pairing for row in judged(found)} == {PAIRED}
        assert found.verdict.startswith("A tie") and len(found.keys) == 18

    def test_a_drawn_run_and_the_same_pictures_measured_tie_with_the_numbers_of_two_drawn_runs(
        self, root: Path, copies: tuple[Path, Path]
    ) -> None:
        mixed, drawn = compare([root / "run", root / "mine"], [AT, AT]), compare([root / "run", copies[0]], [AT, AT])
        for here, there in zip(mixed.rows, drawn.rows, strict=True):
            assert (here.measure, here.first_value, here.n, here.ahead) == (
                there.measure, there.first_value, there.n, there.ahead,
            )  # fmt: skip
            assert not here.ahead or (here.difference, here.pairing) == (0, PAIRED)

    def test_a_planted_difference_is_found_exactly(self, copies: tuple[Path, Path]) -> None:
        change_cells(copies[1], shift("clip_t", -0.05))
        row = of(compare(copies, [AT, AT]), "fit to the prompt")
        assert (row.difference, row.ci_low, row.ci_high) == (pytest.approx(0.05, abs=2e-6),) * 3
        assert row.ahead == row.first and row.pairing == PAIRED

    def test_a_table_without_roles_takes_those_of_the_other_runs_suite(self, root: Path, tmp_path: Path) -> None:
        bare = measured(root, tmp_path / "bare", keep=[name for name in KEPT if name != "role"])
        here = compare([bare, root / "run"], [AT, AT])
        there = compare([root / "run", root / "mine"], [AT, AT])
        for measure in ("likeness on challenge", "change of pictures without", "fit to the prompt"):
            assert of(here, measure).n == of(there, measure).n > 0

    def test_a_table_measured_without_trigger_is_paired_by_the_other_runs(self, root: Path, tmp_path: Path) -> None:
        bare = measured(root, tmp_path / "bare", trigger="", class_word="")
        found = compare([root / "run", bare], [AT, AT])
        assert len(found.keys) == 18 and of(found, FIDELITY).ahead == "tie"
        row = of(found, "fit to the prompt")
        assert row.difference is None and "CLIP was asked" in row.note and "--trigger" in row.note

    def test_recommendations_are_the_sides_where_nothing_is_named(self, copies: tuple[Path, Path]) -> None:
        card = read_json(copies[1] / "scorecard.json")
        card["recommended"] = {"checkpoint": "zorp-000100", "weight": 0.5}
        (copies[1] / "scorecard.json").write_text(json.dumps(card), encoding="utf-8")
        card = read_json(copies[0] / "scorecard.json")
        card["recommended"] = {"checkpoint": "zorp-000200", "weight": 1.0}
        (copies[0] / "scorecard.json").write_text(json.dumps(card), encoding="utf-8")
        assert [side.label for side in compare(copies[::-1]).sides] == ["zorp-000100 at 0.5", "zorp-000200 at 1"]

    def test_three_runs_of_both_kinds(self, root: Path, copies: tuple[Path, Path]) -> None:
        found = compare([root / "run", *copies], [AT] * 3)
        assert len({(row.first, row.second) for row in found.rows}) == 3
        assert {row.ahead for row in judged(found)} == {"tie"}

    def test_the_step_comes_from_the_table(self, root: Path) -> None:
        assert [side.step for side in compare([root / "run", root / "mine"], [AT, AT]).sides] == [200, 200]


class TestSharedPromptsOtherSeeds:
    @pytest.fixture
    def loose(self, root: Path, tmp_path: Path) -> Path:
        return measured(root, tmp_path / "loose", other_seeds)

    def test_compared_prompt_by_prompt_and_said(self, root: Path, loose: Path) -> None:
        found = compare([root / "run", loose], [AT, AT])
        row = of(found, FIDELITY)
        assert (row.pairing, row.difference, row.ahead) == (BY_PROMPT, 0, "tie")
        assert row.note == "paired by prompt alone: no seed in common"
        assert found.keys == [] and found.verdict.startswith("A tie") and "share no seed" in found.verdict
        assert any("by prompt alone" in note and "intervals without pairs are wider" in note for note in found.notes)

    def test_difference_is_that_of_the_prompts_means(self, root: Path, loose: Path) -> None:
        rng = np.random.default_rng(3)
        change_cells(loose, lambda row: shift("clip_t", rng.normal(-0.05, 0.01))(row))
        change_cells(loose, lambda row: row.update(image=str(loose / row["image"])))
        row = of(compare([root / "run", loose], [AT, AT]), "fit to the prompt")
        roles = ("plain", "fidelity", "challenge", "composition")
        means = []
        for run in (root / "run", loose):
            by: dict[str, list[float]] = {}
            for one in cells(run):
                if (one["checkpoint"], one["weight"]) == ("zorp-000200", "1") and one["role"] in roles:
                    by.setdefault(one["prompt"], []).append(float(one["clip_t"]))
            means.append({prompt: np.mean(values) for prompt, values in by.items()})
        off = np.array([means[0][prompt] - means[1][prompt] for prompt in means[0]])
        assert row.difference == pytest.approx(off.mean(), abs=2e-6) and row.ci_low < row.difference < row.ci_high
        assert row.prompts == len(off) and row.ahead == row.first
        signs = np.array(list(itertools.product((-1, 1), repeat=len(off))))
        assert row.p == pytest.approx(np.mean(np.abs(signs @ off) >= abs(off.sum()) - 1e-12), abs=1e-6)

    def test_order_changes_the_sign_and_nothing_else(self, root: Path, loose: Path) -> None:
        change_cells(loose, shift("clip_t", -0.02))
        here, there = compare([root / "run", loose], [AT, AT]), compare([loose, root / "run"], [AT, AT])
        for row, back in zip(here.rows, there.rows, strict=True):
            assert (row.measure, row.pairing, row.n, row.p) == (back.measure, back.pairing, back.n, back.p)
            if row.difference is not None:
                assert back.difference == pytest.approx(-row.difference, abs=2e-6)

    def test_diversity_counts_as_many_seeds_on_both_sides(self, root: Path, tmp_path: Path) -> None:
        """More draws of a prompt have a larger Vendi score whatever the LoRA does."""
        fewer = measured(root, tmp_path / "fewer", lambda row: other_seeds(row) if row["seed"] != "3" else False)
        row = of(compare([root / "run", fewer], [AT, AT]), "diversity")
        assert row.pairing == BY_PROMPT and row.difference == pytest.approx(0, abs=1e-6)

    def test_one_shared_seed_does_not_throw_the_other_pictures_away(self, root: Path, tmp_path: Path) -> None:
        """A pair of each of two prompts gives no interval; their other pictures do."""
        two = sorted({row["prompt"] for row in cells(root / "run") if row["role"] == "fidelity"})[:2]

        def change(row: dict[str, str]) -> bool | None:
            row["seed"] = row["seed"] if row["seed"] == "1" else str(int(row["seed"]) + 100)
            return None if row["prompt"] in two else False

        row = of(compare([root / "run", measured(root, tmp_path / "few", change)], [AT, AT]), FIDELITY)
        assert row.pairing == BY_PROMPT and row.ci_low is not None and row.scope == "seeds"


class TestNothingShared:
    @pytest.fixture
    def apart(self, root: Path, tmp_path: Path) -> Path:
        return measured(root, tmp_path / "apart", other_prompts)

    def test_each_picture_against_its_own_weight_0(self, root: Path, apart: Path) -> None:
        found = compare([root / "run", apart], [AT, AT])
        row = of(found, FIDELITY)
        gains = [float(one["clip_i_gain"]) for one in cells(apart)
                 if (one["checkpoint"], one["weight"]) == ("zorp-000200", "1")
                 and one["role"] in ("plain", "fidelity")]  # fmt: skip
        assert row.pairing == OPEN and "against its own weight 0" in row.note
        assert row.second_value == pytest.approx(np.mean(gains), abs=1e-5) and row.ahead == "tie"

    def test_without_weight_0_the_pictures_as_they_are_and_a_warning(self, root: Path, tmp_path: Path) -> None:
        bare = measured(
            root, tmp_path / "bare", lambda row: other_prompts(row) if row["weight"] != "0" else False
        )  # fmt: skip
        found = compare([root / "run", bare], [AT, AT])
        row = of(found, FIDELITY)
        assert row.pairing == OPEN and "what the prompts bring counts as well" in row.note
        assert "features.npz or weight 0 is gone" in of(found, "change of pictures without").note
        assert of(found, "agreement").note.startswith("not measured")

    def test_a_planted_difference_is_found(self, root: Path, apart: Path) -> None:
        change_cells(apart, shift("clip_i", -1.0))
        change_cells(apart, shift("clip_i_gain", -1.0))
        row = of(compare([root / "run", apart], [AT, AT]), FIDELITY)
        assert row.difference == pytest.approx(1.0, abs=0.05) and row.ahead == row.first

    def test_two_drawn_runs_are_still_asked_to_share_prompts_and_seeds(self, copies: tuple[Path, Path]) -> None:
        other = copies[0].with_name("other")
        shutil.copytree(copies[0], other)
        change_cells(other, other_seeds)
        with pytest.raises(RunError, match="share no prompt with the same seed"):
            compare([copies[0], other], [AT, AT])

    def test_the_page_shows_each_side_by_itself(self, root: Path, apart: Path, tmp_path: Path) -> None:
        found = compare([root / "run", apart], [AT, AT])
        page = write_comparison(tmp_path / "out", found).read_text(encoding="utf-8")
        assert "each is shown by itself" in page and "Side by side" not in page
        # 18 pictures and their weight 0, of each side
        assert len(re.findall(r'<img src="data:image/', page)) == 18 * 2 * 2
        write_comparison(tmp_path / "again", compare([root / "run", apart], [AT, AT]))
        assert tree_hashes(tmp_path / "out") == tree_hashes(tmp_path / "again")


class TestStatistics:
    def test_permutation_test_agrees_with_trying_every_order(self) -> None:
        rng = np.random.default_rng(5)
        for sizes in ((3, 4), (2, 5), (4, 4)):
            first, second = (rng.normal(size=n) for n in sizes)
            pool, n = np.concatenate([first, second]), len(first)
            offs = [np.mean(order[:n]) - np.mean(order[n:]) for order in itertools.permutations(pool)]
            exact = np.mean(np.abs(offs) >= abs(first.mean() - second.mean()) - 1e-12)
            assert permutation_test([first], [second]) == pytest.approx(exact)

    def test_labels_are_swapped_inside_a_stratum_only(self) -> None:
        """Two prompts far apart: pooled, nothing would stand out."""
        first, second = (
            [np.array([0.0, 1.0]), np.array([100.0, 101.0])],
            [np.array([5.0, 6.0]), np.array([105.0, 106.0])],
        )
        # 6 x 6 patterns, of which the one seen and its mirror image are the most extreme
        assert permutation_test(first, second) == pytest.approx(2 / 36)

    def test_random_patterns_come_near_the_exact_p(self) -> None:
        rng = np.random.default_rng(6)
        first, second = rng.normal(0.8, 1, 8), rng.normal(0, 1, 8)
        off = abs(first.mean() - second.mean())
        pool = np.concatenate([first, second])
        exact = np.mean([abs(pool[list(c)].mean() - np.delete(pool, c).mean()) >= off - 1e-12
                         for c in itertools.combinations(range(16), 8)])  # fmt: skip
        assert permutation_test([first], [second], resamples=4000) == pytest.approx(exact, abs=0.02)

    @pytest.mark.parametrize(("shared", "prompts"), [(True, 8), (True, 2), (False, 8)])
    def test_intervals_cover_the_truth_and_p_is_honest(self, shared: bool, prompts: int) -> None:
        """Pictures of known effects, 400 times: coverage near 95 %, and p below 0.05 about as often as it says."""
        rng = np.random.default_rng(7)
        covered, rejected, times, seeds = 0, 0, 400, 5
        for at in range(times):
            effect = rng.normal(size=(2, prompts))
            if shared:
                effect[1] = effect[0]
            sides = []
            for side in range(2):
                names = [f"p{k}" if shared else f"p{side}{k}" for k in range(prompts)]
                own = effect[side] + rng.normal(0, 0.5, prompts) * (prompts > 3)
                sides.append({Key(name, "", 10 * side + m): own[k] + rng.normal()
                              for k, name in enumerate(names) for m in range(seeds)})  # fmt: skip
            row = _loose(Row("a", "b", "fidelity", "m", "higher"), *sides, shared, 200, at)
            assert row is not None and row.ci_low is not None and row.ci_high is not None
            covered += row.ci_low <= 0 <= row.ci_high
            rejected += row.p is not None and row.p <= 0.05
        assert 0.92 <= covered / times <= 0.98
        assert rejected / times <= 0.075

    def test_few_prompts_of_other_words_are_no_test(self) -> None:
        sides = [
            {Key(f"{side}{k}", "", m): float(k + m + 100 * side) for k in range(2) for m in range(4)} for side in (0, 1)
        ]
        row = _loose(Row("a", "b", "fidelity", "m", "higher"), *sides, False, 200, 0)
        assert row is not None and row.ci_low is not None and row.p is None and row.scope == "seeds"


class TestHowTheyWereDrawn:
    def test_what_is_not_known_is_said(self, root: Path) -> None:
        found = compare([root / "run", root / "mine"], [AT, AT])
        assert any(
            "mine: neither the table nor the pictures say which model, sampler, cfg_scale" in n for n in found.notes
        )

    def test_another_model_in_the_pictures_infotext_is_refused(self, root: Path, tmp_path: Path) -> None:
        def change(row: dict[str, str]) -> None:
            target = tmp_path / "drawn" / Path(row["image"]).name
            target.parent.mkdir(exist_ok=True)
            chunk = PngImagePlugin.PngInfo()
            chunk.add_text(
                "parameters", "x\nSteps: 20, Sampler: Euler, CFG scale: 7, Model hash: bbbbbbbbbb, Model: other"
            )
            Image.open(row["image"]).save(target, pnginfo=chunk)
            row["image"] = str(target)

        other = measured(root, tmp_path / "other", change)
        with pytest.raises(
            RunError, match=r"cannot compare: the hash of model .* is aaaaaaaaaa in .* and bbbbbbbbbb in"
        ) as info:
            compare([root / "run", other], [AT, AT])
        assert "\n" not in str(info.value) and "draw one of them again" in str(info.value)

    def test_another_sampler_in_the_table_is_refused(self, root: Path, tmp_path: Path) -> None:
        other = measured(root, tmp_path / "other", lambda row: row.update(sampler="DPM++ 2M"))
        with pytest.raises(RunError, match=r"sampler is Euler in .* and DPM\+\+ 2M in .*; draw one of them again"):
            compare([root / "run", other], [AT, AT])

    def test_another_encoder_is_refused(self, copies: tuple[Path, Path]) -> None:
        raw = read_json(copies[1] / "scorecard.json")
        raw["provenance"]["encoder"] = "other"
        (copies[1] / "scorecard.json").write_text(json.dumps(raw), encoding="utf-8")
        with pytest.raises(RunError, match=r"the encoder is fake in .* and other in .*measure one of them again"):
            compare(copies, [AT, AT])

    def test_weight_0_that_differs_is_said(self, root: Path, tmp_path: Path) -> None:
        """Another model shows in the pictures without the LoRA."""

        def change(row: dict[str, str]) -> None:
            if row["weight"] == "0":
                target = tmp_path / "drawn" / Path(row["image"]).name
                target.parent.mkdir(exist_ok=True)
                Image.open(row["image"]).transpose(Image.Transpose.ROTATE_180).save(target)
                row["image"] = str(target)

        found = compare([root / "run", measured(root, tmp_path / "other", change)], [AT, AT])
        assert any(
            re.search(r"\d+ of 18 pictures of weight 0 differ between run and other", note) for note in found.notes
        )
        same = compare([root / "run", root / "mine"], [AT, AT])
        assert not any("weight 0 differ" in note for note in same.notes)

    def test_other_references_leave_likeness_out(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root / "data", tmp_path / "data")
        for name in "012":
            (tmp_path / "data" / f"{name}.png").unlink()
        (tmp_path / "data" / "metadata.csv").unlink()
        row = of(compare([root / "run", measured(root, tmp_path / "m", data=tmp_path / "data")], [AT, AT]), FIDELITY)
        assert row.difference is None and "other reference pictures" in row.note

    def test_without_references_likeness_is_not_measured(self, root: Path, tmp_path: Path) -> None:
        row = of(compare([root / "run", measured(root, tmp_path / "m", data=None)], [AT, AT]), FIDELITY)
        assert row.difference is None and row.note.startswith("not measured")

    def test_a_folder_measured_again_is_compared_alike(self, root: Path, copies: tuple[Path, Path]) -> None:
        before = tree_hashes(root / "mine")
        report(root / "mine", FakeEncoder(), resamples=50)
        assert tree_hashes(root / "mine") == before


class TestRefusals:
    def test_a_folder_of_pictures_alone(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root / "run" / "images", tmp_path / "images")
        with pytest.raises(RunError, match=r"holds no run of this program .*score or measure") as info:
            compare([root / "run", tmp_path], [AT, AT])
        assert "\n" not in str(info.value)

    def test_measured_by_half(self, copies: tuple[Path, Path]) -> None:
        (copies[1] / "scorecard.json").unlink()
        with pytest.raises(RunError, match=r"not measured to its end .*run measure on it again"):
            compare(copies, [AT, AT])

    @pytest.mark.parametrize("text", ["{", "[]"])
    def test_a_broken_table_json(self, copies: tuple[Path, Path], text: str) -> None:
        (copies[1] / "table.json").write_text(text, encoding="utf-8")
        with pytest.raises(RunError, match=r"table\.json is (not valid JSON|incomplete)") as info:
            compare(copies, [AT, AT])
        assert "\n" not in str(info.value)

    @pytest.mark.parametrize("change", [{"weight": "x"}, {"seed": ""}, {"step": "many"}])
    def test_a_row_that_cannot_be_used(self, copies: tuple[Path, Path], change: dict[str, str]) -> None:
        change_cells(copies[1], lambda row: row.update(change))
        with pytest.raises(RunError, match=r"cells\.csv, line 2 cannot be used; run `report"):
            compare(copies, [AT, AT])
