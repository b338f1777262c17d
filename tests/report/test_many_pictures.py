"""A run of 2,000 pictures: what the page weighs, and that it can be scrolled."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lora_eval.report.page import render
from lora_eval.report.thumbs import BUDGET, SIDE, Thumbs, small_name
from lora_eval.scorecard.data import RunData
from lora_eval.scorecard.decision.decide import decide
from lora_eval.scorecard.dimensions.measure import measure
from tests.report.test_page import Parsed, script_data
from tests.scorecard.synthetic_run import make_run

CHECKPOINTS = {"fox-000100": (100, 0.5), "fox-000200": (200, 1.0)}
WEIGHTS = tuple(k / 10 for k in range(12))
FEW = (0.0, 0.5, 1.0)


def photo(seed: int, side: int) -> Image.Image:
    """Soft shapes, edges and grain: about as hard to compress as a photograph."""
    rng = np.random.default_rng(seed)
    ground = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    shapes = Image.fromarray(rng.integers(0, 2, (9, 9), dtype=np.uint8) * 255).resize(
        (side, side), Image.Resampling.NEAREST
    )
    other = ground.transpose(Image.Transpose.ROTATE_90).filter(ImageFilter.GaussianBlur(1))
    mixed = np.asarray(Image.composite(ground, other, shapes), np.float64) + rng.normal(0, 6, (side, side, 3))
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def big_run(root: Path, seeds: int, side: int, kinds: int = 40, weights: tuple[float, ...] = WEIGHTS) -> RunData:
    """A run of 11 prompts and 2 checkpoints with its pictures on disk."""
    data = make_run("good", seeds=seeds, weights=weights, checkpoints=CHECKPOINTS)
    names = [f"images/{image.replace(' ', '-')}" for image in data.cells["image"]]
    texts = [data.prompts[name].text for name in data.cells["prompt_id"]]
    cells = data.cells.assign(image=names, prompt=texts, negative_prompt="", width=side, height=side)
    (root / "images").mkdir(parents=True)
    drawn = []
    for kind in range(kinds):
        buffer = io.BytesIO()
        photo(kind, side).save(buffer, "PNG", compress_level=1)
        drawn.append(buffer.getvalue())
    for at, name in enumerate(names):
        (root / name).write_bytes(drawn[at % kinds])
    return replace(data, cells=cells)


def page_of(root: Path, data: RunData, **options: Any) -> str:
    measurement = measure(data, resamples=30)
    return render(data, measurement, decide(data, measurement), root, **options)


@pytest.mark.slow
def test_two_thousand_pictures_fit_into_one_page_of_bounded_size(tmp_path: Path) -> None:
    data = big_run(tmp_path, seeds=8, side=512)
    assert len(data.cells) == 2024
    page = page_of(tmp_path, data)
    parsed = Parsed(page)
    images = [tag for tag in parsed.all("img") if tag.get("width")]
    embedded = sum(len(str(tag["src"])) for tag in images if str(tag["src"]).startswith("data:"))
    assert len(images) == 2024 and embedded <= BUDGET
    # all that is not pictures: markup, numbers of every cell, charts, style and script
    assert len(page.encode()) - embedded < 2_500_000
    kept = [(tmp_path / "thumbs" / small_name(name)).stat().st_size for name in data.cells["image"]]
    assert max(kept) < 12_000 and len(set(data.cells["image"])) == 2024


def test_every_picture_is_small_lazy_and_has_its_room(tmp_path: Path) -> None:
    data = big_run(tmp_path, seeds=2, side=256, kinds=4, weights=FEW)
    page = page_of(tmp_path, data)
    images = [tag for tag in Parsed(page).all("img") if tag.get("width")]
    assert len(images) == len(data.cells)
    for tag in images:
        assert (tag["loading"], tag["decoding"], tag["width"], tag["height"]) == ("lazy", "async", str(SIDE), str(SIDE))
    assert sorted(path.name for path in (tmp_path / "thumbs").iterdir()) == sorted(
        small_name(name) for name in data.cells["image"]
    )
    # one copy of each picture, one copy of each number
    told = script_data(page)
    assert len(told["images"]) == len(data.cells)
    assert all(len(metric["values"]) == len(data.cells) for metric in told["metrics"])
    assert not any("data-facts" in attributes for _, attributes in Parsed(page).tags)


def test_small_pictures_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = big_run(tmp_path, seeds=1, side=64, kinds=4, weights=FEW)
    names = list(data.cells["image"])
    first = [Thumbs(tmp_path).src(name) for name in names]

    def never(path: Path) -> Image.Image:
        raise AssertionError(f"{path} was opened again")

    monkeypatch.setattr("lora_eval.report.thumbs.open_picture", never)
    assert [Thumbs(tmp_path).src(name) for name in names] == first


def test_what_a_picture_costs_in_the_page_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """The page without its pictures grows by the cell, not faster: twice the cells, at most twice the bytes."""
    sizes = []
    for seeds in (2, 4):
        data = big_run(tmp_path / str(seeds), seeds=seeds, side=64, kinds=2, weights=FEW)
        page = page_of(tmp_path / str(seeds), data)
        pictures = sum(len(str(tag["src"])) for tag in Parsed(page).all("img"))
        sizes.append(len(page) - pictures)
    assert sizes[1] < 2 * sizes[0]
    assert (sizes[1] - sizes[0]) / (len(data.cells) / 2) < 1000
