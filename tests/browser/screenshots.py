"""Pictures of both tabs, wide and narrow, light and dark: ``python tests/browser/screenshots.py URL FOLDER``.

The page may be a WebUI's or that of ``python -m lora_eval ui``; it shows the latest runs on that machine.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
WIDTHS = {"wide": 1360, "narrow": 390}
TABS = {"train": "LoRA Train", "score": "LoRA Scorecard"}


def take(url: str, folder: Path) -> list[Path]:
    """Write ``<tab>-<width>-<theme>.png`` for each view and return the paths."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for theme in ("light", "dark"):
            for name, width in WIDTHS.items():
                page = browser.new_page(viewport={"width": width, "height": 1000})
                page.set_default_timeout(120_000)
                page.goto(f"{url.rstrip('/')}/?__theme={theme}", wait_until="domcontentloaded")
                page.wait_for_selector("#lora_eval_train_tab", state="attached")
                for tab, title in TABS.items():
                    path = folder / f"{tab}-{name}-{theme}.png"
                    open_tab(page, tab, title)
                    page.screenshot(path=str(path), full_page=True)
                    taken.append(path)
                page.close()
        browser.close()
    return taken


def open_tab(page: Any, tab: str, title: str) -> None:
    """Open a tab and wait until it is up to date."""
    buttons = page.locator("#tabs button", has_text=title).locator("visible=true")
    buttons.first.click()
    page.wait_for_selector(f"#lora_eval_{tab}_tab", state="visible")
    page.wait_for_selector(f"#lora_eval_{tab}_tick [data-le-tick]", state="attached")
    if page.locator("#lora_eval_score_report iframe").locator("visible=true").count():
        page.frame_locator("#lora_eval_score_report iframe").locator("h1").wait_for()
    # pictures and the theme's transitions settle
    page.wait_for_load_state("networkidle")


if __name__ == "__main__":
    for written in take(sys.argv[1], Path(sys.argv[2])):
        print(written)
