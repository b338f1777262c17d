"""The REST routes: what they accept and refuse, with a fake host and no WebUI."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from lora_eval.api.routes import PREFIX, create_routes
from lora_eval.errors import DatasetError
from lora_eval.files import write_json
from lora_eval.host.protocol import HostInfo, Job, Sampling
from lora_eval.service.jobs import Handle, JobQueue

LONG = 30.0


class FolderHost:
    """What the routes themselves need of a host."""

    def __init__(self, output: Path) -> None:
        self.output_folder = output

    def info(self) -> HostInfo:
        return HostInfo("a1111", "1.10.1", "cpu", {"torch": "2.1.2"})

    def native_size(self) -> tuple[int, int]:
        return (64, 64)

    def model(self) -> Any:
        return SimpleNamespace(name="sd-v1")


@pytest.fixture
def site(tmp_path: Path) -> Any:
    """A client, its queue, and folders: ``data`` is allowed, ``secret`` is not."""
    for name in ("data", "output", "secret"):
        (tmp_path / name).mkdir()
    app, jobs = FastAPI(), JobQueue()
    host = FolderHost(tmp_path / "output")
    create_routes(app, lambda: host, jobs, None, lambda: [tmp_path / "data"])  # type: ignore[arg-type, return-value]
    return SimpleNamespace(client=TestClient(app, base_url="http://127.0.0.1"), jobs=jobs, root=tmp_path, host=host)


def get(site: Any, path: str) -> Any:
    return site.client.get(PREFIX + path)


def post(site: Any, path: str, body: Any = None) -> Any:
    return site.client.post(PREFIX + path, json=body)


def trained_with(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the training by one that writes down its config."""
    seen: list[Any] = []

    def train(host: Any, config: Any, job: Any = None, resume: bool = False, encoder: Any = None) -> Any:
        seen.append((config, resume))
        return SimpleNamespace(stopped="finished", message="", __dataclass_fields__={"stopped": None})

    monkeypatch.setattr("lora_eval.training.loop.train", train)
    return seen


def test_health_names_host_and_version(site: Any) -> None:
    body = get(site, "/health").json()
    assert (body["status"], body["host"]["name"], body["running"], body["queued"]) == ("ok", "a1111", None, 0)


# -- training ------------------------------------------------------------------------------------------


def test_train_takes_the_keys_of_the_config_and_relative_paths(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = trained_with(monkeypatch)
    body = {"train_data_dir": "cats", "epochs": 3, "learning_rate": 1, "resolution": [64, 96], "resume": True}
    answer = post(site, "/train", body)
    assert answer.status_code == 202
    assert site.jobs.wait(answer.json()["id"], LONG).status == "finished"
    config, resume = seen[0]
    assert config.train_data_dir == str(site.root / "data" / "cats")
    assert (config.epochs, config.learning_rate, config.resolution, resume) == (3, 1.0, (64, 96), True)


def test_train_from_a_template(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = trained_with(monkeypatch)
    answer = post(site, "/train", {"template": "character_low_vram", "train_data_dir": "cats", "lora_rank": 6})
    site.jobs.wait(answer.json()["id"], LONG)
    assert (seen[0][0].kind, seen[0][0].gradient_checkpointing, seen[0][0].lora_rank) == ("character", True, 6)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "train_data_dir"),
        ({"train_data_dir": "cats", "learnin_rate": 1e-4}, "learnin_rate"),
        ({"train_data_dir": "cats", "epochs": 2.5}, "epochs"),
        ({"train_data_dir": "cats", "epochs": "many"}, "epochs"),
        ({"train_data_dir": "cats", "epochs": 0}, "epochs"),
        ({"train_data_dir": "cats", "flip": 1}, "flip"),
        ({"train_data_dir": "cats", "betas": [0.9, "x"]}, "betas"),
        ({"train_data_dir": "cats", "preset": "everything"}, "preset"),
        ({"train_data_dir": "cats", "template": "characterr"}, "characterr"),
        ({"train_data_dir": ["cats"]}, "train_data_dir"),
        ([1, 2], "body"),
    ],
)
def test_bad_training_requests_are_422_in_one_line_and_start_nothing(site: Any, body: Any, named: str) -> None:
    answer = post(site, "/train", body)
    assert answer.status_code == 422
    assert list(answer.json()) == ["detail"]
    line = answer.json()["detail"]
    assert named in line and "\n" not in line
    assert site.jobs.list() == []


