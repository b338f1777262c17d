"""Pictures of every view, light and dark, wide and narrow: ``python tests/browser/screenshots.py URL FOLDER``.

The page may be a WebUI's or that of ``python -m lora_eval ui``; it shows the latest runs on that machine. ``--data``
names a folder of pictures for the dataset check, ``--report`` a report that is opened from disk, ``--few`` leaves out
what looks the same everywhere. ``make screenshots`` does all of it for the docs.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
SIZES = {"wide": (1360, 1000), "narrow": (390, 1000)}
TABS = {"train": "LoRA Train", "score": "LoRA Scorecard"}
PATIENCE = 240_000


class Camera:
    """Takes pictures of views and keeps their paths."""

    def __init__(self, browser: Any, folder: Path, prefix: str) -> None:
        self.browser, self.folder, self.prefix = browser, folder, prefix
        self.taken: list[Path] = []
        folder.mkdir(parents=True, exist_ok=True)

    def page(self, address: str, theme: str, size: str) -> Any:
        width, height = SIZES[size]
        page = self.browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
        page.set_default_timeout(PATIENCE)
        page.goto(address, wait_until="domcontentloaded")
        return page

    def shoot(self, page: Any, name: str) -> None:
        # pictures and the theme's transitions settle
        page.wait_for_timeout(1500)
        path = self.folder / f"{self.prefix}{name}.jpg"
        page.screenshot(path=str(path), type="jpeg", quality=80)
        self.taken.append(path)


def open_tab(page: Any, tab: str) -> None:
    """Open a tab and wait until it is up to date."""
    page.wait_for_selector("#lora_eval_train_tab", state="attached")
    # newer gradio has a second row of buttons to measure with, and names the real ones
    named = page.locator(f"#tab_lora_eval_{tab}-button")
    titled = page.locator("#tabs > .tab-nav > button", has_text=TABS[tab])
    named.or_(titled).locator("visible=true").first.click()
    page.wait_for_selector(f"#lora_eval_{tab}_tab", state="visible")
    page.wait_for_selector(f"#lora_eval_{tab}_tick [data-le-tick]", state="attached")


def check_pictures(page: Any, data: Path, trigger: str) -> None:
    """Fill in folder and trigger and check the pictures."""
    page.fill("#lora_eval_train_folder :is(textarea, input)", str(data))
    page.fill("#lora_eval_train_trigger :is(textarea, input)", trigger)
    page.click("#lora_eval_train_check")
    page.wait_for_selector("#lora_eval_train_checked .lora-eval-pictures img")
    page.locator("#lora_eval_train_checked").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#lora_eval_train_checked').scrollIntoView()")


def take(
    url: str, folder: Path, prefix: str = "", data: Path | None = None, trigger: str = "", few: bool = False
) -> list[Path]:
    """Both tabs of a served page; returns the pictures' paths."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        camera = Camera(browser, folder, prefix)
        for theme in ("light", "dark"):
            for size in ("wide",) if few else SIZES:
                page = camera.page(f"{url.rstrip('/')}/?__theme={theme}", theme, size)
                for tab in TABS:
                    open_tab(page, tab)
                    camera.shoot(page, f"{tab}-{size}-{theme}")
                if not few and (size, theme) == ("wide", "light"):
                    details(page, camera)
                if data is not None and (size, theme) == ("wide", "light"):
                    open_tab(page, "train")
                    check_pictures(page, data, trigger)
                    camera.shoot(page, "check")
                page.close()
        browser.close()
    return camera.taken


def details(page: Any, camera: Camera) -> None:
    """Further down in the Scorecard tab, and a test picture of the training opened large."""
    # newer gradio keeps what is not shown out of the page
    report = page.locator("#lora_eval_score_report iframe")
    if report.count():
        report.evaluate("frame => frame.closest('#lora_eval_score_report').scrollIntoView()")
        camera.shoot(page, "score-report")
    open_tab(page, "train")
    picture = page.locator("#lora_eval_train_film img[data-le-picture]")
    if picture.count():
        picture.nth(picture.count() - 2).click()
        page.wait_for_selector("#lora_eval_lightbox.open")
        camera.shoot(page, "lightbox")
        page.keyboard.press("Escape")


def take_report(report: Path, folder: Path, prefix: str = "") -> list[Path]:
    """The report, opened from disk."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        camera = Camera(browser, folder, prefix)
        for theme, size in (("light", "wide"), ("dark", "wide"), ("light", "narrow")):
            page = camera.page(report.resolve().as_uri(), theme, size)
            camera.shoot(page, f"report-{size}-{theme}")
            cell = page.locator("button.thumb[data-cell]").locator("visible=true")
            if (size, theme) == ("wide", "light") and cell.count():
                page.evaluate("cell => cell.closest('section').scrollIntoView()", cell.first.element_handle())
                camera.shoot(page, "report-map")
                # one of the recommended cell, where there is one, has its picture at weight 0 beside it
                picked = page.locator(".pick > button.thumb[data-cell]").locator("visible=true")
                (picked if picked.count() else cell).last.click()
                page.wait_for_selector("dialog[open]")
                camera.shoot(page, "report-picture")
            page.close()
        browser.close()
    return camera.taken


def main() -> None:
    """Read the command line and take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", help="address of the page")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--prefix", default="", help="of the file names, for example a1111-")
    parser.add_argument("--data", type=Path, help="folder of training pictures for the dataset check")
    parser.add_argument("--trigger", default="", help="trigger word for the dataset check")
    parser.add_argument("--report", type=Path, help="report.html of a run")
    parser.add_argument("--few", action="store_true", help="both tabs in a wide window alone")
    given = parser.parse_args()
    taken = take(given.url, given.folder, given.prefix, given.data, given.trigger, given.few)
    if given.report is not None:
        taken += take_report(given.report, given.folder, given.prefix)
    for path in taken:
        print(f"{path.stat().st_size // 1024:4d} kB  {path}")


if __name__ == "__main__":
    main()
