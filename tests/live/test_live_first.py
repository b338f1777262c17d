"""From an empty form to a first training and a first scorecard in a running WebUI, its clicks counted.

Every field but the three that a first training asks for stays as it is: 12 epochs, 20 sampling steps, the 120 pictures
of the preset "quick". Two settings of the WebUI differ from their defaults, as on a machine that is slow and has no
network: the picture size, and the folder with the encoder. Needs playwright and Debian's chromium beside
``--webui-url``; takes minutes.
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lora_eval.files import read_json
from tests.browser.hand import MOST_CLICKS, Hand, check_report
from tests.live.client import SIDE

PATIENCE = 1_800_000
"""Milliseconds."""
QUICK = {0.0: 24, 0.3: 24, 0.6: 24, 0.9: 24, 1.2: 24}
"""Pictures of each weight in the preset: 6 prompts with 4 seeds each, and one checkpoint."""


@pytest.fixture
def slow_machine(webui: Any) -> Iterator[None]:
    """Small pictures and the tests' own encoder in the WebUI's settings; what stood there comes back."""
    wanted = {"lora_eval_size": SIDE, "lora_eval_encoder": str(webui.data / "models" / "lora-eval-live-clip")}
    # Forge takes extensions' options, but does not list them
    kept = webui.data / "config.json"
    stood = {"lora_eval_size": 0, "lora_eval_encoder": "auto"}
    stood |= {name: value for name, value in read_json(kept).items() if name in wanted} if kept.is_file() else {}
    webui.call("/sdapi/v1/options", wanted)
    yield
    webui.call("/sdapi/v1/options", stood)


@pytest.fixture
def name(webui: Any) -> Iterator[str]:
    """A LoRA's name; its pictures lie in the data folder under it. All of it goes away."""
    name = f"live-first-{time.time_ns()}"
    pictures = webui.data / name
    pictures.mkdir()
    for path in sorted((webui.data / "lora-eval-live").iterdir())[:16]:
        shutil.copy(path, pictures)
    assert len(list(pictures.glob("*.png"))) == len(list(pictures.glob("*.txt"))) == 8
    yield name
    runs = webui.data / "outputs" / "lora-eval"
    for folder in (pictures, runs / name, runs / f"{name}-scorecard"):
        shutil.rmtree(folder, ignore_errors=True)
    for path in (webui.data / "models" / "Lora").glob(f"{name}*"):
        path.unlink()


def finished(page: Any, tab: str, name: str) -> None:
    """Wait until the job of that name has ended, and well."""
    box = page.locator(f"#lora_eval_{tab}_job", has_text=name)
    box.locator('[data-le-status="finished"], [data-le-status="failed"]').wait_for()
    assert box.locator('[data-le-status="finished"]').count(), box.inner_text()


def test_first_training_and_first_scorecard_take_at_most_twelve_clicks(
    webui: Any, page: Any, slow_machine: None, name: str
) -> None:
    page.set_default_timeout(PATIENCE)
    hand = Hand(page)
    hand.show("train")
    hand.fill("lora_eval_train_folder", str(webui.data / name))
    hand.fill("lora_eval_train_name", name)
    hand.fill("lora_eval_train_trigger", "zorp")
    hand.click("#lora_eval_train_start")
    finished(page, "train", name)
    page.wait_for_selector("#lora_eval_train_loss svg")
    page.wait_for_selector("#lora_eval_train_film img")
    lora = load_file(webui.data / "models" / "Lora" / f"{name}.safetensors")
    ups = [tensor for key, tensor in lora.items() if key.endswith("lora_up.weight")]
    assert ups and all(np.isfinite(tensor).all() for tensor in ups)
    # where a small picture leaves one position, attention to itself has nothing to learn from
    assert sum(bool(tensor.any()) for tensor in ups) > 0.8 * len(ups)

    hand.click("#lora_eval_train_score")
    page.wait_for_selector("#lora_eval_score_message .good")
    hand.click('#lora_eval_score_preset input[value="quick"]')
    hand.click("#lora_eval_score_start")
    finished(page, "score", name)
    sentence = page.locator("#lora_eval_score_verdict .lora-eval-sentence")
    sentence.wait_for()
    # the run has told the speed of this machine
    page.get_by_text("time unknown until a first run").wait_for(state="hidden")

    # gradio 4 has a button that takes a file out of the list
    assert not page.locator("#lora_eval_score_files td button").locator("visible=true").count()
    with open(hand.download("cells"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert Counter(float(row["weight"]) for row in rows) == QUICK
    assert all(row["width"] == row["height"] == str(SIDE) and row["steps"] == "20" for row in rows)
    run = webui.data / "outputs" / "lora-eval" / f"{name}-scorecard"
    assert all((run / row["image"]).is_file() for row in rows)
    likeness = np.array([[float(row[key]) for key in ("clip_i", "clip_i_gain")] for row in rows])
    drawn_with = np.array([float(row["weight"]) > 0 for row in rows])
    assert np.isfinite(likeness).all()
    # every picture is its own, and gains nothing where there is no LoRA
    assert len(set(likeness[:, 0])) > 100 and not likeness[~drawn_with, 1].any() and likeness[drawn_with, 1].any()
    card = json.loads(hand.download("scorecard").read_text(encoding="utf-8"))
    assert sentence.inner_text() == card["verdict"] and len(card["dimensions"]) == 6
    assert card["verdict"] in check_report(hand.download("report"), page.context.browser)
    assert hand.clicks <= MOST_CLICKS, hand.clicks
