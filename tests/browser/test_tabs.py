"""The journey of a person through both tabs, in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ACTIVE = '#lora_eval_train_job [data-le-active="1"]'
DONE = '#lora_eval_train_job [data-le-status="finished"]'
MOST_CLICKS = 12


class Hand:
    """Fills and clicks, and counts the clicks."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.clicks = 0

    def fill(self, id: str, words: str) -> None:
        self.page.fill(f"#{id} textarea, #{id} input", words)

    def click(self, selector: str) -> None:
        self.clicks += 1
        self.page.click(selector)

    def train(self, folder: Any, name: str) -> None:
        self.fill("lora_eval_train_folder", str(folder))
        self.fill("lora_eval_train_name", name)
        self.fill("lora_eval_train_trigger", "sks")
        self.click("#lora_eval_train_start")


def test_first_training_and_first_scorecard(serve: Callable[[], Any], open_page: Callable[..., Any]) -> None:
    server = serve()
    page = open_page(server)
    hand = Hand(page)
    hand.fill("lora_eval_train_folder", str(server.root / "pictures"))
    hand.click("#lora_eval_train_check")
    page.wait_for_selector("#lora_eval_train_checked .lora-eval-pictures img")
    assert page.locator("#lora_eval_train_checked .lora-eval-pictures img").count() == 12
    caption = page.locator("#lora_eval_train_checked textarea").first
    assert "<b>garden</b>" in caption.input_value()
    caption.fill("a pond")
    hand.click("#lora_eval_train_captions")
    page.wait_for_selector("#lora_eval_train_saved .good")
    assert (server.root / "pictures" / "p00.txt").read_text() == "a pond\n"
    hand.train(server.root / "pictures", "garden")
    page.wait_for_selector(ACTIVE)
    page.wait_for_selector(DONE)
    page.wait_for_selector("#lora_eval_train_loss svg")
    page.wait_for_selector("#lora_eval_train_film img")
    hand.click("#lora_eval_train_score")
    page.wait_for_selector("#lora_eval_score_message .good")
    picked = page.inner_text("#lora_eval_score_loras")
    assert "garden-000010" in picked and "garden-000040" in picked
    hand.click("#lora_eval_score_start")
    page.wait_for_selector("#lora_eval_score_verdict .lora-eval-sentence")
    assert hand.clicks <= MOST_CLICKS
    assert page.inner_text("#lora_eval_score_verdict .lora-eval-sentence") == "Use garden-000040 at 0.7."
    assert "not measured" in page.inner_text("#lora_eval_score_verdict")
    frame = page.frame_locator("#lora_eval_score_report iframe")
    assert frame.locator("h1").inner_text() == "Report"
    with page.expect_download() as download:
        page.locator("#lora_eval_score_files a", has_text="B").nth(1).click()
    assert (download.value.path()).read_text() == "run,lora\n"
    # a page that has the WebUI's prompt gets the tag there, once
    assert not page.is_visible("[data-le-send]")
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend',"
        " '<div id=txt2img_prompt><textarea>a pond <lora:garden-000040:1> <lora:b:1></textarea></div>')"
    )
    page.wait_for_selector("[data-le-send]", state="visible")
    page.click("[data-le-send]")
    assert page.input_value("#txt2img_prompt textarea") == "a pond <lora:b:1> <lora:garden-000040:0.7>"
    hand.click("#lora_eval_score_use")
    page.wait_for_selector("#lora_eval_score_used .good")
    card = json.loads((server.root / "loras" / "garden-000040.json").read_text())
    assert card == {"preferred weight": 0.7, "activation text": "sks"}
    assert (server.root / "refreshed").exists()


def test_a_running_job_outlives_its_page(serve: Callable[[], Any], open_page: Callable[..., Any]) -> None:
    server = serve()
    first = open_page(server)
    Hand(first).train(server.root / "pictures", "closed")
    first.wait_for_selector(ACTIVE)
    first.close()
    second, third = open_page(server), open_page(server)
    for page in (second, third):
        page.wait_for_selector("#lora_eval_train_job [data-le-status]")
        assert "closed" in page.inner_text("#lora_eval_train_job")
    second.wait_for_selector(DONE)
    third.wait_for_selector(DONE)
    # a page opened later still shows the run
    later = open_page(server)
    later.wait_for_selector(DONE)
    later.wait_for_selector("#lora_eval_train_film img")


def test_interrupt_queue_and_errors(serve: Callable[[], Any], open_page: Callable[..., Any]) -> None:
    server = serve()
    page = open_page(server)
    hand = Hand(page)
    hand.fill("lora_eval_train_folder", "")
    hand.click("#lora_eval_train_start")
    page.wait_for_selector("#lora_eval_train_message .error")
    assert "train_data_dir is missing" in page.inner_text("#lora_eval_train_message")
    hand.train(server.root / "pictures", "one")
    page.wait_for_selector(ACTIVE)
    hand.train(server.root / "pictures", "two")
    page.wait_for_selector("#lora_eval_train_queue [data-le-cancel]")
    assert "two" in page.inner_text("#lora_eval_train_queue")
    hand.click("#lora_eval_train_queue [data-le-cancel]")
    page.wait_for_selector("#lora_eval_train_queue", state="hidden")
    hand.click("#lora_eval_train_interrupt")
    page.wait_for_selector('#lora_eval_train_job [data-le-status="interrupted"]')
    kept = (server.root / "lora-eval" / "one" / "history.csv").read_text().splitlines()
    assert len(kept) > 2
    hand.click("#lora_eval_train_interrupt")
    page.wait_for_selector("#lora_eval_train_message .error")
    assert not (server.root / "lora-eval" / "two").exists()


def test_pictures_open_large_and_obey_the_keyboard(served: Any, open_page: Callable[..., Any]) -> None:
    server = served
    page = open_page(server)
    hand = Hand(page)
    hand.fill("lora_eval_train_folder", str(server.root / "pictures"))
    hand.click("#lora_eval_train_check")
    page.wait_for_selector("#lora_eval_train_checked .lora-eval-pictures img")
    hand.click("#lora_eval_train_checked .lora-eval-pictures img >> nth=3")
    box = "#lora_eval_lightbox"
    page.wait_for_selector(f"{box}.open")
    assert page.inner_text(f"{box} figcaption") == "p03.png"
    # the whole picture replaces the thumbnail
    page.wait_for_function("document.querySelector('#lora_eval_lightbox img').naturalWidth === 256")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(f"{box} figcaption") == "p04.png"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text(f"{box} figcaption") == "p02.png"
    page.keyboard.press("Escape")
    page.wait_for_selector(box, state="hidden")


def test_a_template_fills_the_settings(served: Any, open_page: Callable[..., Any]) -> None:
    page = open_page(served)
    hand = Hand(page)
    rank = "#lora_eval_train_lora_rank input"
    hand.click("#lora_eval_train_group_0 >> text=LoRA network")
    page.wait_for_selector(rank)
    assert page.input_value(rank) == "8"
    hand.click("#lora_eval_train_low_vram input")
    page.wait_for_function("document.querySelector('#lora_eval_train_lora_rank input').value === '4'")


@pytest.mark.parametrize("width", [390, 760])
def test_narrow_pages_do_not_scroll_sideways(served: Any, open_page: Callable[..., Any], width: int) -> None:
    page = open_page(served, width=width)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 1
