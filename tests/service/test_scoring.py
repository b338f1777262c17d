"""A whole scorecard: files, resuming, killing, measuring again."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from lora_eval.errors import ConfigError, HostError, Interrupted, RunError
from lora_eval.scorecard.dimensions.registry import NAMES as DIMENSIONS
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.scorecard.tables import CELL_COLUMNS, SUMMARY_COLUMNS
from lora_eval.service.scoring import read_card, report, score
from tests.fakes_scorecard import (
    FakeEncoder,
    FakeHost,
    FakeImagesOnly,
    make_lora,
    read_json,
    small_request,
    small_score,
    tree_hashes,
)

REPO = Path(__file__).resolve().parents[2]
TABLES = ("cells.csv", "summary.csv", "scorecard.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run: (root with LoRAs and references, run folder, scorecard)."""
    root = tmp_path_factory.mktemp("whole")
    host, card = small_score(root, root / "run")
    assert host.drawn == 6 + 2 * 2 * 6
    return root, root / "run", card


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def same_tables(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in TABLES[:2])


def test_every_file_of_a_run_is_there(whole):
    _, run, card = whole
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {
        "plan.json", "images", "features.npz", "cells.csv", "summary.csv", "scorecard.json", "report.html",
        "thumbs",
    }  # fmt: skip
    assert len(list((run / "images").glob("*.png"))) == 30
    assert card.verdict and set(card.dimensions) == set(DIMENSIONS)


def test_cells_csv_has_a_row_for_each_picture_and_metrics_behind(whole):
    _, run, _ = whole
    table = rows(run / "cells.csv")
    assert len(table) == 30
    assert list(table[0])[: len(CELL_COLUMNS)] == list(CELL_COLUMNS)
    assert {"clip_i", "clip_t", "effect"} <= set(table[0])
    base = [row for row in table if row["weight"] == "0"]
    assert len(base) == 6 and {(row["lora"], row["checkpoint"], row["step"]) for row in base} == {("", "", "")}
    others = {(row["lora"], row["checkpoint"], row["step"]) for row in table if row["weight"] != "0"}
    assert others == {("zorp", "zorp-000100", "100"), ("zorp", "zorp-000200", "200")}
    assert all((run / row["image"]).is_file() for row in table)


def test_summary_csv_and_scorecard_json_have_the_agreed_form(whole):
    _, run, _ = whole
    assert list(rows(run / "summary.csv")[0]) == SUMMARY_COLUMNS
    card = read_card(run)
    assert {"verdict", "recommended", "dimensions", "advice", "provenance"} <= set(card)
    assert set(card["recommended"]) == {"checkpoint", "weight"}
    assert list(card["dimensions"]) == list(DIMENSIONS)
    for dimension in card["dimensions"].values():
        assert {"score", "ci_low", "ci_high", "n", "verdict", "reason", "evidence"} <= set(dimension)
        assert dimension["score"] is not None or dimension["reason"]
    assert card["provenance"]["model"]["sha256"] == "a" * 64


def test_again_on_the_same_folder_draws_and_embeds_nothing_and_changes_nothing(whole):
    root, run, _ = whole
    before = tree_hashes(run)
    encoder = FakeEncoder()
    host, _ = small_score(root, run, encoder=encoder)
    assert (host.calls, encoder.images_seen, encoder.texts_seen) == ([], 0, 0)
    assert tree_hashes(run) == before


def test_another_folder_gives_the_same_bytes(whole, tmp_path):
    root, run, _ = whole
    small_score(root, tmp_path / "elsewhere")
    assert same_tables(run, tmp_path / "elsewhere")


def test_report_measures_again_from_the_pictures_alone(whole, tmp_path):
    root, _, _ = whole
    small_score(root, tmp_path / "run")
    before = tree_hashes(tmp_path / "run")
    for name in ("features.npz", "cells.csv", "summary.csv", "scorecard.json", "report.html"):
        (tmp_path / "run" / name).unlink()
    encoder = FakeEncoder()
    report(tmp_path / "run", encoder, resamples=100)
    assert encoder.images_seen > 0
    assert tree_hashes(tmp_path / "run") == before


