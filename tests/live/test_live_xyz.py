"""The axes "LoRA checkpoint" and "LoRA weight" of the WebUI's own X/Y/Z plot."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.live.client import SETTINGS, HttpError

NOTHING = ("Nothing", "")


class Plot:
    """``scripts/xyz_grid.py`` over REST: axes by label, values as a text or, for axes with choices, as a list."""

    def __init__(self, webui: Any) -> None:
        self.webui = webui
        scripts = webui.call("/sdapi/v1/script-info")
        self.labels = next(s["args"] for s in scripts if s["name"] == "x/y/z plot" and not s["is_img2img"])[0][
            "choices"
        ]

    def draw(self, prompt: str, x: tuple[str, Any], y: tuple[str, Any] = NOTHING) -> tuple[list[np.ndarray], list[str]]:
        """Pixels and infotexts of every cell, row by row."""
        axes: list[Any] = []
        for label, values in (x, y, NOTHING):
            listed = isinstance(values, list)
            axes += [self.labels.index(label), "" if listed else values, values if listed else []]
        # legend, lone images, sub-grids, seeds kept, three times vary seeds, margin, text instead of lists
        arguments = [*axes, True, True, False, False, False, False, False, 0, False]
        body = {"prompt": prompt, "seed": 7, **SETTINGS, "script_name": "x/y/z plot", "script_args": arguments}
        answer = self.webui.call("/sdapi/v1/txt2img", body)
        pictures = []
        for text in answer["images"][1:]:
            with Image.open(io.BytesIO(base64.b64decode(text))) as image:
                pictures.append(np.asarray(image.convert("RGB")))
        return pictures, json.loads(answer["info"])["infotexts"][1:]


@pytest.fixture
def plot(webui: Any) -> Plot:
    return Plot(webui)


@pytest.fixture
def run(webui: Any, other_lora: str) -> Iterator[list[str]]:
    """A training run with two checkpoints that lie outside the LoRA folder."""
    folder = webui.data / "outputs" / "lora-eval" / "live-xyz"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history.csv").write_text("step,epoch,lr,loss,val_loss\n1,1,1e-4,0.2,\n2,1,1e-4,0.1,\n")
    source = next((webui.data / "models" / "Lora").rglob(f"{other_lora}.safetensors"))
    names = ["live-xyz-000001", "live-xyz-000002"]
    for name in names:
        shutil.copyfile(source, folder / f"{name}.safetensors")
    yield names
    shutil.rmtree(folder)
    for name in names:
        (webui.data / "models" / "Lora" / "lora-eval" / f"{name}.safetensors").unlink(missing_ok=True)


def test_a_grid_of_checkpoints_and_weights(webui: Any, plot: Plot, run: list[str]) -> None:
    weights = ("LoRA weight", "0-1 [3]")
    pictures, texts = plot.draw("a cat", weights, ("LoRA checkpoint", ["None", *run]))
    base, *drawn = pictures
    assert len(pictures) == len(texts) == 9
    # no LoRA, and each LoRA at weight 0, are the base model
    assert all(np.array_equal(base, drawn[at]) for at in (0, 1, 2, 5))
    assert all((base != drawn[at]).any() for at in (3, 4, 6, 7))
    # the two checkpoints hold the same bytes
    assert np.array_equal(drawn[3], drawn[6]) and np.array_equal(drawn[4], drawn[7])
    # what a cell shows is what its infotext draws again
    prompts = [text.splitlines()[0] for text in texts]
    assert prompts[:3] == ["a cat"] * 3 and not any("Lora hashes" in text for text in texts[:3])
    assert prompts[3:] == [f"a cat <lora:{name}:{weight}>" for name in run for weight in ("0", "0.5", "1")]
    assert np.array_equal(webui.txt2img(prompts[4]), drawn[3])


def test_an_axis_changes_its_own_tag_alone(plot: Plot, run: list[str], other_lora: str) -> None:
    prompt = f"a cat <lora:{other_lora}:0.3> <lora:live-xyz:0.9>"
    _, texts = plot.draw(prompt, ("LoRA checkpoint", run))
    found = [text.splitlines()[0] for text in texts]
    assert found == [f"a cat <lora:{other_lora}:0.3> <lora:{name}:0.9>" for name in run]
    _, texts = plot.draw(f"a cat <lora:{other_lora}:0.3>", ("LoRA weight", "0.2, 0.8"))
    assert [text.splitlines()[0] for text in texts] == [f"a cat <lora:{other_lora}:{w}>" for w in ("0.2", "0.8")]


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        (("LoRA weight", "0.2"), "the prompt has no LoRA"),
        (("LoRA checkpoint", ["no-such-lora"]), "no-such-lora is not there"),
    ],
)
def test_what_cannot_be_drawn_is_said_before(plot: Plot, axis: tuple[str, Any], said: str) -> None:
    with pytest.raises(HttpError, match=said):
        plot.draw("a cat", axis)
