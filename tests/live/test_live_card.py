"""The scorecard's weight on the LoRA's card, as the WebUI's own list of LoRAs shows it.

Needs playwright and Debian's chromium beside ``--webui-url``.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.page import open_tab, show

WEIGHT = "0.65"


@pytest.fixture
def scored(webui: Any, other_lora: str) -> Iterator[str]:
    """A LoRA outside the WebUI's folder that was scored a moment ago; its card is away at the end."""
    name = f"live-card-{time.time_ns()}"
    folder = webui.data / "models" / "Lora"
    elsewhere = webui.data / "outputs" / "lora-eval" / name / f"{name}.safetensors"
    elsewhere.parent.mkdir(parents=True)
    shutil.copyfile(folder / f"{other_lora}.safetensors", elsewhere)
    state = webui.over(webui.score(str(elsewhere), run=f"{name}-scorecard", batch_size=4))
    assert state["status"] == "finished", state["error"]
    yield name
    for path in (*folder.glob(f"{name}*"), elsewhere):
        path.unlink()


def card_in_the_list(page: Any, name: str) -> Any:
    """The card among the WebUI's LoRAs, after its own Refresh."""
    open_tab(page, "txt2img")
    page.locator("#txt2img_extra_tabs button", has_text="Lora").locator("visible=true").first.click()
    page.locator("#txt2img_lora_extra_refresh").locator("visible=true").first.click()
    return page.locator(f'#txt2img_lora_cards .card[data-name="{name}"]').locator("visible=true").first


def test_use_this_weight_writes_the_card_that_the_list_shows(webui: Any, page: Any, scored: str) -> None:
    page.wait_for_selector("#txt2img_prompt textarea", state="visible")
    show(page, "score", "LoRA Scorecard")
    page.wait_for_selector("#lora_eval_score_use", state="visible")
    for id, words in (("use_lora", scored), ("use_value", WEIGHT)):
        page.locator(f"#lora_eval_score_{id}").locator("textarea, input").first.fill(words)
    page.click("#lora_eval_score_use")
    page.wait_for_selector("#lora_eval_score_used .lora-eval-message")
    assert "Saved" in page.inner_text("#lora_eval_score_used"), page.inner_text("#lora_eval_score_used")
    published = webui.data / "models" / "Lora" / f"{scored}.safetensors"
    assert published.is_file()
    about = json.loads(Path(published).with_suffix(".json").read_text(encoding="utf-8"))
    assert about["preferred weight"] == float(WEIGHT)
    assert scored in [lora["name"] for lora in webui.call("/sdapi/v1/loras")]
    card_in_the_list(page, scored).click()
    written = page.locator("#txt2img_prompt textarea")
    taken = "name => document.querySelector('#txt2img_prompt textarea').value.includes(name)"
    page.wait_for_function(taken, arg=scored)
    assert f"<lora:{scored}:{WEIGHT}>" in written.input_value()
