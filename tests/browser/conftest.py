"""Both tabs in a real browser, served with jobs that need no model (``page.py``).

``LORA_EVAL_PAGE_PYTHON`` names the Python that serves, and with it the gradio under test; by default this one.
Debian's chromium is driven by playwright; without either the tests are skipped, unless ``LORA_EVAL_BROWSER_REQUIRED``
is set: then they fail.
"""

from __future__ import annotations

import contextlib
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

REQUIRED = bool(os.environ.get("LORA_EVAL_BROWSER_REQUIRED"))
playwright: Any = None
with contextlib.suppress(ModuleNotFoundError):
    import playwright.sync_api as playwright
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
ROOT = Path(__file__).resolve().parents[2]
# a busy machine takes minutes for what takes seconds on an idle one
PATIENCE = 180_000
# gradio's own page asks a font server that the browser is kept from
NOT_OURS = ("fonts.googleapis.com", "fonts.gstatic.com", "ERR_NAME_NOT_RESOLVED", "cdnjs.cloudflare.com")
PYTHON = os.environ.get("LORA_EVAL_PAGE_PYTHON", sys.executable)
# https://web.dev/articles/cls: moves of what is in sight, without those that a click or key brought about
WATCH_SHIFTS = """
    window.leShifts = [];
    new PerformanceObserver(list => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.leShifts.push({
            value: entry.value,
            moved: entry.sources.map(source => source.node && source.node.closest
                ? (source.node.closest('[id]') || {}).id || '' : '')
        });
    }).observe({ type: 'layout-shift', buffered: true });
"""


@dataclass
class Server:
    """A page that is served, and the folder that it works in."""

    url: str
    root: Path


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts a server of its own for each call: ``page.py``, or with ``real`` the command ``ui`` itself.

    ``pace``: seconds that ``page.py`` takes for a step.
    """
    running: list[subprocess.Popen[bytes]] = []

    def start(real: bool = False, pace: float = 0.1) -> Server:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        root = tmp_path_factory.mktemp("page")
        log = open(root / "server.log", "wb")  # noqa: SIM115 (the process keeps it)
        environment = {**os.environ, "LORA_EVAL_TEST_PACE": str(pace), "OMP_NUM_THREADS": "1"}
        page = [str(Path(__file__).with_name("page.py")), str(port), str(root)]
        if real:
            page = ["-m", "lora_eval", "ui", "--port", str(port), "--out", str(root)]
        process = subprocess.Popen([PYTHON, *page], stdout=log, stderr=log, cwd=ROOT, env=environment)
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
def launch_browser() -> Iterator[Callable[[], Any]]:
    """Starts a browser of its own for each call."""
    if playwright is None:
        assert not REQUIRED, "no playwright: pip install playwright"
        pytest.skip("no playwright: pip install playwright")
    if CHROMIUM is None:
        assert not REQUIRED, "no chromium on this machine: apt-get install chromium"
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        made: list[Any] = []

        def start() -> Any:
            made.append(driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS))
            return made[-1]

        yield start
        for one in made:
            one.close()


@pytest.fixture(scope="session")
def browser(launch_browser: Callable[[], Any]) -> Any:
    """The browser that most tests share."""
    return launch_browser()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages; at the end none may have logged an error of ours. ``before``: a script run ahead of the page's."""
    problems: list[str] = []
    contexts = []
    shared = browser

    def start(server: Server, theme: str = "light", width: int = 1360, browser: Any = None, before: str = "") -> Any:
        context = (browser or shared).new_context(viewport={"width": width, "height": 1000}, accept_downloads=True)
        contexts.append(context)
        context.add_init_script(WATCH_SHIFTS + before)
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