def test_report_of_a_half_drawn_run_says_what_to_do(whole, tmp_path):
    root, _, _ = whole
    small_score(root, tmp_path / "run")
    next((tmp_path / "run" / "images").glob("*.png")).unlink()
    with pytest.raises(RunError, match=r"lacks 1 of 30 pictures, .* run score"):
        report(tmp_path / "run", FakeEncoder())
    with pytest.raises(RunError, match="does not exist"):
        report(tmp_path / "none")


def test_an_interrupted_run_ends_with_the_bytes_of_an_undisturbed_one(whole, tmp_path):
    root, run, _ = whole
    for stop in (1, 3, 5):
        host = FakeHost(root, interrupt_after=stop)
        with pytest.raises(Interrupted):
            score(
                host,
                small_request(root),
                tmp_path / "run",
                encoder=FakeEncoder(),
                resamples=100,
            )
    small_score(root, tmp_path / "run")
    assert same_tables(run, tmp_path / "run")


def kill_and_finish(root: Path, run: Path, out: Path, total: int, choose: random.Random, kills: int) -> None:
    for _ in range(kills):
        child = subprocess.run(command(root, out, choose.randint(1, total)), cwd=REPO, capture_output=True, check=False)
        # a resumed run is shorter than a whole one, so it may well end before its kill
        assert child.returncode in (-9, 0), child.stderr.decode()[-500:]
    small_score(root, out)
    assert same_tables(run, out)
    assert tree_hashes(run / "images") == tree_hashes(out / "images")
    assert not list(out.rglob(".*.part*"))


def command(root: Path, out: Path, calls: int) -> list[str]:
    code = "import sys; from tests.fakes_scorecard import FakeImagesOnly, score_and_die; score_and_die(*sys.argv[1:])"
    return [sys.executable, "-c", code, str(root), str(out), str(calls)]


