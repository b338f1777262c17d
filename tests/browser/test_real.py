"""The same journey with the real thing: the command ``ui`` on the shipped tiny model trains, draws and measures.

Needs a page Python with torch and diffusers; the scripted jobs of the other files need neither.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import PYTHON, REQUIRED, ROOT
from tests.browser.hand import MOST_CLICKS, Hand, check_downloads, status

pytestmark = pytest.mark.slow
PATIENCE = 600_000


@pytest.fixture(scope="module")
def able() -> None:
    """A page Python that can train."""
    found = subprocess.run([PYTHON, "-c", "import torch, diffusers"], capture_output=True, text=True)
    if found.returncode:
        assert not REQUIRED, found.stderr
        pytest.skip("the page's Python has no diffusers: pip install '.[standalone,ui]'")


def test_first_training_and_first_scorecard_for_real(
    able: None, serve: Callable[..., Any], open_page: Callable[..., Any], browser: Any, tmp_path: Path
) -> None:
    server = serve(real=True)
    pictures = tmp_path / "glyphs"
    pictures.mkdir()
    for path in sorted((ROOT / "lora_eval" / "assets" / "datasets" / "mave").glob("*-0[0-7].*")):
        shutil.copy(path, pictures)
    assert len(list(pictures.glob("*.png"))) == 8
    page = open_page(server)
    page.set_default_timeout(PATIENCE)
    hand = Hand(page)
    hand.train(pictures, "glyph")
    status(page, "train", "finished")
    page.wait_for_selector("#lora_eval_train_loss svg")
    page.wait_for_selector("#lora_eval_train_film img")
    lora = server.root / "loras" / "glyph.safetensors"
    assert lora.is_file()
    hand.click("#lora_eval_train_score")
    page.wait_for_selector("#lora_eval_score_message .good")
    hand.click('#lora_eval_score_preset input[value="quick"]')
    hand.click("#lora_eval_score_start")
    status(page, "score", "finished")
    page.wait_for_selector("#lora_eval_score_verdict .lora-eval-sentence")
    # the run has told the speed of this machine
    page.get_by_text("time unknown until a first run").wait_for(state="hidden")
    check_downloads(hand, browser)
    assert hand.clicks <= MOST_CLICKS
    run = next(server.root.glob("*-scorecard"))
    card = json.loads((run / "scorecard.json").read_text(encoding="utf-8"))
    assert page.inner_text("#lora_eval_score_verdict .lora-eval-sentence") == card["verdict"]
    with open(run / "cells.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows and all((run / row["image"]).is_file() for row in rows)
