"""A person at the page: enters, clicks, and counts the clicks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from tests.browser.screenshots import open_tab

MOST_CLICKS = 12
ACTIVE = '#lora_eval_train_job [data-le-active="1"]'


class Hand:
    """Fills and clicks. A field is clicked before it is filled, so both count."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.clicks = 0

    def fill(self, id: str, words: str) -> None:
        self.clicks += 1
        self.page.fill(f"#{id} textarea, #{id} input", words)

    def click(self, selector: str) -> None:
        self.clicks += 1
        self.page.click(selector)

    def show(self, tab: str) -> None:
        """Open one of our tabs."""
        self.clicks += 1
        open_tab(self.page, tab)

    def train(self, folder: Any, name: str) -> None:
        """The three choices and Train; the template stays "style"."""
        self.fill("lora_eval_train_folder", str(folder))
        self.fill("lora_eval_train_name", name)
        self.fill("lora_eval_train_trigger", "sks")
        self.click("#lora_eval_train_start")

    def download(self, name: str) -> Path:
        """A file of the Downloads list, by a part of its name."""
        self.clicks += 1
        row = self.page.locator("#lora_eval_score_files tr", has_text=name)
        with self.page.expect_download() as download:
            row.locator("a").first.click()
        return Path(download.value.path())


def status(page: Any, tab: str, wanted: str, patience: float | None = None) -> None:
    """Wait until the tab's job has that status."""
    page.wait_for_selector(f'#lora_eval_{tab}_job [data-le-status="{wanted}"]', timeout=patience)


def check_downloads(hand: Hand, browser: Any) -> None:
    """Every file of a finished scorecard opens: tables with rows, JSON with a verdict, a report that runs from disk."""
    for name in ("cells", "summary"):
        with open(hand.download(name), newline="", encoding="utf-8") as file:
            assert len(list(csv.reader(file))) >= 2, name
    card = json.loads(hand.download("scorecard").read_text(encoding="utf-8"))
    assert card["verdict"] and len(card["dimensions"]) == 6
    check_report(hand.download("report"), browser)


def check_report(report: Path, browser: Any) -> str:
    """A downloaded report runs from disk and asks nothing of the network; its text."""
    # a browser goes by the ending, and playwright's copy has none
    named = report.with_name(f"{report.name}.html")
    named.write_bytes(report.read_bytes())
    context = browser.new_context(offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.goto(named.as_uri())
    assert page.locator("h1").count() == 1
    text = str(page.inner_text("body"))
    context.close()
    assert problems == []
    return text
