"""The axes "LoRA checkpoint" and "LoRA weight" of the WebUI's own X/Y/Z plot, by REST and in its page."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.live.client import SETTINGS, HttpError
from tests.live.page import open_tab, pick

NOTHING = ("Nothing", "")


class Plot:
    """``scripts/xyz_grid.py`` over REST: axes by label, values as a text or, for axes with choices, as a list.

    ``more`` are further fields of the request; an ``init_images`` among them makes it one of img2img.
    """

    def __init__(self, webui: Any, **more: Any) -> None:
        self.webui, self.more = webui, more
        self.method = "img2img" if "init_images" in more else "txt2img"
        scripts = webui.call("/sdapi/v1/script-info")
        own = next(
            one for one in scripts if one["name"] == "x/y/z plot" and one["is_img2img"] == (self.method == "img2img")
        )
        self.labels = own["args"][0]["choices"]

    def single(self, prompt: str) -> np.ndarray:
        """Pixels of one picture, without the plot."""
        return self._pictures({"prompt": prompt})[0][0]

    def draw(self, prompt: str, x: tuple[str, Any], y: tuple[str, Any] = NOTHING) -> tuple[list[np.ndarray], list[str]]:
        """Pixels and infotexts of every cell, row by row."""
        axes: list[Any] = []
        for label, values in (x, y, NOTHING):
            listed = isinstance(values, list)
            axes += [self.labels.index(label), "" if listed else values, values if listed else []]
        # legend, lone images, sub-grids, seeds kept, three times vary seeds, margin, text instead of lists
        arguments = [*axes, True, True, False, False, False, False, False, 0, False]
        pictures, texts = self._pictures({"prompt": prompt, "script_name": "x/y/z plot", "script_args": arguments})
        return pictures[1:], texts[1:]

    def _pictures(self, body: dict[str, Any]) -> tuple[list[np.ndarray], list[str]]:
        answer = self.webui.call(f"/sdapi/v1/{self.method}", {"seed": 7, **SETTINGS, **self.more, **body})
        return [pixels(base64.b64decode(text)) for text in answer["images"]], json.loads(answer["info"])["infotexts"]


def pixels(png: bytes) -> np.ndarray:
    """(H, W, 3) uint8."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def plot(webui: Any) -> Plot:
    return Plot(webui)


@pytest.fixture
def over_a_picture(webui: Any) -> Plot:
    """The plot in img2img."""
    picture = base64.b64encode((webui.data / "lora-eval-live" / "00.png").read_bytes()).decode()
    return Plot(webui, init_images=[picture], denoising_strength=0.7)


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
    linked = webui.data / "models" / "Lora" / "lora-eval"
    for name in names:
        (linked / f"{name}.safetensors").unlink(missing_ok=True)
    with suppress(OSError):
        # only while nothing else lies in it
        linked.rmdir()


@pytest.mark.parametrize("where", ["plot", "over_a_picture"])
def test_a_grid_of_checkpoints_and_weights(where: str, run: list[str], request: pytest.FixtureRequest) -> None:
    plot = request.getfixturevalue(where)
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
    assert np.array_equal(plot.single(prompts[4]), drawn[3])


@pytest.fixture(autouse=True)
def tidy(webui: Any) -> Iterator[None]:
    """What the plot and the page save on their own goes away."""

    def saved() -> set[Path]:
        outputs = webui.data / "outputs"
        return {path for folder in outputs.glob("*2img-*") for path in (folder, *folder.rglob("*"))}

    before = saved()
    yield
    for path in sorted(saved() - before, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_an_axis_changes_its_own_tag_alone(plot: Plot, run: list[str], other_lora: str) -> None:
    prompt = f"a cat <lora:{other_lora}:0.3> <lora:live-xyz:0.9>"
    _, texts = plot.draw(prompt, ("LoRA checkpoint", run))
    found = [text.splitlines()[0] for text in texts]
    assert found == [f"a cat <lora:{other_lora}:0.3> <lora:{name}:0.9>" for name in run]
    _, texts = plot.draw(f"a cat <lora:{other_lora}:0.3>", ("LoRA weight", "0.2, 0.8"))
    assert [text.splitlines()[0] for text in texts] == [f"a cat <lora:{other_lora}:{w}>" for w in ("0.2", "0.8")]


def test_the_axes_in_the_page(webui: Any, page: Any, run: list[str]) -> None:
    open_tab(page, "txt2img")
    box = page.locator("#txt2img_script_container")
    page.fill("#txt2img_prompt textarea", "a cat")
    for name, value in {"steps": SETTINGS["steps"], "width": 64, "height": 64, "cfg_scale": 5, "seed": 7}.items():
        field = page.locator(f"#txt2img_{name} input[type=number]").first
        field.fill(str(value))
        field.blur()
    pick(page, box.locator("#script_list"), "X/Y/Z plot")
    axis = "#script_txt2img_xyz_plot"
    pick(page, page.locator(f"{axis}_x_type"), "LoRA weight")
    page.fill(f"{axis}_x_values :is(input, textarea)", "0, 1")
    pick(page, page.locator(f"{axis}_y_type"), "LoRA checkpoint")
    # a list to choose from takes the place of the text field
    page.locator(f"{axis}_y_values").wait_for(state="hidden")
    listed = box.locator(".block", has_text="Y values").locator("visible=true").last
    for name in run:
        pick(page, listed, name)
    page.check(f"{axis}_include_lone_images input")
    page.click("#txt2img_generate")
    page.wait_for_function(
        "() => (document.querySelector('#generation_info_txt2img textarea')?.value || '').includes('infotexts')"
    )
    told = json.loads(page.input_value("#generation_info_txt2img textarea"))
    grid, *texts = told["infotexts"]
    assert "Y Type: LoRA checkpoint" in grid and "X Type: LoRA weight" in grid
    assert [text.splitlines()[0] for text in texts] == [f"a cat <lora:{name}:{at}>" for name in run for at in "01"]
    shown = page.locator("#txt2img_gallery .thumbnails img, #txt2img_gallery .grid-container img")
    shown.nth(len(texts)).wait_for()
    drawn = [page.context.request.get(shown.nth(at).evaluate("image => image.src")).body() for at in range(1, 5)]
    for text, png in zip(texts, drawn, strict=True):
        own = {"sampler_name": re.findall("Sampler: ([^,]+)", text)[0]}
        assert np.array_equal(pixels(png), webui.txt2img(text.splitlines()[0], **own))


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
