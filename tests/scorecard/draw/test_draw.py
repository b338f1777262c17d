"""Drawing: everything once, whole batches, nothing silently missing."""

from __future__ import annotations

import threading

import pytest

from lora_eval.errors import HostError, Interrupted, LoraFileError, RunError
from lora_eval.host.protocol import Job
from lora_eval.reading.infotext import read_png
from lora_eval.scorecard.draw.draw import draw
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.plan.make import make_plan
from lora_eval.scorecard.plan.request import ScoreRequest
from tests.fakes_scorecard import FakeHost, make_lora, tree_hashes


@pytest.fixture
def host(tmp_path):
    return FakeHost(tmp_path)


@pytest.fixture
def plan(host, tmp_path):
    loras = [make_lora(tmp_path / f"mine-step{n}.safetensors", n / 2) for n in (1, 2)]
    return make_plan(
        host,
        ScoreRequest(
            loras, kind="object", suite="tiny", weights="0-1 [3]", seeds=2, prompts=3, trigger="zorp", batch_size=4
        ),
    )


def run(host, plan, root):
    folder = RunFolder(root)
    folder.agree(plan)
    job = Job("draw", len(plan))
    host.jobs.append(job)
    return draw(host, plan, folder, job), job, folder


def test_every_cell_is_drawn_once_in_order_at_its_lora_and_weight(host, plan, tmp_path):
    result, job, folder = run(host, plan, tmp_path / "run")
    assert (result.drawn, result.kept, result.without_effect) == (30, 0, {})
    assert job.done == 30
    asked = [(lora, request) for lora, requests in host.calls for request in requests]
    assert asked == [(plan.lora_use(cell), cell.request) for cell in plan.cells()]
    assert max(len(requests) for _, requests in host.calls) == 4
    for cell in plan.cells():
        tag = f"<lora:{cell.lora.name}:{cell.weight:g}>" if cell.lora else ""
        assert read_png(folder.image_path(cell)).startswith(cell.prompt.text + tag + "\n")


def test_a_second_run_draws_nothing(host, plan, tmp_path):
    run(host, plan, tmp_path / "run")
    before = tree_hashes(tmp_path / "run")
    host.calls.clear()
    result, job, _ = run(host, plan, tmp_path / "run")
    assert (result.drawn, result.kept, host.calls) == (0, 30, [])
    assert job.done == 30 and tree_hashes(tmp_path / "run") == before


def test_pictures_handed_in_before_an_interrupt_are_there_after_it(host, plan, tmp_path, monkeypatch):
    """The next picture is drawn while the last is written; an interrupt in between loses neither."""
    drawn_on = threading.Event()
    save = RunFolder.save_image

    def slow(self, cell, drawn):
        assert drawn_on.wait(5)
        save(self, cell, drawn)

    monkeypatch.setattr(RunFolder, "save_image", slow)

    class Stopped(Job):
        def check(self):
            # asked before every batch: nothing of the first two, four and two pictures, is on the disk yet
            if self.done == 6:
                drawn_on.set()
                raise Interrupted("stopped")

    folder = RunFolder(tmp_path / "run")
    folder.agree(plan)
    with pytest.raises(Interrupted):
        draw(host, plan, folder, Stopped("draw", len(plan)))
    assert sum(folder.finished(cell) for cell in plan.cells()) == 6


@pytest.mark.parametrize(("broken", "batches"), [(2, 2), (29, 10)])
def test_a_picture_that_cannot_be_written_ends_the_drawing(host, plan, tmp_path, monkeypatch, broken, batches):
    """Among the first or the very last: the error comes out, and nothing is drawn for long in vain."""
    bad, save = plan.cells()[broken], RunFolder.save_image

    def failing(self, cell, drawn):
        if cell == bad:
            raise RunError("no space left")
        save(self, cell, drawn)

    monkeypatch.setattr(RunFolder, "save_image", failing)
    monkeypatch.setattr("lora_eval.scorecard.draw.draw.WAITING", 1)
    with pytest.raises(RunError, match="no space left"):
        run(host, plan, tmp_path / "run")
    # of ten batches; while the picture is written the next batch is drawn
    assert len(host.calls) <= batches


def test_a_missing_or_truncated_picture_is_drawn_again_in_the_batch_it_was_in(host, plan, tmp_path):
    _, _, folder = run(host, plan, tmp_path / "run")
    before = tree_hashes(folder.root)
    cells = plan.cells()
    folder.image_path(cells[7]).unlink()
    path = folder.image_path(cells[20])
    path.write_bytes(path.read_bytes()[:-20])
    host.calls.clear()
    result, _, _ = run(host, plan, folder.root)
    assert result.drawn == 2
    batches = list(plan.batches(4))
    redrawn = [batch for batch in batches if cells[7] in batch or cells[20] in batch]
    assert [requests for _, requests in host.calls] == [[cell.request for cell in batch] for batch in redrawn]
    assert tree_hashes(folder.root) == before


def test_an_interrupt_keeps_what_is_done_and_goes_on_from_there(host, plan, tmp_path):
    run(host, plan, tmp_path / "whole")
    host.calls.clear()
    host.interrupt_after = 3
    with pytest.raises(Interrupted):
        run(host, plan, tmp_path / "run")
    assert len(list((tmp_path / "run/images").glob("*.png"))) == host.drawn == 10
    host.interrupt_after = None
    result, _, _ = run(host, plan, tmp_path / "run")
    assert (result.drawn, result.kept) == (20, 10)
    assert tree_hashes(tmp_path / "run/images") == tree_hashes(tmp_path / "whole/images")


def test_a_lora_that_changes_nothing_is_reported_with_the_layers_the_host_confirms(host, tmp_path):
    loras = [make_lora(tmp_path / "works.safetensors"), make_lora(tmp_path / "null.safetensors", 0.0)]
    plan = make_plan(host, ScoreRequest(loras, kind="object", suite="tiny", weights="0.5, 1", seeds=1, prompts=2))
    host.layers = 7
    for _ in range(2):  # the answer does not depend on drawing now or then
        assert run(host, plan, tmp_path / "run")[0].without_effect == {"null": 7}


def test_a_lora_that_patches_no_layer_stops_before_anything_is_drawn(host, plan, tmp_path):
    host.layers = 0
    with pytest.raises(HostError, match="matches no layer"):
        run(host, plan, tmp_path / "run")
    assert host.calls == []


def test_a_broken_lora_stops_before_anything_is_drawn(host, plan, tmp_path):
    path = tmp_path / "mine-step2.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(LoraFileError, match="changed since"):
        run(host, plan, tmp_path / "run")
    path.unlink()
    with pytest.raises(LoraFileError, match="is gone"):
        run(host, plan, tmp_path / "run")
    assert host.calls == []


def test_another_model_loaded_in_mid_run_stops_with_the_mend(host, plan, tmp_path):
    original = host.generate

    def generate(requests, sampling, lora=None):
        if len(host.calls) == 2:
            host.sha256 = "b" * 64
        return original(requests, sampling, lora)

    host.generate = generate
    with pytest.raises(HostError, match="load that again"):
        run(host, plan, tmp_path / "run")
    assert len(host.calls) == 3


def test_pictures_of_another_size_are_refused(host, plan, tmp_path):
    host.wrong_size = True
    with pytest.raises(HostError, match="32x64 instead of 64x64"):
        run(host, plan, tmp_path / "run")
    assert not list((tmp_path / "run/images").glob("*.png"))
