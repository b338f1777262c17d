"""What a running WebUI shows of the extension: health, tabs, settings, credentials."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.live.client import ENDED, PATIENCE, HttpError

# seconds; A1111 dies of a request that comes after its port is open and before its routes are made ("Cannot add
# middleware after an application has started"), so nothing is asked of it meanwhile
QUIET = 5.0


def test_health(webui: Any) -> None:
    body = webui.call("/lora-eval/v1/health")
    assert body["status"] == "ok" and body["host"]["name"] in ("a1111", "forge")


@pytest.fixture
def components(webui: Any) -> str:
    """The page's components as the browser gets them."""
    try:
        with urllib.request.urlopen(webui.url + "/config") as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError:
        pytest.skip("the WebUI runs with --nowebui or --gradio-auth")


def test_both_tabs_and_the_settings_are_in_the_page(components: str) -> None:
    for text in ("LoRA Train", "LoRA Scorecard", "Pictures drawn at once in a sweep", "lora_eval_encoder"):
        assert text in components


def test_paths_cannot_be_allowed_by_rest(webui: Any) -> None:
    assert webui.status("/lora-eval/v1/check", {"data": "/usr"}) == 403
    webui.status("/sdapi/v1/options", {"lora_eval_allowed_dirs": "/usr"})
    try:
        assert webui.status("/lora-eval/v1/check", {"data": "/usr"}) == 403
    finally:
        webui.status("/sdapi/v1/options", {"lora_eval_allowed_dirs": ""})


def test_credentials_are_those_of_the_host(webui: Any) -> None:
    if not webui.auth:
        pytest.skip("the WebUI runs without --api-auth (then give --webui-auth)")
    for path in ("/lora-eval/v1/health", "/lora-eval/v1/runs", "/lora-eval/v1/jobs"):
        assert webui.status(path, auth=None) == 401
        assert webui.status(path, auth="nobody:nothing") == 401
        assert webui.status(path) == 200


def listens(url: str) -> bool:
    """Whether the port is open; sends no request."""
    at = urlsplit(url)
    with contextlib.suppress(OSError), socket.create_connection((at.hostname or "", at.port or 80), 1):
        return True
    return False


def until(reached: Callable[[], bool], seconds: float, every: float) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"not reached in {seconds:.0f} s"
        time.sleep(every)


def test_reload_ui_leaves_the_running_job_alone(webui: Any) -> None:
    before = webui.inside()
    id = webui.train(max_steps=60)
    webui.until(id, lambda state: state["done"] >= 2)
    webui.call("/lora-eval-probe/reload", {})
    until(lambda: not listens(webui.url), 60, every=0.02)
    until(lambda: listens(webui.url), 60, every=0.2)
    time.sleep(QUIET)
    state: dict[str, Any] = {}

    def ended() -> bool:
        # Forge has no routes for some seconds more: the page is being built anew
        with contextlib.suppress(HttpError, OSError):
            state.update(webui.job(id))
        return state.get("status") in ENDED

    until(ended, PATIENCE, every=0.2)
    assert (state["status"], state["done"]) == ("finished", 60), state["error"]
    assert webui.inside()["hooks"] == before["hooks"]
