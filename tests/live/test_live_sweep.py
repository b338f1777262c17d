"""Sweeps in a running WebUI: its own pixels, nothing drawn without the LoRA, and room for its user."""

from __future__ import annotations

import csv
import io
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def cells(webui: Any, run: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(webui.call(f"/lora-eval/v1/runs/{run}/cells.csv"))))


def by_api(webui: Any, row: dict[str, str], lora: str) -> np.ndarray:
    """The cell as the host's own API draws it."""
    weight = float(row["weight"])
    tag = "" if weight == 0 else f" <lora:{lora}:{weight:g}>"
    return np.asarray(webui.txt2img(row["prompt"] + tag, int(row["seed"]), row["negative_prompt"]))


@pytest.fixture
def run() -> str:
    return f"live-sweep-{time.time_ns()}"


@pytest.mark.parametrize(("batch", "allowed"), [(1, 0), (4, 1)])
def test_cells_are_the_pictures_of_txt2img(webui: Any, other_lora: str, run: str, batch: int, allowed: int) -> None:
    id = webui.score(f"models/Lora/{other_lora}.safetensors", run=run, batch_size=batch)
    state = webui.over(id)
    assert state["status"] == "finished", state["error"]
    rows = cells(webui, run)
    assert len(rows) == 8 and state["result"]["verdict"]
    for row in rows:
        difference = webui.picture(run, row["image"]).astype(int) - by_api(webui, row, other_lora)
        assert np.abs(difference).max() <= allowed, row["image"]
    for name in ("summary.csv", "scorecard.json", "report.html"):
        assert webui.status(f"/lora-eval/v1/runs/{run}/{name}") == 200
    assert run in [entry["id"] for entry in webui.call("/lora-eval/v1/runs")]


def test_a_checkpoint_in_a_run_folder_is_drawn_and_nothing_is_left_in_the_lora_folder(webui: Any, run: str) -> None:
    name = f"live-lent-{time.time_ns()}"
    trained = webui.over(webui.train(name=name, learning_rate=1e-2))
    lora = trained["result"]["lora"]
    state = webui.over(webui.score(lora, run=run, batch_size=4))
    assert state["status"] == "finished", state["error"]
    first, last = cells(webui, run)[0], cells(webui, run)[-1]
    assert first["seed"] != last["seed"] or first["weight"] != last["weight"]
    assert not list((webui.data / "models" / "Lora").rglob(f"{name}*"))


def test_a_missing_lora_stops_the_run_and_names_it(webui: Any, run: str) -> None:
    state = webui.over(webui.score("models/Lora/not-there.safetensors", run=run))
    assert state["status"] == "failed" and "not-there.safetensors" in state["error"]


def test_a_lora_of_another_family_stops_the_run_and_names_it(webui: Any, run: str, pytestconfig: pytest.Config) -> None:
    name = pytestconfig.getoption("--webui-wrong-lora")
    if not name:
        pytest.skip("needs a LoRA of another family: --webui-wrong-lora NAME")
    state = webui.over(webui.score(f"models/Lora/{name}.safetensors", run=run))
    assert state["status"] == "failed" and f"{name}.safetensors" in state["error"]
    assert not list((webui.data / "outputs" / "lora-eval" / run).glob("images/*.png"))


def test_interrupt_and_run_again_goes_on(webui: Any, other_lora: str, run: str) -> None:
    lora = f"models/Lora/{other_lora}.safetensors"
    id = webui.score(lora, run=run, batch_size=1)
    webui.until(id, lambda state: state["done"] >= 2)
    webui.call("/sdapi/v1/interrupt", {})
    state = webui.until(id, lambda state: False) if webui.job(id)["status"] != "running" else webui.job(id)
    webui.call(f"/lora-eval/v1/jobs/{id}/interrupt", {})
    state = webui.over(id)
    assert state["status"] == "interrupted" and 2 <= state["done"] < 8
    images = webui.data / "outputs" / "lora-eval" / run / "images"
    kept = {path.name: path.stat().st_mtime_ns for path in images.glob("*.png")}
    again = webui.over(webui.score(lora, run=run, batch_size=1))
    assert again["status"] == "finished", again["error"]
    assert {name: (images / name).stat().st_mtime_ns for name in kept} == kept
    assert len(cells(webui, run)) == 8


