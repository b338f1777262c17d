"""Generate and the checkpoint's list, used in the page while a job runs: who waits, who goes first, what the tab says.

Needs playwright and Debian's chromium beside ``--webui-url``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.client import SIDE
from tests.live.page import open_tab, show, status

# more than any machine is through with before the page has done its part; each is interrupted in the end
LONG = {
    "train": {"max_steps": 20_000, "save_steps": 20_000, "epochs": 2_000},
    "score": {"seeds": 2_000, "batch_size": 1},
}
NUMBERS = {"steps": 3, "width": SIDE, "height": SIDE}
WAITS = "#lora_eval_train_job .lora-eval-message.waits"
DRAWN = "#txt2img_gallery img"


@pytest.fixture
def txt2img(page: Any) -> Iterator[Any]:
    """The txt2img tab, ready to draw a small picture."""
    page.wait_for_selector("#txt2img_prompt textarea", state="visible")
    page.fill("#txt2img_prompt textarea", "a cat")
    for name, value in NUMBERS.items():
        box = page.locator(f"#txt2img_{name} input[type=number]")
        box.fill(str(value))
        box.blur()
    page.wait_for_timeout(500)
    yield page


def press_generate(page: Any) -> None:
    page.locator("#txt2img_generate").locator("visible=true").click()


def test_generate_pressed_during_a_sweep_returns_within_one_batch(webui: Any, txt2img: Any, other_lora: str) -> None:
    run = f"live-turn-{time.time_ns()}"
    id = webui.score(f"models/Lora/{other_lora}.safetensors", run=run, steps=40, **LONG["score"])
    asked = webui.until(id, lambda state: state["done"] >= 2)["done"]
    assert txt2img.locator(DRAWN).count() == 0
    began = time.monotonic()
    press_generate(txt2img)
    txt2img.wait_for_selector(DRAWN, state="attached")
    state = webui.job(id)
    webui.call(f"/lora-eval/v1/jobs/{id}/interrupt", {})
    drawn = state["done"] - asked
    # the batch that was drawn when it was pressed, and those drawn while click and picture travelled: three seconds
    pace = drawn / (time.monotonic() - began)
    print(f"{drawn} pictures of the sweep in {time.monotonic() - began:.1f} s until the page showed its own")
    assert state["status"] == "running" and drawn <= 1 + 3 * max(pace, 1), (asked, state)
    assert webui.over(id)["status"] == "interrupted"


def test_generate_pressed_during_training_waits_and_the_tab_says_so(webui: Any, txt2img: Any) -> None:
    page = txt2img
    id = webui.train(name=f"live-turn-{time.time_ns()}", **LONG["train"])
    show(page, "train", "LoRA Train")
    webui.until(id, lambda state: state["done"] >= 2)
    page.locator('#lora_eval_train_job [data-le-status="running"]').wait_for()
    assert page.locator(WAITS).count() == 0, "nobody waits yet"
    open_tab(page, "txt2img")
    press_generate(page)
    show(page, "train", "LoRA Train")
    page.wait_for_selector(WAITS)
    assert "waits for this training" in page.inner_text(WAITS)
    assert webui.job(id)["status"] == "running" and page.locator(DRAWN).count() == 0
    page.click("#lora_eval_train_interrupt")
    page.wait_for_selector(DRAWN, state="attached")
    page.wait_for_selector(WAITS, state="detached")
    assert webui.over(id)["status"] == "interrupted"


@pytest.mark.parametrize("kind", ["train", "score"])
def test_a_switched_checkpoint_pauses_and_resume_in_the_tab_goes_on(
    webui: Any, page: Any, other_lora: str, other_checkpoint: str, kind: str
) -> None:
    own, name = webui.checkpoint(), f"live-turn-{time.time_ns()}"
    show(page, kind, "LoRA Train" if kind == "train" else "LoRA Scorecard")
    if kind == "train":
        id = webui.train(name=name, **LONG["train"])
    else:
        id = webui.score(f"models/Lora/{other_lora}.safetensors", run=name, **LONG["score"])
    webui.until(id, lambda state: state["total"] > 1_000 and state["done"] >= 2)
    user = threading.Thread(target=webui.choose, args=(other_checkpoint,))
    user.start()
    box = page.locator(f"#lora_eval_{kind}_job")
    status(box, "paused")
    user.join()
    said = box.locator(".lora-eval-message.paused").inner_text()
    for word in (Path(own.split(" ")[0]).stem, Path(other_checkpoint).stem, "press Resume"):
        assert word in said
    done = webui.job(id)["done"]
    webui.choose(own)
    box.locator("[data-le-again]").click()
    status(box, "running")
    assert box.locator("[data-le-again]").count() == 0
    assert webui.until(id, lambda state: state["done"] > done)["status"] == "running"
    page.click(f"#lora_eval_{kind}_interrupt")
    status(box, "interrupted")