@pytest.mark.parametrize("key", ["train_data_dir", "metadata_path", "output_dir", "init_lora"])
@pytest.mark.parametrize("path", ["{root}/secret", "../secret", "{root}/data/../secret/x", "/etc", "data/../../secret"])
def test_paths_outside_are_403(site: Any, key: str, path: str) -> None:
    body = {"train_data_dir": "cats", key: path.format(root=site.root)}
    answer = post(site, "/train", body)
    assert answer.status_code == 403
    assert "outside the allowed folders" in answer.json()["detail"]
    assert site.jobs.list() == []


def test_links_that_lead_outside_are_403(site: Any) -> None:
    (site.root / "data" / "cats").symlink_to(site.root / "secret")
    assert post(site, "/train", {"train_data_dir": "cats"}).status_code == 403


def test_a_path_that_is_none_is_403(site: Any) -> None:
    assert post(site, "/train", {"train_data_dir": "a\0b"}).status_code == 403


# -- scoring and checking ------------------------------------------------------------------------------


def test_score_hands_everything_over(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def score(host: Any, request: Any, out: Any) -> Any:
        seen.update(vars(request), out=out, sampling=request.sampling(Sampling(width=64, height=64)))
        return SimpleNamespace(verdict="good", checkpoint="a-2", weight=0.8)

    monkeypatch.setattr("lora_eval.service.scoring.score", score)
    body = {
        "lora": ["a-1.safetensors", "a-2.safetensors"],
        "weights": "0-1 [3]",
        "seeds": 2,
        "prompts": "1-2, 4",
        "steps": 4,
        "data": "cats",
        "axes": "seed, weight",
        "budget": 30,
    }
    state = site.jobs.wait(post(site, "/score", body).json()["id"], LONG)
    assert state.status == "finished", state.error
    assert state.result == {
        "folder": str(site.root / "output" / "a-1-scorecard"),
        "run": "a-1-scorecard",
        "model": "sd-v1",
        "budget": 30,
        "verdict": "good",
        "recommended": {"checkpoint": "a-2", "weight": 0.8},
    }
    assert seen["loras"] == [site.root / "data" / "a-1.safetensors", site.root / "data" / "a-2.safetensors"]
    assert (seen["weights"], seen["seeds"], seen["data"]) == ("0-1 [3]", 2, site.root / "data" / "cats")
    assert (seen["prompts"], seen["axes"], seen["budget"]) == ([1, 2, 4], ("seed", "weight"), 30)
    assert (seen["sampling"].steps, seen["sampling"].width) == (4, 64)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"lora": 3}, 422),
        ({"lora": "a.safetensors", "seeds": "two"}, 422),
        ({"lora": "a.safetensors", "axes": "weight"}, 422),
        ({"lora": "a.safetensors", "axes": "weight, weight"}, 422),
        ({"lora": "a.safetensors", "weights": "0 to 1"}, 422),
        ({"lora": "a.safetensors", "budget": 3}, 422),
        ({"lora": "a.safetensors", "budget": 300, "minutes": 3}, 422),
        ({"lora": "a.safetensors", "minutes": 3}, 422),
        ({"lora": "a.safetensors", "preset": "enormous"}, 422),
        ({"lora": "a.safetensors", "colour": "red"}, 422),
        ({"lora": "../secret/a.safetensors"}, 403),
        ({"lora": "a.safetensors", "data": "/etc"}, 403),
        ({"lora": "a.safetensors", "suite": "../secret/suite.yaml"}, 403),
        ({"lora": "a.safetensors", "encoder": "/etc"}, 403),
        ({"lora": "a.safetensors", "run": "../secret"}, 403),
        ({"lora": "a.safetensors", "run": ".hidden"}, 403),
    ],
)
def test_bad_score_requests(site: Any, body: Any, status: int) -> None:
    answer = post(site, "/score", body)
    assert answer.status_code == status
    assert "\n" not in answer.json()["detail"] and site.jobs.list() == []


def test_check_answers_at_once(site: Any) -> None:
    folder = site.root / "data" / "cats"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    body = post(site, "/check", {"data": "cats", "trigger": "zorp"}).json()
    assert body["errors"] >= 1
    assert body["findings"][0]["severity"] == "error"
    assert any(finding["picture"] == "broken.png" for finding in body["findings"])


