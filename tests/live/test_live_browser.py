"""A person's whole way through a running WebUI, in a real browser: train, interrupt, train again, score, download.

Needs playwright and Debian's chromium beside ``--webui-url``.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from tests.live.page import pick, show, status

SETTINGS = """\
resolution: 64
epochs: 2000
max_steps: {steps}
batch_size: 2
save_steps: {steps}
lora_rank: 4
learning_rate: 0.001
validation_fraction: 0
sample_steps: {steps}
sample_prompts: [zorp]
sampler_steps: 2
"""
SCORECARD = {
    "what": {"weights": "0, 0.7", "seeds": "2", "prompts": "2", "trigger": "zorp", "class_word": "bird"},
    "how": {"steps": "3", "width": "64", "height": "64"},
}


def fill(page: Any, id: str, words: str) -> None:
    page.fill(f"#{id} textarea, #{id} input", words)


def settings(page: Any, steps: int) -> None:
    """Paste a training config of a few steps."""
    fill(page, "lora_eval_train_yaml", SETTINGS.format(steps=steps))
    page.click("#lora_eval_train_yaml_use")
    taken = "steps => document.querySelector('#lora_eval_train_max_steps :is(input, textarea)')?.value === steps"
    page.wait_for_function(taken, arg=str(steps))


def train(page: Any, folder: Path, name: str) -> Any:
    """Fill folder, name and trigger, press Train; returns the job's box."""
    fill(page, "lora_eval_train_folder", str(folder))
    fill(page, "lora_eval_train_name", name)
    fill(page, "lora_eval_train_trigger", "zorp")
    page.click("#lora_eval_train_start")
    return page.locator("#lora_eval_train_job", has_text=name)


def choose(page: Any, lora: str) -> None:
    """Refresh the list of LoRAs and take one."""
    page.click("#lora_eval_score_refresh")
    pick(page, page.locator("#lora_eval_score_loras"), lora)


def test_the_whole_way(webui: Any, page: Any) -> None:
    name = f"live-browser-{time.time_ns()}"
    first, second = f"{name}-first", f"{name}-second"
    show(page, "train", "LoRA Train")
    page.locator("#lora_eval_train_yaml_group").get_by_text("Settings as YAML").click()
    settings(page, 20_000)
    box = train(page, webui.data / "lora-eval-live", first)
    status(box, "running")
    steps = (
        r"() => Number((document.querySelector('#lora_eval_train_job')?.innerText.match(/(\d+) \/ 20000/) || [])[1])"
    )
    page.wait_for_function(f"{steps} >= 2")
    page.click("#lora_eval_train_interrupt")
    status(box, "interrupted")
    settings(page, 6)
    box = train(page, webui.data / "lora-eval-live", second)
    status(box, "finished")
    page.wait_for_selector("#lora_eval_train_loss svg")
    page.wait_for_selector("#lora_eval_train_film img")
    lora = webui.data / "models" / "Lora" / f"{second}.safetensors"
    assert lora.is_file()

    show(page, "score", "LoRA Scorecard")
    choose(page, second)
    for group, title in (("what", "What is drawn"), ("how", "How it is drawn")):
        page.locator(f"#lora_eval_score_{group}").get_by_text(title).click()
        for id, words in SCORECARD[group].items():
            fill(page, f"lora_eval_score_{id}", words)
    fill(page, "lora_eval_score_encoder", str(webui.data / "models" / "lora-eval-live-clip"))
    page.click("#lora_eval_score_start")
    box = page.locator("#lora_eval_score_job", has_text=second)
    box.locator('[data-le-status="finished"], [data-le-status="failed"]').wait_for()
    assert box.locator('[data-le-status="finished"]').count(), box.inner_text()
    page.wait_for_selector("#lora_eval_score_verdict .lora-eval-sentence")
    with page.expect_download() as download:
        page.locator("#lora_eval_score_files tr", has_text="cells").locator("a").first.click()
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {float(row["weight"]) for row in rows} == {0.0, 0.7} and len(rows) == 8
    lora.unlink()
