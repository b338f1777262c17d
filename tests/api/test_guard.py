"""Other web pages and rebound names start nothing; no body ties up the server."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lora_eval.api.guard import MOST_BYTES, Doors, short_line
from lora_eval.api.routes import PREFIX, create_routes
from lora_eval.service.jobs import JobQueue
from tests.api.test_api import FolderHost

CHECK = {"data": "data"}


def site(tmp_path: Path, doors: Doors | None = None) -> Any:
    for name in ("data", "output"):
        (tmp_path / name).mkdir(exist_ok=True)
    app = FastAPI()
    host = FolderHost(tmp_path / "output")
    create_routes(app, lambda: host, JobQueue(), None, lambda: [tmp_path], None, lambda: doors or Doors())  # type: ignore[arg-type, return-value]
    return SimpleNamespace(client=TestClient(app, base_url="http://127.0.0.1:7860"), app=app)


def check(client: TestClient, **headers: str) -> int:
    kind = headers.pop("content_type", "application/json")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = {"content-type": kind} if kind else {}
    body = json.dumps(CHECK).encode()
    return int(client.post(f"{PREFIX}/check", content=body, headers={**named, **content}).status_code)


def test_a_page_of_the_server_itself_and_a_program_are_let_in(tmp_path: Path) -> None:
    client = site(tmp_path).client
    assert check(client) == 422  # an empty folder: the request itself was taken
    assert check(client, origin="http://127.0.0.1:7860") == 422
    assert check(client, sec_fetch_site="same-origin") == 422


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:7861", "https://127.0.0.1"])
def test_a_foreign_page_is_403(tmp_path: Path, origin: str) -> None:
    assert check(site(tmp_path).client, origin=origin) == 403


def test_a_cross_site_request_without_origin_is_403(tmp_path: Path) -> None:
    assert check(site(tmp_path).client, sec_fetch_site="cross-site") == 403


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_that_is_not_declared_as_json_is_415(tmp_path: Path, kind: str) -> None:
    """What a page may send without asking first (a form, or no type at all: FastAPI 0.94 takes it for JSON)."""
    assert check(site(tmp_path).client, content_type=kind) == 415


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_a_rebound_name_is_403_on_every_route(tmp_path: Path, host: str) -> None:
    client = site(tmp_path).client
    for path in ("/health", "/jobs", "/runs"):
        answer = client.get(PREFIX + path, headers={"host": host})
        assert answer.status_code == 403 and "not taken" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1", "192.168.1.20:7860", "[::1]:7860", "LOCALHOST"])
def test_addresses_and_this_machine_are_taken(tmp_path: Path, host: str) -> None:
    assert site(tmp_path).client.get(f"{PREFIX}/jobs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("doors", "host", "origin", "code"),
    [
        (Doors(origins=("https://my.page",)), "127.0.0.1", "https://my.page", 422),
        (Doors(origins=("https://my.page",)), "127.0.0.1", "https://my.page.evil", 403),
        (Doors(origins=("*",)), "127.0.0.1", "https://any.page", 422),
        (Doors(pattern=r"https://.*\.mine"), "127.0.0.1", "https://a.mine", 422),
        (Doors(pattern=r"https://.*\.mine"), "127.0.0.1", "https://a.mine.evil", 403),
        (Doors(hosts=("box.lan",)), "box.lan:7860", "http://box.lan:7860", 422),
        (Doors(hosts=("*.gradio.live",)), "ab12.gradio.live", "https://ab12.gradio.live", 422),
        (Doors(hosts=("*.gradio.live",)), "gradio.live.evil", "https://gradio.live.evil", 403),
        (Doors(any_host=True), "any.name", "https://any.name", 422),
        (Doors(any_host=True), "any.name", "https://evil.example", 403),
    ],
)
def test_what_the_server_was_told_to_let_in(tmp_path: Path, doors: Doors, host: str, origin: str, code: int) -> None:
    assert check(site(tmp_path, doors).client, host=host, origin=origin) == code


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_above_2_mb_is_413(tmp_path: Path, declared: bool) -> None:
    body = b'{"data": "' + b"a" * MOST_BYTES + b'"}'
    content = body if declared else iter([body[: 10**6], body[10**6 :]])
    answer = site(tmp_path).client.post(
        f"{PREFIX}/check", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413 and "2 MB" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"data": "' + b"a" * 20_000 + b'"}',
        b'{"data": "data", "resolution": 31}',
        b'{"data": "data", "resolution": 4097}',
        b'{"data": "data", "resolution": ' + b"9" * 5000 + b"}",
        b'{"data": "data", "resolution": NaN}',
        b'{"data": "a\\u0000b"}',
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
    ],
)
def test_no_body_is_a_500_and_every_error_is_one_short_line(tmp_path: Path, body: bytes) -> None:
    answer = site(tmp_path).client.post(f"{PREFIX}/check", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    detail = answer.json()["detail"]
    assert isinstance(detail, str) and "\n" not in detail and len(detail) <= 1000


def test_a_list_of_a_thousand_and_one_is_refused(tmp_path: Path) -> None:
    client = site(tmp_path).client
    answer = client.post(f"{PREFIX}/compare", json={"runs": ["x"] * 1001})
    assert answer.status_code == 422 and answer.json()["detail"].startswith("runs")


def test_a_quoted_word_is_cut_at_200_letters() -> None:
    assert len(short_line("x" * 5000 + " is too long")) < 250
    assert short_line("a\nb   c") == "a b c"