def test_an_adaptive_sweep_keeps_its_budget_is_interrupted_and_goes_on(webui: Any, other_lora: str, run: str) -> None:
    lora, budget = f"models/Lora/{other_lora}.safetensors", 24
    asked = {"run": run, "batch_size": 2, "weights": "0, 0.3, 0.6, 0.9, 1.2", "seeds": 4, "budget": budget}
    id = webui.score(lora, **asked)
    webui.until(id, lambda state: state["done"] >= 6)
    webui.call(f"/lora-eval/v1/jobs/{id}/interrupt", {})
    assert webui.over(id)["status"] == "interrupted"
    webui.call(f"/lora-eval/v1/jobs/{id}/resume", {})
    state = webui.over(id)
    assert state["status"] == "finished", state["error"]
    told = webui.call(f"/lora-eval/v1/runs/{run}/scorecard.json")["provenance"]["adaptive"]
    rows = cells(webui, run)
    assert len(rows) == told["images"] == sum(one["images"] for one in told["rounds"]) <= budget
    assert told["full_grid"] == 2 * 4 * 5 and told["stopped"] and told["more"]
    # every picture has its twin without the LoRA
    drawn = {(row["prompt_id"], row["seed"], float(row["weight"])) for row in rows}
    assert len(drawn) == len(rows) and {(name, seed, 0.0) for name, seed, _ in drawn} <= drawn
    last = max(rows, key=lambda row: (int(row["seed"]), float(row["weight"])))
    difference = webui.picture(run, last["image"]).astype(int) - by_api(webui, last, other_lora)
    assert np.abs(difference).max() <= 1
    # again, nothing is drawn
    images = webui.data / "outputs" / "lora-eval" / run / "images"
    kept = {path.name: path.stat().st_mtime_ns for path in images.glob("*.png")}
    assert webui.over(webui.score(lora, **asked))["status"] == "finished"
    assert {path.name: path.stat().st_mtime_ns for path in images.glob("*.png")} == kept and len(kept) == len(rows)


def test_a_users_picture_comes_within_one_batch(webui: Any, other_lora: str, run: str) -> None:
    alone = webui.txt2img("a cat")
    id = webui.score(f"models/Lora/{other_lora}.safetensors", run=run, batch_size=1, seeds=4)
    webui.until(id, lambda state: state["done"] >= 2)
    got: list[Any] = []

    def user() -> None:
        asked = webui.job(id)["done"]
        picture = webui.txt2img("a cat")
        got.append((picture, webui.job(id)["done"] - asked))

    thread = threading.Thread(target=user)
    thread.start()
    thread.join()
    state = webui.over(id)
    assert state["status"] == "finished", state["error"]
    assert np.array_equal(got[0][0], alone)
    # the batch that ran when it was asked for, and what was drawn while the answer travelled back
    assert got[0][1] <= 3


def test_a_switched_checkpoint_pauses_the_sweep_and_resume_ends_it(
    webui: Any, other_lora: str, run: str, other_checkpoint: str
) -> None:
    lora, own = f"models/Lora/{other_lora}.safetensors", webui.checkpoint()
    id = webui.score(lora, run=run, batch_size=1, seeds=4)
    webui.until(id, lambda state: state["done"] >= 2)
    webui.choose(other_checkpoint)
    state = webui.over(id)
    assert (state["status"], state["resumable"]) == ("paused", True), state["error"]
    for word in (Path(own.split(" ")[0]).stem, Path(other_checkpoint).stem, "press Resume"):
        assert word in state["error"]
    done = state["done"]
    assert 2 <= done < state["total"]
    # resumed too early it says so again, and loses nothing
    webui.call(f"/lora-eval/v1/jobs/{id}/resume", {})
    early = webui.over(id)
    assert (early["status"], early["resumable"]) == ("paused", True) and "press Resume" in early["error"]
    webui.choose(own)
    images = webui.data / "outputs" / "lora-eval" / run / "images"
    kept = {path.name: path.stat().st_mtime_ns for path in images.glob("*.png")}
    assert len(kept) >= done
    webui.call(f"/lora-eval/v1/jobs/{id}/resume", {})
    again = webui.over(id)
    assert again["status"] == "finished", again["error"]
    assert {name: (images / name).stat().st_mtime_ns for name in kept} == kept
    for row in cells(webui, run)[::5]:
        assert np.array_equal(webui.picture(run, row["image"]), by_api(webui, row, other_lora))


def test_paths_outside_are_refused(webui: Any) -> None:
    assert webui.status("/lora-eval/v1/score", {"lora": "/etc/passwd"}) == 403
    assert webui.status("/lora-eval/v1/runs/..%2f..%2fmodels/cells.csv") in (403, 404)
