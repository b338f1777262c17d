"""One rule for every path that a request can name: outside the allowed folders is 403, whatever the field or route."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lora_eval.api import bodies
from lora_eval.api.routes import PREFIX, create_routes
from lora_eval.service.confinement import Confinement, ForbiddenPath
from lora_eval.service.jobs import JobQueue
from tests.api.test_api import FolderHost

BODIES = {
    "/train": bodies.TrainBody, "/score": bodies.ScoreBody, "/check": bodies.CheckBody, "/caption": bodies.CaptionBody,
    "/compare": bodies.CompareBody,
}  # fmt: skip
NEEDED: dict[str, dict[str, Any]] = {
    "/train": {"train_data_dir": "data"}, "/score": {"lora": "a.safetensors"}, "/check": {"data": "data"},
    "/caption": {"data": "data", "by": "x"}, "/compare": {"runs": ["x", "y"]},
}  # fmt: skip
# texts that are drawn, named or chosen, and never opened; a new text field is put here or in PATHS
NO_FILES: dict[str, set[str]] = {
    "/train": {
        "template", "name", "trigger", "class_word", "preset", "blocks", "optimizer", "lr_scheduler", "mixed_precision",
        "save_dtype", "sample_prompts", "sample_negative", "sample_sampler", "sampler", "kind", "prediction",
        "resolution", "caption_extension", "hard_negative_prompts", "on_out_of_memory",
    },
    "/score": {
        "axes", "class_word", "kind", "negative_prompt", "preset", "prompts", "sampler", "scheduler", "seeds",
        "trigger", "weights", "minutes",
    },
    "/check": {"trigger", "class_word"},
    "/caption": {"by", "trigger", "class_word"},
    "/compare": {"at", "runs"},
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Any:
    for name in ("data", "output", "secret", "models"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret" / "a.safetensors").write_bytes(b"treasure")
    app = FastAPI()
    host = FolderHost(tmp_path / "output")
    create_routes(
        app, lambda: host, JobQueue(), None, lambda: [tmp_path / "data"], lambda: [tmp_path / "models"],  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    return SimpleNamespace(client=TestClient(app, base_url="http://127.0.0.1"), root=tmp_path, app=app)


def texts(route: str) -> set[str]:
    """Fields of a body that take text, by trying."""
    body = BODIES[route]
    found = set()
    for name in getattr(body, "model_fields", None) or body.__fields__:
        for value in ("x", ["x"]):
            try:
                body(**{**NEEDED[route], name: value})
                found.add(name)
            except ValueError:
                pass
    return found


def test_every_body_of_every_route_is_looked_at(site: Any) -> None:
    paths = site.client.get("/openapi.json").json()["paths"]
    with_body = {path.removeprefix(PREFIX) for path, verbs in paths.items() if "requestBody" in verbs.get("post", {})}
    assert with_body == set(BODIES)
    assert {cls for _, cls in inspect.getmembers(bodies, inspect.isclass) if issubclass(cls, bodies.Body)} == {
        bodies.Body, *BODIES.values(),
    }  # fmt: skip


@pytest.mark.parametrize("route", BODIES)
def test_every_text_field_names_files_by_a_rule_or_none_at_all(route: str) -> None:
    body = BODIES[route]
    unknown = texts(route) - set(body.PATHS) - NO_FILES[route]
    assert unknown == set(), f"put {unknown} into PATHS of {body.__name__}, or into NO_FILES here with a reason"


@pytest.mark.parametrize(("route", "field"), [(route, field) for route, body in BODIES.items() for field in body.PATHS])
@pytest.mark.parametrize("spelled", ["absolute", "dots", "home", "behind a name", "of something that is not there"])
def test_a_path_outside_is_403_in_every_field(site: Any, route: str, field: str, spelled: str) -> None:
    outside = site.root / "secret" / "a.safetensors"
    text = {
        "absolute": str(outside),
        "dots": "../secret/a.safetensors",
        "home": "~/a.safetensors",
        "behind a name": f"ViT-B-32={outside}",
        "of something that is not there": str(site.root / "secret" / "nothing"),
    }[spelled]
    if spelled == "behind a name" and BODIES[route].PATHS[field] != "encoder":
        pytest.skip("only an encoder is spelled so")
    answer = site.client.post(PREFIX + route, json={**NEEDED[route], field: text})
    assert answer.status_code == 403, answer.text
    detail = answer.json()["detail"]
    # neither whether it is there, nor which folders the server has
    assert str(site.root / "data") not in detail and str(site.root / "output") not in detail
    assert "exist" not in detail and "missing" not in detail


@pytest.mark.parametrize("name", ["scorecard.json", "cells.csv", "report.html", "history.csv", "summary.csv"])
def test_a_file_of_a_run_that_is_a_link_is_not_served(site: Any, name: str) -> None:
    run = site.root / "output" / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / name).symlink_to(site.root / "secret" / "a.safetensors")
    answer = site.client.get(f"{PREFIX}/runs/run/{name}")
    assert answer.status_code in (403, 404) and "treasure" not in answer.text
    assert "treasure" not in site.client.get(f"{PREFIX}/runs").text


@pytest.mark.parametrize("linked", ["images", "run"])
def test_folders_that_are_links_are_not_followed(site: Any, linked: str) -> None:
    away = site.root / "secret" / "images"
    away.mkdir()
    (away / "x.png").write_bytes(b"treasure")
    run = site.root / "output" / "run"
    if linked == "run":
        run.symlink_to(site.root / "secret")
    else:
        run.mkdir()
        (run / "images").symlink_to(away)
    answer = site.client.get(f"{PREFIX}/runs/run/images/x.png")
    assert answer.status_code in (403, 404) and "treasure" not in answer.text


class TestModelFolders:
    """Links inside the WebUI's own model folders are the owner's choice: collections on other disks."""

    def confinement(self, root: Path) -> Confinement:
        return Confinement(lambda: [root / "data", root / "models"], lambda: [root / "models"])

    def test_a_linked_file_and_a_linked_folder_are_taken_as_they_are_spelled(self, site: Any) -> None:
        (site.root / "models" / "fox.safetensors").symlink_to(site.root / "secret" / "a.safetensors")
        (site.root / "models" / "more").symlink_to(site.root / "secret")
        confined = self.confinement(site.root)
        for name in ("fox.safetensors", "more/a.safetensors"):
            path = confined.path(str(site.root / "models" / name))
            assert path == site.root / "models" / name and path.read_bytes() == b"treasure"

    @pytest.mark.parametrize(
        "text", ["models/more/../b", "models/../secret/a.safetensors", "models/more/../../secret/a"]
    )
    def test_dots_behind_a_link_lead_nowhere_else(self, site: Any, text: str) -> None:
        (site.root / "models" / "more").symlink_to(site.root / "secret")
        confined = self.confinement(site.root)
        try:
            path = confined.path(str(site.root / text))
        except ForbiddenPath:
            return
        assert ".." not in path.parts and os.path.commonpath([path, site.root / "models"]) == str(site.root / "models")

    def test_elsewhere_a_link_that_leads_outside_is_refused(self, site: Any) -> None:
        (site.root / "data" / "fox.safetensors").symlink_to(site.root / "secret" / "a.safetensors")
        with pytest.raises(ForbiddenPath):
            self.confinement(site.root).path(str(site.root / "data" / "fox.safetensors"))
