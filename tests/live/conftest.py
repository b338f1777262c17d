"""A running WebUI, driven by REST: ``pytest tests/live --webui-url http://127.0.0.1:7860``.

The WebUI needs ``--api``, this extension, a small checkpoint, and to run on this machine (the tests put pictures into
its data folder). Tests that look inside the process also want ``tests/live/probe`` copied into its ``extensions``.
What a session makes in the data folder goes away at its end. Forge with ``--data-dir`` serves its own style sheet only
with ``--gradio-allowed-path FORGE``; without it what must be clicked may lie under something else.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.client import HttpError, Webui, make_pictures
from tests.live.page import opened


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--webui-url", default=None, help="a running WebUI, for example http://127.0.0.1:7860")
    parser.addoption("--webui-auth", default=None, help="USER:PASSWORD, where it runs with --api-auth")
    parser.addoption("--webui-data", default=None, help="its data folder; asked of the WebUI where not given")
    parser.addoption("--webui-other-lora", default=None, help="name of a LoRA that fits the checkpoint")
    parser.addoption("--webui-wrong-lora", default=None, help="name of a LoRA of another model family")
    parser.addoption("--webui-other-checkpoint", default=None, help="name of a second checkpoint to switch to")
    parser.addoption("--webui-encoder", default="lora_eval/assets/tiny-clip", help="encoder folder to copy in")


@pytest.fixture(scope="session")
def webui(pytestconfig: pytest.Config) -> Iterator[Webui]:
    url = pytestconfig.getoption("--webui-url")
    if not url:
        pytest.skip("needs a running WebUI: --webui-url http://127.0.0.1:7860")
    site = Webui(url.rstrip("/"), pytestconfig.getoption("--webui-auth"))
    data = pytestconfig.getoption("--webui-data")
    try:
        site.data = Path(data or Path(site.call("/sdapi/v1/cmd-flags")["lora_dir"]).parent.parent)
    except HttpError:
        # Forge's own route fails when it was started with --port
        pytest.skip("the WebUI does not tell its data folder: --webui-data DIR")
    if not site.data.is_dir():
        pytest.skip(f"the WebUI's folder {site.data} is not on this machine")
    before = ours(site.data)
    pictures = site.data / "lora-eval-live"
    make_pictures(pictures)
    encoder = site.data / "models" / "lora-eval-live-clip"
    encoder.mkdir(parents=True, exist_ok=True)
    for file in Path(pytestconfig.getoption("--webui-encoder")).iterdir():
        (encoder / file.name).write_bytes(file.read_bytes())
    # the first picture loads the model
    site.txt2img("a cat")
    yield site
    for folder in ours(site.data) - before:
        shutil.rmtree(folder)


def ours(data: Path) -> set[Path]:
    """Folders that these tests have made in a WebUI's data folder: pictures, the encoder, runs."""
    made = (*data.glob("lora-eval-live*"), *data.glob("models/lora-eval-live*"), *data.glob("outputs/lora-eval/live*"))
    return {path for path in made if path.is_dir()}


@pytest.fixture
def page(webui: Webui) -> Iterator[Any]:
    """The WebUI's page in a browser."""
    with opened(webui.url) as made:
        yield made


@pytest.fixture
def other_checkpoint(webui: Webui, pytestconfig: pytest.Config) -> Iterator[str]:
    """The name of a second checkpoint; at the end the WebUI's own is chosen again, whatever happened."""
    name = pytestconfig.getoption("--webui-other-checkpoint")
    if not name:
        pytest.skip("needs a second checkpoint: --webui-other-checkpoint NAME")
    own = webui.checkpoint()
    yield str(name)
    if webui.checkpoint() != own:
        webui.choose(own)


@pytest.fixture(scope="session")
def other_lora(pytestconfig: pytest.Config) -> str:
    name = pytestconfig.getoption("--webui-other-lora")
    if not name:
        pytest.skip("needs a LoRA that fits the checkpoint: --webui-other-lora NAME")
    return str(name)
