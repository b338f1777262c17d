"""What a running WebUI shows of the extension: health, tabs, settings, credentials."""

from __future__ import annotations

import contextlib
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.live.client import ENDED, HttpError


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


def test_reload_ui_leaves_the_running_job_alone(webui: Any) -> None:
    before = webui.inside()
    id = webui.train(max_steps=60)
    webui.until(id, lambda state: state["done"] >= 2)
    webui.call("/lora-eval-probe/reload", {})
    state: dict[str, Any] = {}
    while state.get("status") not in ENDED:
        time.sleep(0.2)
        # for some seconds there are no routes: the page is being built anew
        with contextlib.suppress(HttpError, OSError):
            state = webui.job(id)
    assert (state["status"], state["done"]) == ("finished", 60), state["error"]
    assert webui.inside()["hooks"] == before["hooks"]