@pytest.fixture(scope="module")
def total_calls(whole, tmp_path_factory):
    root, _, _ = whole
    child = subprocess.run(
        command(root, tmp_path_factory.mktemp("count") / "run", 0), cwd=REPO, capture_output=True, check=True
    )
    return int(child.stdout)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_killed_at_random_moments_it_ends_with_the_bytes_of_an_undisturbed_run(whole, total_calls, tmp_path):
    root, run, _ = whole
    # drawing is the first half of the calls: killed twice there, then anywhere
    kill_and_finish(root, run, tmp_path / "a", total_calls // 2, random.Random(1), 2)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_killed_at_ten_random_moments(whole, total_calls, tmp_path):
    root, run, _ = whole
    for number in range(10):
        kill_and_finish(root, run, tmp_path / f"run{number}", total_calls, random.Random(number), 1)


def test_a_lora_without_effect_is_said_so_and_not_scored(whole, tmp_path):
    root, _, _ = whole
    lora = make_lora(tmp_path / "null.safetensors", 0.0, metadata={"lora_eval_trigger": "zorp"})
    host = FakeHost(root)
    card = score(
        host,
        ScoreRequest([lora], data=root / "data", suite="tiny", kind="object", weights="0-1 [3]", seeds=2, prompts=3),
        tmp_path / "run",
        encoder=FakeEncoder(),
        resamples=50,
    )
    assert card.checkpoint is None and "no effect" in card.verdict
    assert "equals weight 0: null" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_without_references_and_history_it_says_what_is_missing(tmp_path):
    lora = make_lora(tmp_path / "alone" / "mine.safetensors")
    card = score(
        FakeHost(tmp_path),
        ScoreRequest([lora], suite="tiny", kind="object", trigger="zorp", weights="0-1 [3]", seeds=2, prompts=3),
        tmp_path / "run",
        encoder=FakeEncoder(),
        resamples=50,
    )
    for name in ("fidelity", "curve"):
        assert card.dimensions[name].score is None
        assert "name" in card.dimensions[name].reason
    # summary rows are there and empty, never 0
    found = [row for row in rows(tmp_path / "run" / "summary.csv") if row["dimension"] == "fidelity"]
    assert found and all(row["value"] == "" and row["verdict"].startswith("not measured") for row in found)


def test_an_encoder_that_cannot_be_had_stops_before_drawing(tmp_path):
    lora = make_lora(tmp_path / "mine.safetensors")
    host = FakeHost(tmp_path)
    with pytest.raises(ConfigError, match="encoder"):
        score(host, ScoreRequest([lora], suite="tiny"), tmp_path / "run", encoder=str(tmp_path / "nothing.safetensors"))
    assert host.calls == []


def test_another_plan_on_the_same_folder_leaves_it_untouched(whole):
    root, run, _ = whole
    before = tree_hashes(run)
    with pytest.raises(RunError, match="seeds"):
        small_score(root, run, seeds=3)
    assert tree_hashes(run) == before


def test_two_processes_do_not_share_a_folder(whole):
    root, run, _ = whole
    with RunFolder(run).lock(), pytest.raises(RunError, match="in use"):
        small_score(root, run)


def test_measuring_settings_may_change_and_the_pictures_stay(whole, tmp_path):
    root, _, _ = whole
    small_score(root, tmp_path / "run")
    images = tree_hashes(tmp_path / "run" / "images")
    host, _ = small_score(root, tmp_path / "run", kind="style", encoder=FakeEncoder(identity="other"))
    assert host.calls == [] and tree_hashes(tmp_path / "run" / "images") == images
    assert read_json(tmp_path / "run" / "plan.json")["kind"] == "style"
    assert read_card(tmp_path / "run")["provenance"]["encoder"] == "other"


@pytest.mark.parametrize(
    ("name", "run"),
    [("mine-000100", "mine"), ("mine-20260131", "mine-20260131"), ("mine-20260131-000100", "mine-20260131")],
)
def test_the_history_of_a_published_lora_is_found_under_the_hosts_outputs(whole, tmp_path, name, run):
    root, _, _ = whole
    host = FakeHost(tmp_path)
    lora = make_lora(host.lora_folder / f"{name}.safetensors", 0.5, metadata={"ss_steps": "100"})
    history = host.output_folder / "lora-eval" / run / "history.csv"
    history.parent.mkdir(parents=True)
    history.write_bytes((root / "history.csv").read_bytes())
    card = score(
        host,
        ScoreRequest([lora], suite="tiny", kind="object", trigger="zorp", weights="0-1 [3]", seeds=2, prompts=2),
        tmp_path / "run",
        encoder=FakeEncoder(),
        resamples=50,
    )
    assert card.dimensions["curve"].score is not None
    assert read_json(tmp_path / "run" / "plan.json")["histories"] == {name: str(history)}


def test_a_host_that_fails_leaves_what_was_drawn(whole, tmp_path):
    root, _, _ = whole
    host = FakeHost(root)
    original = host.generate

    def generate(requests, sampling, lora=None):
        if len(host.calls) == 3:
            raise HostError("out of memory; ask for a smaller batch")
        return original(requests, sampling, lora)

    host.generate = generate
    with pytest.raises(HostError, match="out of memory"):
        score(
            host,
            small_request(root),
            tmp_path / "run",
            encoder=FakeEncoder(),
        )
    assert len(list((tmp_path / "run" / "images").glob("*.png"))) == 10


def test_by_an_encoder_without_texts_what_needs_them_is_not_measured_and_says_why(whole, tmp_path):
    root, _, _ = whole
    _, card = small_score(root, tmp_path / "run", encoder=FakeImagesOnly())
    why = "not measured: the encoder fake-images knows no texts; name an open_clip model as encoder"
    found = rows(tmp_path / "run" / "summary.csv")
    for dimension, measures in (
        ("alignment", {"clip_t", "elements_kept", "negative_effect", "score"}),
        ("generalisation", {"alignment_kept"}),
    ):
        unsaid = [row for row in found if row["dimension"] == dimension and row["verdict"] == why]
        assert {row["measure"] for row in unsaid} == measures and all(row["value"] == "" for row in unsaid)
    assert {row["measure"] for row in found if row["dimension"] == "alignment"} == {
        "clip_t", "elements_kept", "negative_effect", "score",
    }  # fmt: skip
    assert card.dimensions["alignment"].score is None and "knows no texts" in card.dimensions["alignment"].reason
    assert card.dimensions["fidelity"].score is not None
    assert read_card(tmp_path / "run")["provenance"]["encoder"] == "fake-images"
    assert "knows no texts" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    before = tree_hashes(tmp_path / "run")
    report(tmp_path / "run", FakeImagesOnly(), resamples=100)
    assert tree_hashes(tmp_path / "run") == before
