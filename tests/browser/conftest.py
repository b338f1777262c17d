"""Both tabs in a real browser, served with jobs that need no model (``page.py``).

``LORA_EVAL_PAGE_PYTHON`` names the Python that serves, and with it the gradio under test; by default this one.
Debian's chromium is driven by playwright; without either the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
PATIENCE = 60_000
# gradio's own page asks a font server that the browser is kept from
NOT_OURS = ("fonts.googleapis.com", "fonts.gstatic.com", "ERR_NAME_NOT_RESOLVED", "cdnjs.cloudflare.com")


@dataclass
class Server:
    """A page that is served, and the folder that it works in."""

    url: str
    root: Path


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Server]]:
    """Starts a server of its own for each call."""
    running: list[subprocess.Popen[bytes]] = []

    def start() -> Server:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        root = tmp_path_factory.mktemp("page")
        python = os.environ.get("LORA_EVAL_PAGE_PYTHON", sys.executable)
        log = open(root / "server.log", "wb")  # noqa: SIM115 (the process keeps it)
        script = Path(__file__).with_name("page.py")
        process = subprocess.Popen([python, str(script), str(port), str(root)], stdout=log, stderr=log)
        running.append(process)
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 180
        while time.monotonic() < until and process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return Server(url, root)
            time.sleep(0.2)
        raise RuntimeError((root / "server.log").read_text()[-2000:])

    yield start
    for process in running:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def served(serve: Callable[[], Server]) -> Server:
    """A server for tests that leave nothing behind."""
    return serve()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield made
        made.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages; at the end none may have logged an error of ours."""
    problems: list[str] = []
    contexts = []

    def start(server: Server, theme: str = "light", width: int = 1360) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 1000}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        page.goto(f"{server.url}/?__theme={theme}", wait_until="domcontentloaded")
        page.wait_for_selector("#lora_eval_train_folder")
        page.wait_for_selector("#lora_eval_train_tick [data-le-tick]", state="attached")
        return page

    yield start
    for context in contexts:
        context.close()
    assert [problem for problem in problems if not any(word in problem for word in NOT_OURS)] == []
