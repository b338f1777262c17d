"""Captions by a host's own interrogators: as a job, from the tab, over REST; what is made by then is kept."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from lora_eval.api.routes import PREFIX, create_routes
from lora_eval.dataset.captioning import CaptionOrder
from lora_eval.errors import ConfigError, HostError
from lora_eval.service import submit
from lora_eval.service.jobs import JobQueue, JobState
from lora_eval.ui.controller import Controller
from tests.fakes import FakeHost

LONG = 60.0
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def name_colour(picture: Image.Image) -> str:
    """A captioner that truly looks."""
    pixel = picture.convert("RGB").getpixel((0, 0))
    return "a  plain " + next(name for name, value in COLOURS.items() if value == pixel)


class Interrogating(FakeHost):
    """A host with interrogators of its own."""

    ask: Callable[[Image.Image], str] = staticmethod(name_colour)

    def interrogators(self) -> dict[str, Callable[[Image.Image], str]]:
        return {"BLIP": self.ask}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "outputs" / "pictures"
    root.mkdir(parents=True)
    for number, (name, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (16, 16), colour).save(root / f"{number}-{name}.png")
    return root


@pytest.fixture
def host(tmp_path: Path) -> Interrogating:
    return Interrogating(tmp_path)


def captions(folder: Path) -> dict[str, str]:
    table = folder / "metadata.csv"
    if table.is_file():
        with table.open(encoding="utf-8") as file:
            rows = {row["file_name"]: row["prompt"] for row in csv.DictReader(file)}
    else:
        rows = {path.with_suffix(".png").name: path.read_text(encoding="utf-8") for path in folder.glob("*.txt")}
    return {name.split("-")[1].removesuffix(".png"): text.strip() for name, text in rows.items() if text.strip()}


def done(queue: JobQueue, id: str) -> JobState:
    state = queue.wait(id, LONG)
    assert state is not None
    return state


def test_the_hosts_interrogator_captions_a_folder_as_a_job(host: Interrogating, folder: Path) -> None:
    queue = JobQueue()
    order = CaptionOrder(trigger="sks", class_word="disc")
    state = done(queue, submit.submit_caption(queue, lambda: host, folder, order, "BLIP"))
    assert (state.kind, state.status, state.done, state.total) == ("caption", "finished", 3, 3)
    assert state.result == {"data": str(folder), "changed": 3, "failed": [], "notes": []}
    assert captions(folder) == {name: f"sks disc, a plain {name}" for name in COLOURS}
    assert [job.title for job in host.jobs] == ["Captions of pictures"], "in the host's progress bar"


def test_what_a_person_wrote_stays_unless_it_is_to_be_made_anew(host: Interrogating, folder: Path) -> None:
    (folder / "0-red.txt").write_text("mine")
    queue = JobQueue()
    state = done(queue, submit.submit_caption(queue, lambda: host, folder, CaptionOrder(), "BLIP"))
    assert state.result["changed"] == 2 and captions(folder)["red"] == "mine"
    state = done(queue, submit.submit_caption(queue, lambda: host, folder, CaptionOrder(overwrite=True), "BLIP"))
    assert state.result["changed"] == 1 and captions(folder)["red"] == "a plain red"


@pytest.mark.parametrize("how", ["interrupted", "failed"])
def test_captions_made_before_the_end_are_kept(host: Interrogating, folder: Path, how: str) -> None:
    seen, go = threading.Event(), threading.Event()

    def ask(picture: Image.Image) -> str:
        said = name_colour(picture)
        if "green" in said:
            if how == "failed":
                raise HostError("BLIP could not look at a picture: RuntimeError: out of memory")
            seen.set()
            go.wait(LONG)
        return said

    host.ask = ask  # type: ignore[assignment]
    queue = JobQueue()
    id = submit.submit_caption(queue, lambda: host, folder, CaptionOrder(), "BLIP")
    if how == "interrupted":
        assert seen.wait(LONG)
        queue.interrupt(id)
        go.set()
    state = done(queue, id)
    assert state.status == how
    made = {"red"} if how == "failed" else {"red", "green"}
    assert captions(folder) == {name: f"a plain {name}" for name in made}
    assert ("out of memory" in state.error) == (how == "failed")


def test_a_captioner_that_is_not_here_is_refused_at_once(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="nothing called 'BLIP' captions here; choose one of CLIP terms"):
        submit.submit_caption(JobQueue(), lambda: FakeHost(tmp_path), folder, CaptionOrder(), "BLIP")


def test_the_desk_offers_the_hosts_first_and_the_terms_always(host: Interrogating, folder: Path) -> None:
    controller = Controller(lambda: host, JobQueue())
    assert controller.captioners() == ["BLIP", submit.TERMS]

    def nobody() -> Any:
        raise HostError("no host")

    assert Controller(nobody, JobQueue()).captioners() == [submit.TERMS]
    id = controller.caption(str(folder), "", "BLIP", " sks ", "")
    done(controller.queue, id)
    state = controller.captioning()
    assert state is not None and state.id == id
    checked = controller.check(str(folder), None, "sks", None)
    assert [picture.caption for picture in checked.pictures] == [f"sks, a plain {name}" for name in COLOURS]
    with pytest.raises(ConfigError, match="no folder is chosen"):
        controller.caption("", None, "BLIP")


def test_rest(host: Interrogating, folder: Path, tmp_path: Path) -> None:
    app, queue = FastAPI(), JobQueue()
    create_routes(app, lambda: host, queue, None, lambda: [])
    client = TestClient(app, base_url="http://127.0.0.1")
    assert client.get(f"{PREFIX}/captioners").json() == ["BLIP", submit.TERMS]
    answer = client.post(f"{PREFIX}/caption", json={"data": str(folder), "by": "BLIP", "trigger": "sks"})
    assert answer.status_code == 202
    assert done(queue, answer.json()["id"]).result["changed"] == 3
    assert captions(folder)["blue"] == "sks, a plain blue"
    outside = client.post(f"{PREFIX}/caption", json={"data": str(tmp_path), "by": "BLIP"})
    assert outside.status_code == 403
    unknown = client.post(f"{PREFIX}/caption", json={"data": str(folder), "by": "WD14"})
    assert unknown.status_code == 422 and "choose one of BLIP" in unknown.json()["detail"]
