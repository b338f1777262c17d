"""What tabs and routes start: a run that was stopped goes on in its own folder, on the model that it began with."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_eval.host.protocol import Job
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service.jobs import FINISHED, PAUSED, JobQueue, JobState
from lora_eval.service.submit import submit_score, submit_train
from lora_eval.training.config import make_config
from lora_eval.training.result import TrainResult

LONG = 30.0


class SwitchedHost:
    """A host whose person loads another checkpoint once, in mid-run."""

    def __init__(self, root: Path) -> None:
        self.output_folder, self.name, self.calls = root, "a", 0

    def model(self) -> Any:
        return SimpleNamespace(name=self.name)

    def job(self, title: str, total: int) -> Any:
        return nullcontext(Job(title, total))

    def work(self, job: Job) -> str:
        """A step; in the first of all the checkpoint is switched. How it ended."""
        self.calls += 1
        if self.calls > 1:
            return "finished"
        self.name = "b"
        job.pause("b was loaded")
        return "interrupted"


@pytest.fixture
def host(tmp_path: Path) -> SwitchedHost:
    return SwitchedHost(tmp_path)


def over(jobs: JobQueue, id: str, again: bool = False) -> JobState:
    assert not again or jobs.resume(id)
    state = jobs.wait(id, LONG)
    assert state is not None
    return state


def waits_for_its_model(jobs: JobQueue, id: str, host: Any) -> JobState:
    """Paused, resumed too early, resumed with its own model; the last state."""
    assert over(jobs, id).status == PAUSED
    early = over(jobs, id, again=True)
    assert (early.status, early.resumable) == (PAUSED, True)
    assert early.error == "b is loaded, but this run began with a; load a and press Resume"
    assert host.calls == 1, "nothing is drawn or trained on another model"
    host.name = "a"
    return over(jobs, id, again=True)


def test_a_scorecard_goes_on_in_its_folder_on_its_model(
    host: SwitchedHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders = []

    def score(followed: Any, loras: Any, out: Path, **more: Any) -> Any:
        folders.append(out)
        out.mkdir(exist_ok=True)
        with followed.job("drawing", 2) as job:
            host.work(job)
            job.check()
        return SimpleNamespace(verdict="fine", checkpoint="cat", weight=0.8)

    monkeypatch.setattr("lora_eval.service.scoring.score", score)
    jobs = JobQueue()
    id = submit_score(jobs, lambda: host, ScoreRequest([tmp_path / "cat.safetensors"]))  # type: ignore[arg-type, return-value]
    state = waits_for_its_model(jobs, id, host)
    assert state.status == FINISHED and state.result["verdict"] == "fine"
    assert folders == [tmp_path / "cat-scorecard"] * 2


def test_a_training_goes_on_from_its_folder_on_its_model(
    host: SwitchedHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def train(followed: Any, config: Any, job: Any, resume: Any, encoder: Any) -> TrainResult:
        asked.append(resume)
        with followed.job("training", 2) as job:
            stopped = host.work(job)
        return TrainResult(tmp_path / "cat-2", tmp_path / "cat-2" / "cat-2.safetensors", [], tmp_path, stopped)

    monkeypatch.setattr("lora_eval.training.loop.train", train)
    monkeypatch.setattr("lora_eval.training.watch.load_watcher", lambda *_: None)
    jobs = JobQueue()
    config = make_config({"train_data_dir": str(tmp_path), "name": "cat"})
    id = submit_train(jobs, lambda: host, config)  # type: ignore[arg-type, return-value]
    state = waits_for_its_model(jobs, id, host)
    assert state.status == FINISHED and state.result["stopped"] == "finished"
    assert asked == [False, tmp_path / "cat-2"]
