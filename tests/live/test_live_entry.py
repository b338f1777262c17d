"""What a running WebUI shows of the extension: health, tabs, settings, credentials."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest


def test_health(webui: Any) -> None:
    body = webui.call("/lora-eval/v1/health")
    assert body["status"] == "ok" and body["host"]["name"] in ("a1111", "forge")


def test_both_tabs_are_in_the_page(webui: Any) -> None:
    try:
        with urllib.request.urlopen(webui.url + "/config") as answer:
            page = answer.read().decode()
    except urllib.error.HTTPError:
        pytest.skip("the WebUI runs with --nowebui or --gradio-auth")
    for title in ("LoRA Train", "LoRA Scorecard"):
        assert title in page


def test_settings_are_there_and_paths_cannot_be_set_by_rest(webui: Any) -> None:
    options = webui.call("/sdapi/v1/options")
    assert options["lora_eval_batch_size"] >= 1
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
