"""``compare`` and ``caption`` on the command line: exit codes, what is printed, what is written."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lora_eval.cli.exits import BAD, FAILED, GOOD
from lora_eval.service.measured import MeasureRequest
from lora_eval.service.scoring import measure_table
from tests.command_line import one_line, run
from tests.fakes_scorecard import FakeEncoder, small_score, tree_hashes
from tools.tiny_world.drawings import render, sample

Captured = pytest.CaptureFixture[str]


class TestCompare:
    @pytest.fixture(scope="class")
    def drawn(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp("cli")
        small_score(root, root / "one", prompts=4, seeds=2)
        shutil.copytree(root / "one", root / "two")
        return root

    def test_verdict_on_paper_and_on_disk(self, capsys: Captured, drawn: Path, tmp_path: Path) -> None:
        at = ("--at", "zorp-000100:1", "--at", "zorp-000200:1")
        code, out, err = run(capsys, "compare", drawn / "one", drawn / "two", *at, "--out", tmp_path)
        assert (code, err) == (GOOD, "")
        raw = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
        assert raw["verdict"] in out and str(tmp_path / "compare.html") in out
        with open(tmp_path / "compare.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["measure"] for row in rows] == [row["measure"] for row in raw["rows"]]
        assert all(row["measure"] in out for row in rows)

    def test_pictures_drawn_elsewhere_and_how_they_are_paired(
        self, capsys: Captured, drawn: Path, tmp_path: Path
    ) -> None:
        with open(drawn / "one" / "cells.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        rows = [{**row, "image": str(drawn / "one" / row["image"]), "seed": f"{row['seed']}00"} for row in rows]
        with open(tmp_path / "mine.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        measure_table(
            tmp_path / "mine.csv", tmp_path / "mine",
            MeasureRequest(data=drawn / "data", trigger="zorp", class_word="shape", believe_table=True),
            encoder=FakeEncoder(),
            resamples=50,
        )  # fmt: skip
        at = ("--at", "zorp-000200:1", "--at", "zorp-000200:1")
        code, out, err = run(capsys, "compare", drawn / "one", tmp_path / "mine", *at, "--out", tmp_path / "out")
        assert (code, err) == (GOOD, "")
        assert "tie (paired by prompt alone: no seed in common)" in out
        assert "measures paired by prompt and seed 0, by prompt alone" in out

    def test_one_run_is_one_too_few(self, capsys: Captured, drawn: Path, tmp_path: Path) -> None:
        code, _, err = run(capsys, "compare", drawn / "one", "--out", tmp_path / "out")
        assert code == FAILED and "needs two" in one_line(err)
        assert not (tmp_path / "out").exists()

    def test_a_folder_that_is_no_run(self, capsys: Captured, drawn: Path, tmp_path: Path) -> None:
        code, _, err = run(capsys, "compare", drawn / "one", tmp_path, "--out", tmp_path / "out")
        assert code == FAILED and str(tmp_path) in one_line(err)

    def test_out_is_asked_for(self, capsys: Captured, drawn: Path) -> None:
        code, _, err = run(capsys, "compare", drawn / "one", drawn / "two")
        assert code == FAILED and "--out" in one_line(err)


class TestCaption:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        data = tmp_path / "data"
        data.mkdir()
        rng = np.random.default_rng(1)
        for index in range(3):
            render(sample(rng, colour="red", position="left")).save(data / f"{index}.png")
        return data

    def test_made_by_the_shipped_encoder(self, capsys: Captured, folder: Path) -> None:
        code, out, err = run(
            capsys, "caption", folder, "--trigger", "zorp", "--class-word", "shape", "--encoder", "tiny-clip", "--quiet"
        )
        assert (code, err) == (GOOD, "")
        with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
            said = [row["prompt"] for row in csv.DictReader(file)]
        assert len(said) == 3 and all(one.startswith("zorp shape, ") and "on the left" in one for one in said)
        assert "3 caption(s) changed" in out and "metadata.csv" in out

    def test_dry_run_prints_the_diff_and_changes_nothing(self, capsys: Captured, folder: Path) -> None:
        for name in "012":
            (folder / f"{name}.txt").write_text("an old hat")
        before = tree_hashes(folder)
        code, out, _ = run(capsys, "caption", folder, "--replace", "old", "new", "--dry-run")
        assert code == GOOD and tree_hashes(folder) == before
        assert "-an old hat\n+an new hat" in out and "3 caption(s) would change" in out

    def test_edits_together(self, capsys: Captured, folder: Path) -> None:
        for name in "012":
            (folder / f"{name}.txt").write_text("old hat, blurry")
        options = ("--replace", r"(\w+) hat", r"\1 cap", "--regex", "--remove", "blurry", "--append", "day")
        code, _, _ = run(capsys, "caption", folder, *options, "--trigger", "zorp", "--prefix")
        assert code == GOOD
        assert {(folder / f"{name}.txt").read_text() for name in "012"} == {"zorp, old cap, day\n"}

    def test_a_broken_picture_is_exit_1_and_the_rest_is_done(self, capsys: Captured, folder: Path) -> None:
        (folder / "9.png").write_bytes(b"")
        code, out, _ = run(capsys, "caption", folder, "--encoder", "tiny-clip", "--quiet")
        assert code == BAD and "9.png" in out and "3 caption(s) changed" in out

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--prefix"], "--trigger"),
            (["--replace", "(", "x", "--regex"], "regular expression"),
            (["--write", "pdf"], "--write"),
            (["--encoder", "/nowhere/clip"], "/nowhere/clip"),
            (["--encoder", "tiny-clip", "--terms", "/nowhere.yaml"], "/nowhere.yaml"),
        ],
    )
    def test_what_cannot_be_done_is_one_line(
        self, capsys: Captured, folder: Path, options: list[str], says: str
    ) -> None:
        (folder / "0.txt").write_text("something")
        before = tree_hashes(folder)
        code, _, err = run(capsys, "caption", folder, *options)
        assert code == FAILED and says in one_line(err)
        assert tree_hashes(folder) == before
