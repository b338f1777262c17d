"""The run folder: what counts as done, what is kept out, what a damaged file costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lora_eval.errors import RunError
from lora_eval.files import write_json
from lora_eval.host.protocol import Drawn
from lora_eval.reading.infotext import read_png
from lora_eval.scorecard.draw.store import RunFolder, is_whole_png
from lora_eval.scorecard.plan.make import make_plan
from lora_eval.scorecard.plan.request import ScoreRequest
from tests.fakes_scorecard import FakeHost, make_lora


@pytest.fixture
def plan(tmp_path):
    lora = make_lora(tmp_path / "a.safetensors")
    return make_plan(
        FakeHost(tmp_path), ScoreRequest([lora], suite="tiny", kind="object", weights="1", seeds=1, prompts=1)
    )


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def test_a_saved_picture_is_finished_and_keeps_its_infotext(plan, folder):
    cell = plan.cells()[0]
    assert not folder.finished(cell)
    folder.save_image(cell, Drawn(picture(), "a zorp, 星\nSteps: 20"))
    assert folder.finished(cell)
    assert read_png(folder.image_path(cell)) == "a zorp, 星\nSteps: 20"


def test_a_png_cut_anywhere_or_damaged_anywhere_is_not_whole(tmp_path):
    path = tmp_path / "a.png"
    picture().save(path)
    data = path.read_bytes()
    assert is_whole_png(path)
    for end in (0, 5, 8, 20, 33, len(data) // 2, len(data) - 12, len(data) - 1):
        path.write_bytes(data[:end])
        assert not is_whole_png(path), end
    for at in (0, 20, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert not is_whole_png(path), at


def test_a_plan_is_stored_once_and_guards_the_folder(plan, folder, tmp_path):
    assert folder.agree(plan) == plan
    assert folder.read_plan() == plan
    before = folder.plan_file.read_bytes()
    assert folder.agree(plan) == plan and folder.plan_file.read_bytes() == before
    folder.save_image(plan.cells()[0], Drawn(picture(), ""))
    other = make_plan(
        FakeHost(tmp_path),
        ScoreRequest([plan.loras[0].path], suite="tiny", kind="object", weights="0.5", seeds=1, prompts=1),
    )
    with pytest.raises(RunError, match="weights"):
        folder.agree(other)
    assert folder.plan_file.read_bytes() == before


def test_a_plan_that_was_refused_before_its_first_picture_binds_nobody(plan, folder):
    folder.agree(plan)
    other = replace(plan, weights=(0.0, 0.5))
    assert folder.agree(other) == other
    assert folder.read_plan() == other


def test_pictures_without_a_plan_are_not_taken_over(plan, folder):
    folder.save_image(plan.cells()[0], Drawn(picture(), ""))
    with pytest.raises(RunError, match=r"plan\.json is missing"):
        folder.agree(plan)


def test_no_run_there_or_a_broken_plan_is_one_line(folder):
    with pytest.raises(RunError, match="missing"):
        folder.read_plan()
    folder.root.mkdir()
    folder.plan_file.write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="not valid JSON"):
        folder.read_plan()
    write_json(folder.plan_file, {"schema": 7})
    with pytest.raises(RunError, match="schema 7"):
        folder.read_plan()


def test_features_come_back_and_a_damaged_file_is_only_a_lost_cache(folder):
    arrays = {"b": np.eye(3, dtype=np.float32), "a": np.array(["x", "yy"])}
    folder.write_features(arrays)
    first = folder.features_file.read_bytes()
    back = folder.read_features()
    assert sorted(back) == ["a", "b"] and (back["b"] == arrays["b"]).all() and (back["a"] == arrays["a"]).all()
    folder.write_features(back)
    assert folder.features_file.read_bytes() == first
    folder.features_file.write_bytes(first[: len(first) // 2])
    assert folder.read_features() == {}


def test_one_run_at_a_time(folder):
    with folder.lock(), pytest.raises(RunError, match=f"process {os.getpid()}"), RunFolder(folder.root).lock():
        pass
    with folder.lock():
        pass


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_the_lock_of_a_killed_process_is_taken_over_and_its_rubbish_swept(folder):
    code = (
        "import sys, time; from lora_eval.scorecard.draw.store import RunFolder\n"
        "with RunFolder(sys.argv[1]).lock():\n"
        "    (RunFolder(sys.argv[1]).root / '.cells.abc.part.csv').write_text('half')\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code, str(folder.root)], **pipes)
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(RunError, match=f"process {process.pid}"), folder.lock():
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    with folder.lock():
        assert not list(folder.root.glob(".*.part*"))


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="choose another folder"), RunFolder(tmp_path / "file").lock():
        pass
