"""How the page behaves under a hand: keys, narrow windows, nothing that jumps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.hand import ACTIVE, Hand, status

pytestmark = pytest.mark.slow
# "good" is up to 0.1: https://web.dev/articles/cls
GOOD_SHIFT = 0.1
# the tab is in the page before the button that asks how its job is; a clock that stands still: what waits never comes
LATE_BUTTON = """
    let late = 3;
    const found = Document.prototype.querySelector;
    Document.prototype.querySelector = function (what) {
        return what === '#lora_eval_train_poll' && late-- > 0 ? null : found.call(this, what);
    };
    Date.now = () => 1e12;
"""


def test_a_page_that_comes_in_parts_is_up_to_date_at_once(served: Any, open_page: Callable[..., Any]) -> None:
    # answered without the time passing after which an unanswered question is asked again
    page = open_page(served, before=LATE_BUTTON)
    assert page.locator("#lora_eval_train_tick [data-le-tick='1']").count() == 1


def test_pictures_open_large_and_obey_the_keyboard(served: Any, open_page: Callable[..., Any]) -> None:
    page = open_page(served)
    hand = Hand(page)
    hand.fill("lora_eval_train_folder", str(served.root / "pictures"))
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
    page.keyboard.press("Home")
    assert page.inner_text(f"{box} figcaption") == "p00.png"
    page.keyboard.press("End")
    assert page.inner_text(f"{box} figcaption") == "p11.png"
    # Tab stays inside while the box is open
    for _ in range(4):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('#lora_eval_lightbox') !== null")
    page.keyboard.press("Escape")
    page.wait_for_selector(box, state="hidden")
    # the picture that was shown last has the focus, and Enter opens it again
    assert page.evaluate("document.activeElement.dataset.leWords") == "p11.png"
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{box}.open")


def test_a_template_fills_the_settings(served: Any, open_page: Callable[..., Any]) -> None:
    page = open_page(served)
    hand = Hand(page)
    rank = "#lora_eval_train_lora_rank input"
    # folded away at first
    assert page.locator(rank).locator("visible=true").count() == 0
    hand.click("#lora_eval_train_group_0 >> text=LoRA network")
    page.wait_for_selector(rank)
    assert page.input_value(rank) == "8"
    hand.click("#lora_eval_train_low_vram input")
    page.wait_for_function("document.querySelector('#lora_eval_train_lora_rank input').value === '4'")
    page.wait_for_function(
        "document.querySelector('#lora_eval_train_plan').innerText.replace(/\\s+/g, ' ').includes('Rank 4')"
    )


@pytest.mark.parametrize("width", [390, 760])
@pytest.mark.parametrize("tab", ["train", "score"])
def test_narrow_pages_do_not_scroll_sideways(served: Any, open_page: Callable[..., Any], tab: str, width: int) -> None:
    page = open_page(served, width=width)
    if tab == "score":
        Hand(page).show("score")
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 1


@pytest.mark.parametrize("width", [440, 480, 1600])
def test_fields_side_by_side_stand_level(served: Any, open_page: Callable[..., Any], width: int) -> None:
    # at these widths one hint takes a line more than the other, in one version of gradio or another
    page = open_page(served, width=width)
    name, trigger = (
        page.locator(f"#lora_eval_train_{field} :is(input, textarea)").bounding_box() for field in ("name", "trigger")
    )
    assert name["x"] < trigger["x"]
    assert abs(name["y"] - trigger["y"]) < 1


def test_nothing_jumps_while_a_job_runs(serve: Callable[..., Any], open_page: Callable[..., Any]) -> None:
    server = serve()
    page = open_page(server)
    hand = Hand(page)
    hand.fill("lora_eval_train_folder", str(server.root / "pictures"))
    hand.click("#lora_eval_train_check")
    page.wait_for_selector("#lora_eval_train_checked .lora-eval-pictures img")
    hand.train(server.root / "pictures", "still")
    page.wait_for_selector(ACTIVE)
    page.evaluate("window.leShifts.length = 0")
    status(page, "train", "finished")
    page.wait_for_selector("#lora_eval_train_film img")
    moved = page.evaluate("window.leShifts")
    assert sum(one["value"] for one in moved) < GOOD_SHIFT, moved
