"""The journey of a person through both tabs, in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.hand import ACTIVE, MOST_CLICKS, Hand, check_downloads, status

pytestmark = pytest.mark.slow
SENTENCE = "#lora_eval_score_verdict .lora-eval-sentence"


def test_first_training_and_first_scorecard(
    serve: Callable[..., Any], open_page: Callable[..., Any], browser: Any
) -> None:
    server = serve()
    page = open_page(server)
    hand = Hand(page)
    # what the folded settings are set to
    assert "Epochs 12" in " ".join(page.inner_text("#lora_eval_train_plan").split())
    hand.train(server.root / "pictures", "garden")
    page.wait_for_selector(ACTIVE)
    status(page, "train", "finished")
    page.wait_for_selector("#lora_eval_train_loss svg")
    assert page.inner_text("#lora_eval_train_loss .lora-eval-diagnosis").strip()
    page.wait_for_selector("#lora_eval_train_film img")
    hand.click("#lora_eval_train_score")
    page.wait_for_selector("#lora_eval_score_message .good")
    picked = page.inner_text("#lora_eval_score_loras")
    assert "garden-000010" in picked and "garden-000040" in picked
    hand.click("#lora_eval_score_start")
    page.wait_for_selector(SENTENCE)
    assert page.inner_text(SENTENCE) == "Use garden-000040 at 0.7."
    assert "not measured" in page.inner_text("#lora_eval_score_verdict")
    hand.click("#lora_eval_score_use")
    page.wait_for_selector("#lora_eval_score_used .good")
    card = json.loads((server.root / "loras" / "garden-000040.json").read_text())
    assert card == {"preferred weight": 0.7, "activation text": "sks"}
    assert (server.root / "refreshed").exists()
    check_downloads(hand, browser)
    assert hand.clicks <= MOST_CLICKS
    frame = page.frame_locator("#lora_eval_score_report iframe")
    assert frame.locator("h1").inner_text() == "Report"
    # a page that has the WebUI's prompt gets the tag there, once
    assert not page.is_visible("[data-le-send]")
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend',"
        " '<div id=txt2img_prompt><textarea>a pond <lora:garden-000040:1> <lora:b:1></textarea></div>')"
    )
    page.wait_for_selector("[data-le-send]", state="visible")
    page.click("[data-le-send]")
    assert page.input_value("#txt2img_prompt textarea") == "a pond <lora:b:1> <lora:garden-000040:0.7>"


def test_the_dataset_is_checked_and_mended_in_place(serve: Callable[..., Any], open_page: Callable[..., Any]) -> None:
    server = serve()
    page = open_page(server)
    hand = Hand(page)
    hand.fill("lora_eval_train_folder", str(server.root / "pictures"))
    hand.fill("lora_eval_train_trigger", "sks")
    hand.click("#lora_eval_train_check")
    page.wait_for_selector("#lora_eval_train_checked .lora-eval-pictures img")
    assert page.locator("#lora_eval_train_checked .lora-eval-pictures img").count() == 12
    # each finding says what to do, and shows its picture
    first = page.locator("#lora_eval_train_checked .lora-eval-findings li").first
    assert "one flat colour" in first.inner_text() and "remove it" in first.inner_text()
    assert first.locator("img").count() == 1
    caption = page.locator("#lora_eval_train_checked textarea").first
    assert "<b>garden</b>" in caption.input_value()
    caption.fill("a pond")
    hand.click("#lora_eval_train_captions")
    page.wait_for_selector("#lora_eval_train_saved .good")
    assert (server.root / "pictures" / "p00.txt").read_text() == "a pond\n"
    hand.click("#lora_eval_train_prepend")
    page.wait_for_function(
        "document.querySelector('#lora_eval_train_checked textarea').value.startsWith('sks, a pond')"
    )
    assert (server.root / "pictures" / "p00.txt").read_text() == "sks, a pond\n"
    # set aside: the picture goes with its caption, a caption changed meanwhile is kept
    page.locator("#lora_eval_train_checked textarea").nth(1).fill("sks, a lake")
    hand.click("#lora_eval_train_checked [data-le-aside]")
    page.wait_for_function(
        "document.querySelectorAll('#lora_eval_train_checked .lora-eval-pictures img').length === 11"
    )
    aside = server.root / "pictures-set-aside"
    assert sorted(path.name for path in aside.iterdir()) == ["p00.png", "p00.txt"]
    assert (server.root / "pictures" / "p01.txt").read_text() == "sks, a lake\n"


def test_a_running_job_outlives_its_page(
    serve: Callable[..., Any], open_page: Callable[..., Any], launch_browser: Callable[[], Any]
) -> None:
    server = serve()
    first = open_page(server)
    Hand(first).train(server.root / "pictures", "closed")
    first.wait_for_selector(ACTIVE)
    first.close()
    # one in the same browser, one in a browser of its own
    second, third = open_page(server), open_page(server, browser=launch_browser())
    for page in (second, third):
        page.wait_for_selector("#lora_eval_train_job [data-le-status]")
        assert "closed" in page.inner_text("#lora_eval_train_job")
    status(second, "train", "finished")
    status(third, "train", "finished")
    # a page opened later still shows the run
    later = open_page(server)
    status(later, "train", "finished")
    later.wait_for_selector("#lora_eval_train_film img")


def test_a_scorecard_outlives_its_page_and_stops_when_told(
    serve: Callable[..., Any], open_page: Callable[..., Any], launch_browser: Callable[[], Any]
) -> None:
    # slow enough that a second browser is there before the last of 24 pictures
    server = serve(pace=1.0)
    page = open_page(server)
    hand = Hand(page)
    hand.train(server.root / "pictures", "half")
    page.wait_for_selector("#lora_eval_train_film img")
    hand.click("#lora_eval_train_interrupt")
    status(page, "train", "interrupted")
    hand.click("#lora_eval_train_score")
    page.wait_for_selector("#lora_eval_score_message .good")
    hand.click("#lora_eval_score_start")
    page.wait_for_selector('#lora_eval_score_job [data-le-active="1"]')
    page.close()
    again = open_page(server, browser=launch_browser())
    other = Hand(again)
    other.show("score")
    again.wait_for_selector('#lora_eval_score_job [data-le-active="1"]')
    other.click("#lora_eval_score_interrupt")
    status(again, "score", "interrupted")
    run = server.root / "lora-eval"
    drawn = list(run.glob("*-scorecard/images/*.png"))
    assert 0 < len(drawn) < 24 and not list(run.glob("*/scorecard.json"))


def test_interrupt_and_queue(serve: Callable[..., Any], open_page: Callable[..., Any]) -> None:
    server = serve()
    page = open_page(server)
    hand = Hand(page)
    hand.train(server.root / "pictures", "one")
    page.wait_for_selector(ACTIVE)
    hand.train(server.root / "pictures", "two")
    page.wait_for_selector("#lora_eval_train_queue [data-le-cancel]")
    assert "two" in page.inner_text("#lora_eval_train_queue")
    hand.click("#lora_eval_train_queue [data-le-cancel]")
    page.wait_for_selector("#lora_eval_train_queue", state="hidden")
    hand.click("#lora_eval_train_interrupt")
    status(page, "train", "interrupted")
    kept = (server.root / "lora-eval" / "one" / "history.csv").read_text().splitlines()
    assert len(kept) > 2
    page.wait_for_selector("#lora_eval_train_loss svg")
    hand.click("#lora_eval_train_interrupt")
    page.wait_for_selector("#lora_eval_train_message .error")
    assert not (server.root / "lora-eval" / "two").exists()


def test_an_error_stands_where_it_belongs(serve: Callable[..., Any], open_page: Callable[..., Any]) -> None:
    server = serve()
    page = open_page(server)
    hand = Hand(page)
    # what was asked for: beside its button
    hand.fill("lora_eval_train_folder", "")
    hand.click("#lora_eval_train_start")
    page.wait_for_selector("#lora_eval_train_message .error")
    assert "train_data_dir is missing" in page.inner_text("#lora_eval_train_message")
    hand.fill("lora_eval_train_folder", "/nowhere/<b>")
    hand.click("#lora_eval_train_check")
    page.wait_for_selector("#lora_eval_train_checked .error")
    assert "/nowhere/<b> does not exist" in page.inner_text("#lora_eval_train_checked")
    # what went wrong in a job: with the job
    hand.train(server.root / "pictures", "broken")
    status(page, "train", "failed")
    assert "p00.png cannot be read; replace it" in page.inner_text("#lora_eval_train_job .error")
    hand.show("score")
    hand.click("#lora_eval_score_start")
    page.wait_for_selector("#lora_eval_score_message .error")
    assert page.locator("#lora_eval_train_message").locator("visible=true").count() == 0
