"""Pages come and go while a job runs: one is closed, another browser looks on and interrupts; errors stand in place.

Needs playwright and Debian's chromium beside ``--webui-url``.
"""

from __future__ import annotations

import time
from typing import Any

from tests.live.page import PATIENCE, opened, show, status
from tests.live.test_live_browser import fill, settings, train


def another(page: Any, url: str) -> Any:
    """A page of a browser that shares nothing with the first."""
    made = page.context.browser.new_context(viewport={"width": 1360, "height": 1000}).new_page()
    made.set_default_timeout(PATIENCE)
    made.goto(url, wait_until="domcontentloaded")
    return made


def test_a_job_outlives_its_page_and_a_second_browser_can_interrupt_it(webui: Any) -> None:
    name = f"live-pages-{time.time_ns()}"
    with opened(webui.url) as page:
        show(page, "train", "LoRA Train")
        page.locator("#lora_eval_train_yaml_group").get_by_text("Settings as YAML").click()
        settings(page, 20_000)
        status(train(page, webui.data / "lora-eval-live", name), "running")
    with opened(webui.url) as again:
        second = another(again, webui.url)
        boxes = []
        for page in (again, second):
            show(page, "train", "LoRA Train")
            box = page.locator("#lora_eval_train_job", has_text=name)
            status(box, "running")
            boxes.append(box)
        second.click("#lora_eval_train_interrupt")
        for box in boxes:
            status(box, "interrupted")


def test_an_error_stands_beside_what_it_is_about_and_starts_nothing(webui: Any, page: Any) -> None:
    before = len(webui.call("/lora-eval/v1/jobs"))
    show(page, "train", "LoRA Train")
    fill(page, "lora_eval_train_folder", str(webui.data / "lora-eval-live" / "nothing"))
    page.click("#lora_eval_train_start")
    told = page.locator("#lora_eval_train_message .error")
    told.wait_for()
    assert "nothing" in told.inner_text()
    show(page, "score", "LoRA Scorecard")
    page.click("#lora_eval_score_start")
    page.locator("#lora_eval_score_message .error").wait_for()
    assert len(webui.call("/lora-eval/v1/jobs")) == before
