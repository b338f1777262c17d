"""What both tabs do, without a page: orders, estimates, and what is shown of running jobs."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from lora_eval.errors import ConfigError, DatasetError, HostError, RunError
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service.jobs import Handle, JobQueue
from lora_eval.ui.controller import Controller


class Folders:
    """As much of a host as the controller needs."""

    def __init__(self, root: Path) -> None:
        self.lora_folder, self.output_folder = root / "Lora", root / "lora-eval"
        self.refreshed = self.in_line = 0

    def waiting(self) -> int:
        return self.in_line

    def samplers(self) -> list[str]:
        return ["Euler"]

    def refresh_loras(self) -> None:
        self.refreshed += 1


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture
def controller(folders: Folders) -> Controller:
    return Controller(lambda: folders, JobQueue())  # type: ignore[arg-type, return-value]


def put(path: Path, data: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


# -- training ----------------------------------------------------------------------------------------


def test_templates_and_yaml_go_there_and_back(controller: Controller) -> None:
    for kind in ("style", "character", "object"):
        for low in (False, True):
            settings = controller.template(kind, low)
            assert settings["kind"] == kind and settings["lora_rank"] == (4 if low else 8)
            assert controller.from_yaml(controller.to_yaml(settings)) == settings


@pytest.mark.parametrize("words", ["a: [1", "- 1\n- 2", "epoch: 5"])
def test_yaml_that_is_no_config_is_one_line(controller: Controller, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        controller.from_yaml(words)
    assert "\n" not in str(caught.value)


def test_captions_are_saved_where_the_folder_keeps_them(controller: Controller, tmp_path: Path) -> None:
    table, beside = tmp_path / "table", tmp_path / "beside"
    for folder in (table, beside):
        put(folder / "a.png")
        put(folder / "b.png")
    put(table / "metadata.csv", "file_name,prompt\na.png,a dog\nb.png,a cat\n")
    put(beside / "a.txt", "a dog\n")
    for folder in (table, beside):
        assert controller.save_captions(str(folder), None, {"a.png": "a red  dog", "b.png": "a cat, asleep"}) == 2
        assert controller.save_captions(str(folder), None, {"a.png": "a red dog"}) == 0
    assert (table / "metadata.csv").read_text() == 'file_name,prompt\na.png,a red dog\nb.png,"a cat, asleep"\n'
    assert not list(table.glob("*.txt"))
    assert (beside / "a.txt").read_text() == "a red dog\n" and (beside / "b.txt").read_text() == "a cat, asleep\n"


def test_the_trigger_is_put_in_front_once(controller: Controller, tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "b.png")
    put(tmp_path / "metadata.csv", "file_name,prompt\na.png,sks in a garden\nb.png,a bridge\n")
    assert controller.add_trigger(str(tmp_path), None, " sks ") == 1
    assert controller.add_trigger(str(tmp_path), None, "sks") == 0
    assert "sks, a bridge" in (tmp_path / "metadata.csv").read_text()
    with pytest.raises(ConfigError, match="trigger"):
        controller.add_trigger(str(tmp_path), None, " ")


def test_a_caption_of_a_picture_that_is_gone_changes_nothing(controller: Controller, tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"gone\.png"):
        controller.save_captions(str(tmp_path), None, {"a.png": "new", "gone.png": "x"})
    assert not (tmp_path / "a.txt").exists()


def test_a_picture_set_aside_goes_with_its_captions_and_nothing_is_lost(controller: Controller, tmp_path: Path) -> None:
    beside, table = tmp_path / "beside", tmp_path / "table"
    for folder in (beside, table):
        put(folder / "10_dog" / "a.png", b"picture a")
        put(folder / "10_dog" / "b.png", b"picture b")
    put(beside / "10_dog" / "a.txt", "a dog\n")
    put(table / "metadata.csv", "file_name,prompt\n10_dog/a.png,a dog\n10_dog/b.png,a cat\n")
    for folder in (beside, table):
        moved = controller.set_aside(str(folder), None, "10_dog/a.png")
        assert moved == folder.with_name(f"{folder.name}-set-aside") / "10_dog" / "a.png"
        assert moved.read_bytes() == b"picture a" and not (folder / "10_dog" / "a.png").exists()
    assert (tmp_path / "beside-set-aside" / "10_dog" / "a.txt").read_text() == "a dog\n"
    assert (table / "metadata.csv").read_text().splitlines()[1:] == ["10_dog/b.png,a cat,10"]
    with pytest.raises(DatasetError, match="any more"):
        controller.set_aside(str(beside), None, "10_dog/a.png")
    with pytest.raises(DatasetError, match="last picture"):
        controller.set_aside(str(beside), None, "10_dog/b.png")
    put(beside / "10_dog" / "a.png", b"another")
    with pytest.raises(DatasetError, match="there already"):
        controller.set_aside(str(beside), None, "10_dog/a.png")
    assert (beside / "10_dog" / "a.png").read_bytes() == b"another"


def test_training_without_pictures_is_refused_before_it_waits(controller: Controller, tmp_path: Path) -> None:
    for folder in ("", str(tmp_path / "nowhere")):
        with pytest.raises(ConfigError, match="folder"):
            controller.train({"train_data_dir": folder})
    assert controller.queue.list() == []


def test_the_running_job_is_shown_before_the_last_run_on_disk(controller: Controller, folders: Folders) -> None:
    put(folders.output_folder / "earlier" / "history.csv", "step,loss\n1,0.1\n")
    assert controller.training().folder == folders.output_folder / "earlier"
    started, release = threading.Event(), threading.Event()

    def run(handle: Handle) -> dict[str, Any]:
        handle.result = {"folder": str(folders.output_folder / "now")}
        started.set()
        release.wait(20)
        return handle.result

    id = controller.queue.submit("train", "now", run)
    assert started.wait(20)
    view = controller.training()
    assert view.job is not None and view.job.id == id and view.folder == folders.output_folder / "now"
    # another page asks the same and sees the same
    assert controller.training().job == view.job
    assert view.waiting == 0
    folders.in_line = 1
    assert controller.training().waiting == 1
    assert [job.id for job in controller.waiting()] == [id]
    release.set()
    controller.queue.wait(id, 20)
    assert controller.waiting() == []
    assert controller.training().waiting == 0, "who waits now does not wait for this training"


def test_a_job_taken_out_of_the_queue_does_not_hide_the_one_that_ran(controller: Controller, folders: Folders) -> None:
    release = threading.Event()

    def run(handle: Handle) -> dict[str, Any]:
        release.wait(20)
        return {"folder": str(folders.output_folder / "first")}

    first, second = (controller.queue.submit("train", name, run) for name in ("first", "second"))
    assert controller.interrupt(second)
    release.set()
    controller.queue.wait(first, 20)
    view = controller.training()
    assert view.job is not None and view.job.id == first and view.folder == folders.output_folder / "first"


def test_the_stamp_changes_with_the_history(controller: Controller, folders: Folders) -> None:
    log = put(folders.output_folder / "run" / "history.csv", "step,loss\n1,0.1\n")
    first = controller.training().stamp
    assert controller.training().stamp == first
    with open(log, "a") as file:
        file.write("2,0.1\n")
    assert controller.training().stamp != first


def test_interrupt_reaches_the_running_job_of_its_kind(controller: Controller) -> None:
    started = threading.Event()

    def run(handle: Handle) -> dict[str, Any]:
        started.set()
        while True:
            handle.check()

    assert not controller.interrupt(kind="train")
    id = controller.queue.submit("train", "x", run)
    assert started.wait(20)
    assert not controller.interrupt(kind="score")
    assert controller.interrupt(kind="train")
    state = controller.queue.wait(id, 20)
    assert state is not None and state.status == "interrupted"


# -- scorecards --------------------------------------------------------------------------------------


def order(**values: Any) -> ScoreRequest:
    return ScoreRequest(**{"loras": [Path("a.safetensors")], **values})


def test_the_estimate_counts_as_the_plan_draws(controller: Controller) -> None:
    """Prompts x seeds x (one weight 0 + LoRAs x other weights): the number that ``len(plan)`` has."""
    assert controller.estimate(order(preset="quick")).images == 6 * 4 * (1 + 4)
    assert controller.estimate(order(preset="quick", weights="0.4, 0.6, 0.9")).images == 6 * 4 * (1 + 3)
    two = [Path("a.safetensors"), Path("b.safetensors")]
    assert controller.estimate(order(loras=two, preset="quick", seeds=2, prompts=3)).images == 3 * 2 * (1 + 2 * 4)
    assert controller.estimate(order(preset="quick")).seconds is None


def test_an_estimate_of_nonsense_is_an_error(controller: Controller) -> None:
    with pytest.raises(ConfigError, match="weights"):
        controller.estimate(order(weights="0 to 1"))
    with pytest.raises(ConfigError, match="preset"):
        controller.estimate(order(preset="enormous"))


def test_an_order_without_a_lora_is_refused(controller: Controller) -> None:
    with pytest.raises(HostError, match="no LoRA"):
        controller.score(order(loras=[]))


def test_a_run_proposes_its_checkpoints_in_order_and_its_kind(controller: Controller, folders: Folders) -> None:
    run = folders.output_folder / "fox"
    put(run / "history.csv")
    put(run / "config.yaml", "kind: character\n")
    put(run / "fox-000200.safetensors")
    put(run / "fox-000100.safetensors")
    put(run / "fox.safetensors")
    put(folders.lora_folder / "fox.safetensors")
    proposal = controller.propose(run)
    assert proposal.loras == ["fox / fox-000100", "fox / fox-000200", "fox"]
    assert proposal.kind == "character"
    assert set(proposal.loras) <= set(controller.loras())


def test_a_run_without_checkpoints_says_so(controller: Controller, folders: Folders) -> None:
    put(folders.output_folder / "fox" / "history.csv")
    with pytest.raises(RunError, match="no checkpoint"):
        controller.propose(folders.output_folder / "fox")


def scored(folders: Folders) -> Path:
    run = folders.output_folder / "fox-scorecard"
    lora = put(folders.output_folder / "fox" / "fox-000100.safetensors", b"weights")
    plan = {"loras": [{"name": "fox-000100", "path": str(lora)}], "trigger": "sks"}
    put(run / "plan.json", json.dumps(plan))
    return run


def test_using_a_weight_publishes_writes_the_card_and_refreshes(controller: Controller, folders: Folders) -> None:
    run = scored(folders)
    put(folders.lora_folder / "fox-000100.json", json.dumps({"notes": "mine", "preferred weight": 0}))
    card = controller.use_weight(run, "fox-000100", "0.65")
    assert card == folders.lora_folder / "fox-000100.json"
    assert json.loads(card.read_text()) == {"notes": "mine", "preferred weight": 0.65, "activation text": "sks"}
    assert (folders.lora_folder / "fox-000100.safetensors").read_bytes() == b"weights"
    assert folders.refreshed == 1


@pytest.mark.parametrize(("name", "weight"), [("other", "0.7"), ("fox-000100", "much"), ("fox-000100", "3")])
def test_a_weight_that_cannot_be_used_changes_nothing(
    controller: Controller, folders: Folders, name: str, weight: str
) -> None:
    run = scored(folders)
    with pytest.raises((RunError, ConfigError)):
        controller.use_weight(run, name, weight)
    assert not list(folders.lora_folder.glob("*.json")) and folders.refreshed == 0


def test_downloads_are_offered_when_the_scorecard_is_there(controller: Controller, folders: Folders) -> None:
    run = scored(folders)
    put(run / "cells.csv", "run\n")
    assert controller.downloads(run) == []
    put(run / "scorecard.json", "{}")
    assert [path.name for path in controller.downloads(run)] == ["cells.csv", "scorecard.json"]


def test_the_history_says_what_came_out_the_latest_first(controller: Controller, folders: Folders) -> None:
    import os

    run = scored(folders)
    earlier = folders.output_folder / "hen-scorecard"
    put(earlier / "plan.json", "{}")
    best = {"checkpoint": "hen", "weight": 0.7}
    put(earlier / "scorecard.json", json.dumps({"verdict": "Use hen.", "recommended": best, "dimensions": {}}))
    os.utime(earlier / "plan.json", (1, 1))
    found = controller.history()
    assert [one.folder for one in found] == [run, earlier]
    assert (found[0].verdict, found[0].checkpoint, found[0].weight) == ("", None, None)
    assert (found[1].verdict, found[1].checkpoint, found[1].weight) == ("Use hen.", "hen", 0.7)
    # a broken scorecard is told in its row and hides no other
    put(earlier / "scorecard.json", "{")
    assert "scorecard.json" in controller.history()[1].verdict and len(controller.history()) == 2


def test_one_run_cannot_be_compared(controller: Controller, folders: Folders) -> None:
    for runs in ([], [scored(folders)]):
        with pytest.raises(ConfigError, match="two runs"):
            controller.compare(runs)


def test_two_runs_are_compared_into_a_folder_of_their_own(
    controller: Controller, folders: Folders, tmp_path: Path
) -> None:
    from tests.fakes_scorecard import small_score

    runs = [folders.output_folder / name for name in ("cat", "cub")]
    for run in runs:
        small_score(tmp_path / "made", run)
    made = controller.compare(runs, "zorp-000200:1, zorp-000100:0.5")
    assert sorted(path.name for path in made.iterdir() if path.is_file()) == [
        "compare.csv",
        "compare.html",
        "compare.json",
    ]
    told = json.loads((made / "compare.json").read_text())
    assert [(side["checkpoint"], side["weight"]) for side in told["sides"]] == [
        ("zorp-000200", 1.0),
        ("zorp-000100", 0.5),
    ]
    # a comparison is no run: the list of runs stays as it was
    assert set(controller.scored_runs()) == set(runs)


def test_a_run_measured_from_a_table_is_listed_and_compared(
    controller: Controller, folders: Folders, tmp_path: Path
) -> None:
    from lora_eval.service.measured import MeasureRequest
    from lora_eval.service.scoring import measure_table
    from tests.fakes_scorecard import FakeEncoder, small_score

    drawn, measured = (folders.output_folder / name for name in ("cat", "elsewhere"))
    small_score(tmp_path / "made", drawn)
    words = {"trigger": "zorp", "class_word": "shape"}
    measure_table(drawn / "cells.csv", measured, MeasureRequest(**words), encoder=FakeEncoder(), resamples=50)
    assert {one.folder: bool(one.verdict) for one in controller.history()} == {drawn: True, measured: True}
    told = json.loads(
        (controller.compare([drawn, measured], "zorp-000200:1, zorp-000200:1") / "compare.json").read_text()
    )
    assert {row["ahead"] for row in told["rows"]} == {"tie", ""}
    with pytest.raises(RunError, match="measured from a table"):
        controller.use_weight(measured, "zorp-000200", "1")
    (measured / "scorecard.json").unlink()
    assert {one.folder: bool(one.verdict) for one in controller.history()} == {drawn: True, measured: False}


def test_every_preset_is_estimated_with_the_rest_of_the_order(controller: Controller) -> None:
    found = controller.estimates(order(preset="quick", seeds=3, budget=400))
    assert list(found) == ["quick", "standard", "thorough", "adaptive"]
    assert found["quick"].images == 6 * 3 * (1 + 4) and found["quick"].of is None
    assert (found["adaptive"].images, found["adaptive"].of) == (400, found["thorough"].images)