def test_an_error_of_ours_is_422_with_its_line(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise DatasetError("cats has no\npictures; add some")

    monkeypatch.setattr("lora_eval.api.routes.check_folder", fail)
    answer = post(site, "/check", {"data": "cats"})
    assert (answer.status_code, answer.json()) == (422, {"detail": "cats has no pictures; add some"})


# -- jobs ----------------------------------------------------------------------------------------------


def test_jobs_are_listed_watched_and_interrupted(site: Any) -> None:
    running, asked = threading.Event(), threading.Event()

    def run(handle: Handle) -> None:
        running.set()
        assert asked.wait(LONG)
        handle.check()

    id = site.jobs.submit("train", "cat", run)
    assert running.wait(LONG)
    assert get(site, "/health").json()["running"] == id
    assert get(site, f"/jobs/{id}").json()["status"] == "running"
    assert post(site, f"/jobs/{id}/interrupt").status_code == 200
    asked.set()
    site.jobs.wait(id, LONG)
    assert [(job["id"], job["status"]) for job in get(site, "/jobs").json()] == [(id, "interrupted")]


def test_a_paused_job_says_why_and_goes_on_when_asked(site: Any) -> None:
    def run(handle: Handle) -> dict[str, bool]:
        job = handle.follow(Job("training", 10))
        if not handle.again:
            job.pause("another model was loaded; load a and press Resume")
        job.check()
        return {"again": handle.again}

    id = site.jobs.submit("train", "cat", run, resumable=True)
    site.jobs.wait(id, LONG)
    paused = get(site, f"/jobs/{id}").json()
    assert (paused["status"], paused["resumable"]) == ("paused", True)
    assert paused["error"] == "another model was loaded; load a and press Resume"
    answer = post(site, f"/jobs/{id}/resume")
    assert answer.status_code == 202 and answer.json()["id"] == id
    site.jobs.wait(id, LONG)
    over = get(site, f"/jobs/{id}").json()
    assert (over["status"], over["error"], over["result"]) == ("finished", "", {"again": True})
    refused = post(site, f"/jobs/{id}/resume")
    assert refused.status_code == 422 and f"job {id} is finished" in refused.json()["detail"]


@pytest.mark.parametrize(
    "method, path",
    [("GET", "/jobs/nothing"), ("POST", "/jobs/nothing/interrupt"), ("POST", "/jobs/nothing/resume")],
)
def test_unknown_jobs_are_404(site: Any, method: str, path: str) -> None:
    answer = site.client.request(method, PREFIX + path)
    assert answer.status_code == 404 and "nothing" in answer.json()["detail"]


# -- runs ----------------------------------------------------------------------------------------------


def test_runs_and_their_files(site: Any) -> None:
    run = site.root / "output" / "cat-scorecard"
    write_json(run / "plan.json", {})
    write_json(run / "scorecard.json", {"verdict": "use it", "recommended": {"checkpoint": "cat", "weight": 0.7}})
    (run / "cells.csv").write_text("run,lora\n")
    (run / "images").mkdir()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(run / "images" / "a_w1_p_s1.png")
    write_json(site.root / "output" / "dog" / "run.json", {})
    (site.root / "output" / "cache").mkdir()
    listed = {entry["id"]: entry for entry in get(site, "/runs").json()}
    assert set(listed) == {"cat-scorecard", "dog"}
    assert listed["cat-scorecard"]["verdict"] == "use it" and listed["cat-scorecard"]["kind"] == "score"
    assert listed["dog"]["kind"] == "train" and listed["dog"]["verdict"] is None
    card = get(site, "/runs/cat-scorecard/scorecard.json")
    assert card.json()["recommended"]["weight"] == 0.7 and card.headers["content-type"] == "application/json"
    assert get(site, "/runs/cat-scorecard/cells.csv").headers["content-type"].startswith("text/csv")
    picture = get(site, "/runs/cat-scorecard/images/a_w1_p_s1.png")
    assert picture.content == (run / "images" / "a_w1_p_s1.png").read_bytes()
    assert get(site, "/runs/cat-scorecard/summary.csv").status_code == 404
    assert get(site, "/runs/cat-scorecard/plan.json").status_code == 404
    assert get(site, "/runs/bird/cells.csv").status_code == 404


def test_training_runs_lie_one_folder_deeper_where_the_output_folder_has_another_name(site: Any) -> None:
    output = site.root / "output"
    write_json(output / "fox" / "plan.json", {})
    (output / "fox" / "cells.csv").write_text("run,lora\n")
    for name in ("fox", "hen"):
        write_json(output / "lora-eval" / name / "run.json", {})
        (output / "lora-eval" / name / "history.csv").write_text(f"step,{name}\n")
    listed = {(entry["id"], entry["kind"]) for entry in get(site, "/runs").json()}
    assert listed == {("fox", "score"), ("fox", "train"), ("hen", "train")}
    assert get(site, "/runs/hen/history.csv").text == "step,hen\n"
    assert get(site, "/runs/fox/history.csv").text == "step,fox\n"
    assert get(site, "/runs/fox/cells.csv").text == "run,lora\n"


def test_no_output_folder_yet_is_an_empty_list(site: Any) -> None:
    (site.root / "output").rmdir()
    assert get(site, "/runs").json() == []


@pytest.mark.parametrize(
    "path",
    [
        "/runs/..%2F..%2Fsecret/cells.csv",
        "/runs/%2e%2e/cells.csv",
        "/runs/run/images/..%5C..%5Csecret.png",
        "/runs/.x/cells.csv",
    ],
)
def test_runs_cannot_be_used_to_read_elsewhere(site: Any, path: str) -> None:
    (site.root / "output" / "run" / "images").mkdir(parents=True)
    (site.root / "secret" / "cells.csv").write_text("hidden treasure")
    (site.root / "secret.png").write_text("hidden treasure")
    answer = get(site, path)
    assert answer.status_code in (403, 404) and "treasure" not in answer.text


def test_a_picture_that_links_outside_is_403(site: Any) -> None:
    images = site.root / "output" / "run" / "images"
    images.mkdir(parents=True)
    (site.root / "secret" / "x.png").write_bytes(b"secret")
    (images / "x.png").symlink_to(site.root / "secret" / "x.png")
    assert get(site, "/runs/run/images/x.png").status_code == 403


# -- credentials ---------------------------------------------------------------------------------------


@pytest.fixture
def locked(tmp_path: Path) -> TestClient:
    app = FastAPI()
    host = FolderHost(tmp_path)
    users = {"ann": "s3cret", "bob": "co:lon"}
    create_routes(app, lambda: host, JobQueue(), users, lambda: [tmp_path])  # type: ignore[arg-type, return-value]
    return TestClient(app, base_url="http://127.0.0.1")


EVERY_ROUTE = [
    ("GET", "/health"), ("POST", "/train"), ("POST", "/score"), ("POST", "/check"), ("GET", "/jobs"),
    ("GET", "/jobs/x"),
    ("POST", "/jobs/x/interrupt"), ("POST", "/jobs/x/resume"), ("GET", "/runs"),
    ("GET", "/runs/x/cells.csv"), ("GET", "/runs/x/images/y.png"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
def test_without_credentials_every_route_is_401(locked: TestClient, method: str, path: str) -> None:
    answer = locked.request(method, PREFIX + path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")


@pytest.mark.parametrize(
    ("user", "password", "status"),
    [
        ("ann", "s3cret", 200),
        ("bob", "co:lon", 200),
        ("ann", "wrong", 401),
        ("ann", "", 401),
        ("bob", "s3cret", 401),
        ("nobody", "s3cret", 401),
        ("", "", 401),
    ],
)
def test_credentials(locked: TestClient, user: str, password: str, status: int) -> None:
    assert locked.get(PREFIX + "/health", auth=(user, password)).status_code == status


def test_the_app_s_own_routes_stay_open(tmp_path: Path) -> None:
    app = FastAPI()

    @app.get("/sdapi")
    def own() -> dict[str, int]:
        return {"own": 1}

    host = FolderHost(tmp_path)
    create_routes(app, lambda: host, JobQueue(), {"ann": "x"}, lambda: [tmp_path])  # type: ignore[arg-type, return-value]
    assert TestClient(app, base_url="http://127.0.0.1").get("/sdapi").json() == {"own": 1}


def test_compare_sets_finished_runs_side_by_side(site: Any, tmp_path: Path) -> None:
    from tests.fakes_scorecard import small_score

    output = site.root / "output"
    for name in ("cat", "cub"):
        small_score(tmp_path / "made", output / name)
    answer = post(site, "/compare", {"runs": ["cat", "cub"], "at": ["zorp-000200:1", "zorp-000100:0.5"]})
    assert answer.status_code == 200, answer.json()
    found = answer.json()
    assert found["verdict"] and [side["folder"] for side in found["sides"]] == ["cat", "cub"]
    for name in ("compare.html", "compare.csv", "compare.json"):
        assert get(site, f"/comparisons/{found['id']}/{name}").status_code == 200
    assert get(site, f"/comparisons/{found['id']}/plan.json").status_code == 404
    assert post(site, "/compare", {"runs": ["cat"]}).status_code == 422
    assert post(site, "/compare", {"runs": ["cat", "dog"]}).status_code == 404
    assert post(site, "/compare", {"runs": ["cat", "../data"]}).status_code == 403
