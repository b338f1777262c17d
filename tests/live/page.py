"""A running WebUI's page in chromium."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PATIENCE = 120_000
"""Milliseconds."""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a page yet."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """The page at ``url``; at its end our scripts may have thrown nothing."""
    thrown: list[str] = []
    with chromium() as browser:
        made = browser.new_page(viewport={"width": 1360, "height": 1000}, accept_downloads=True)
        made.set_default_timeout(PATIENCE)
        made.on("pageerror", lambda error: thrown.append(f"{error} {error.stack}"))
        made.goto(url, wait_until="domcontentloaded")
        yield made
    assert [line for line in thrown if "loraEval" in line or "lora_eval" in line] == []


def open_tab(page: Any, title: str) -> None:
    """Click a tab of the WebUI."""
    page.locator("#tabs button", has_text=title).locator("visible=true").first.click()


def show(page: Any, tab: str, title: str) -> None:
    """Open one of our tabs and wait until it polls."""
    open_tab(page, title)
    page.wait_for_selector(f"#lora_eval_{tab}_tab", state="visible")
    page.wait_for_selector(f"#lora_eval_{tab}_tick [data-le-tick]", state="attached")


def status(box: Any, name: str) -> None:
    """Wait until a job's box shows a status."""
    box.locator(f'[data-le-status="{name}"]').wait_for()


def pick(page: Any, box: Any, words: str) -> None:
    """Take an option of a dropdown; the list is filtered as it is when one types."""
    typed, option = box.locator("input").first, box.locator("ul.options li", has_text=words).first
    until = time.monotonic() + PATIENCE / 1000
    while not option.is_visible() and time.monotonic() < until:
        typed.fill("")
        typed.click()
        typed.fill(words)
        page.wait_for_timeout(500)
    option.click()
    # the open list would lie over what is clicked next
    typed.blur()
    option.wait_for(state="hidden")
