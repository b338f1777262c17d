"""Pictures and pages that the server hands out: what was given out by the page, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from lora_eval.service import served_files as served
from lora_eval.service.served_files import PREFIX, Shelf, add_routes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (512, 256), (200, 30, 30)).save(folder / "images" / "a b.png")
    (folder / "plan.json").write_text("{}")
    (folder / "report.html").write_text("<!doctype html>")
    (folder / ".lock").write_text("")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return folder


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()

    # gradio's newer apps answer every path themselves
    @app.get("/{page:path}")
    def everything(page: str) -> str:
        return "gradio"

    add_routes(app)
    return TestClient(app)


def test_a_picture_is_served_small_and_whole(client: TestClient, run: Path) -> None:
    picture = run / "images" / "a b.png"
    small, whole = client.get("/" + served.small(picture)), client.get("/" + served.whole(picture))
    assert Image.open(io.BytesIO(small.content)).size == (128, 64)
    assert small.headers["content-type"].startswith("image/") and "max-age" in small.headers["cache-control"]
    assert whole.content == picture.read_bytes() and whole.headers["content-type"] == "image/png"


def test_the_small_picture_is_made_once_and_kept_in_the_run(client: TestClient, run: Path) -> None:
    picture = run / "images" / "a b.png"
    first = client.get("/" + served.small(picture)).content
    kept = run / "thumbs" / "a b.webp"
    assert kept.read_bytes() == first
    kept.write_bytes(b"kept")
    assert client.get("/" + served.small(picture)).content == b"kept"
    # a picture that was drawn again is made small again
    Image.new("RGB", (64, 64)).save(picture)
    import os

    os.utime(picture, ns=(kept.stat().st_mtime_ns + 10**9,) * 2)
    assert Image.open(io.BytesIO(client.get("/" + served.small(picture)).content)).size == (64, 64)


def test_a_file_written_again_has_another_address(run: Path) -> None:
    import os

    before = served.page(run)
    os.utime(run / "report.html", (1, 1))
    assert served.page(run) != before


def test_a_run_serves_its_page_and_the_pictures_beside_it(client: TestClient, run: Path) -> None:
    base = served.page(run).rpartition("/")[0]
    assert client.get(f"/{base}/report.html").headers["content-type"].startswith("text/html")
    assert client.get(f"/{base}/images/a%20b.png").status_code == 200


@pytest.mark.parametrize(
    "name",
    ["plan.json", ".lock", "images/../plan.json", "../secret.png", "images/../../secret.png", "images/%2e%2e/plan.json",
     "images\\..\\plan.json", "images", "thumbs/a b.png", "images/deep/a.png", "", "/etc/passwd"],
)  # fmt: skip
def test_nothing_else_of_a_run_is_served(run: Path, name: str) -> None:
    shelf = Shelf()
    key = shelf.key(run)
    path = shelf.path(key, name) if name else None
    assert path is None or not path.is_file()


def test_an_address_cannot_be_guessed(client: TestClient, run: Path) -> None:
    picture = run / "images" / "a b.png"
    other = Shelf().key(picture)
    assert len(other) == 32 and other not in served.small(picture)
    for key in (other, "0" * 32, ".."):
        assert client.get(f"/{PREFIX}/{key}/whole").status_code in (200, 404)
        assert client.get(f"/{PREFIX}/{key}/whole").content in (b"", b'"gradio"')


def test_the_oldest_addresses_are_forgotten(tmp_path: Path) -> None:
    shelf = Shelf(most=3)
    keys = [shelf.key(tmp_path / f"{n}.png") for n in range(5)]
    assert [shelf.path(key) is not None for key in keys] == [False, False, True, True, True]


def test_what_is_no_picture_is_not_found(client: TestClient, tmp_path: Path) -> None:
    broken: Any = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    assert client.get("/" + served.small(broken)).status_code == 404
    assert client.get("/" + served.small(tmp_path / "gone.png")).status_code == 404
