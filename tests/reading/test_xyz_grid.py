"""The WebUI's X/Y/Z plot saved as one picture is cut where its text and its size say one thing.

Threads: AlUlkesh/sd_grid_add_image_number#3 (a plot as the only record of what was drawn), zer0TF/xyz_plot_script#5.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.reading.generation import LoraUse, from_infotext
from lora_eval.reading.infotext import read_infotext
from lora_eval.reading.xyz_grid import GridError, axis_values, cells, is_plot

W, H = 64, 48


def plot(axes: dict[str, tuple[str, str]], prompt: str = "a red fox <lora:fox:0>", **more: str):  # type: ignore[no-untyped-def]
    said = {"Steps": "20", "Sampler": "Euler", "CFG scale": "7.0", "Seed": "1", "Size": f"{W}x{H}", **more}
    for axis, (label, values) in axes.items():
        said[f"{axis} Type"], said[f"{axis} Values"] = label, f'"{values}"'
    line = ", ".join(f"{name}: {value}" for name, value in said.items())
    return from_infotext(read_infotext(f"{prompt}\nNegative prompt: blurry\n{line}"))


def drawn(columns: int, rows: int, layers: int, titles: tuple[int, int, int] | None, margin: int = 0) -> np.ndarray:
    """Numbered cells laid out as the WebUI does. ``titles``: pixels above, at the left, and above the sub-grids."""
    above, left, outer = titles or (0, 0, 0)
    margin = margin if titles else 0
    high = outer + above + rows * H + margin * (rows - 1)
    wide = left + columns * W + margin * (columns - 1)
    page = np.full((high, wide * layers), -1)
    for z, y, x in product(range(layers), range(rows), range(columns)):
        top, start = outer + above + y * (H + margin), z * wide + left + x * (W + margin)
        page[top : top + H, start : start + W] = x + 10 * y + 100 * z
    return page


def check(page: np.ndarray, said) -> list:  # type: ignore[no-untyped-def, type-arg]
    """Cut; every box holds one cell, whole, and each cell is met once."""
    found = cells(said, (page.shape[1], page.shape[0]))
    numbers = []
    for cell in found:
        left, upper, right, lower = cell.box
        inside = page[upper:lower, left:right]
        assert inside.shape == (H, W) and len(np.unique(inside)) == 1 and inside.flat[0] >= 0
        numbers.append(int(inside.flat[0]))
    assert len(set(numbers)) == len(numbers)
    return [cell for _, cell in sorted(zip(numbers, found, strict=True), key=lambda pair: pair[0])]


@given(
    st.integers(2, 4), st.integers(1, 3), st.integers(1, 2), st.sampled_from([0, 4, 31]),
    st.sampled_from(["none", "titles", "margin 0"]),
)  # fmt: skip
def test_every_layout_of_the_webui_is_cut_into_its_cells(
    columns: int, rows: int, layers: int, margin: int, titles: str
) -> None:
    axes = {"X": ("Seed", ",".join(str(n) for n in range(1, columns + 1)))}
    if rows > 1:
        axes["Y"] = ("LoRA weight", ",".join(f"{n / 2:g}" for n in range(rows)))
    if layers > 1:
        axes["Z"] = ("Steps", ",".join(str(20 + n) for n in range(layers)))
    above, left, outer = 23, (W * 3 // 4 if rows > 1 else 0), (17 if layers > 1 else 0)
    shape = None if titles == "none" else (above, left, outer)
    page = drawn(columns, rows, layers, shape, 0 if titles == "margin 0" else margin)
    found = check(page, plot(axes))
    assert len(found) == columns * rows * layers
    for cell, (z, y, x) in zip(found, product(range(layers), range(rows), range(columns)), strict=True):
        assert cell.generation.seed == x + 1
        assert cell.generation.loras == (LoraUse("fox", y / 2),)
        assert cell.generation.steps == 20 + z


def test_one_column_without_titles_above() -> None:
    said = plot({"Y": ("Seed", "1,2,3")})
    for margin in (0, 8):
        page = drawn(1, 3, 1, (0, W * 3 // 4, 0), margin)
        assert [cell.generation.seed for cell in check(page, said)] == [1, 2, 3]


def test_prompt_search_and_replace_changes_prompt_negative_and_lora() -> None:
    said = plot({"X": ("Prompt S/R", "fox:0,fox:0.5,fox:1"), "Y": ("Prompt S/R", "red,blue")})
    found = check(drawn(3, 2, 1, None), said)
    assert [cell.generation.loras[0].weight for cell in found] == [0, 0.5, 1, 0, 0.5, 1]
    assert [cell.generation.prompt.split()[1] for cell in found] == ["red"] * 3 + ["blue"] * 3
    assert [cell.place for cell in found][:2] == ["x1 y1", "x2 y1"]


def test_this_programs_own_axes() -> None:
    said = plot(
        {"X": ("LoRA checkpoint", "fox,fox-000004,None"), "Y": ("LoRA weight", "0.5,1")}, "a fox <lora:fox:0.5>"
    )
    found = check(drawn(3, 1, 1, None), plot({"X": ("LoRA checkpoint", "fox,fox-000004,None")}, "a fox <lora:fox:0.5>"))
    assert [cell.generation.loras for cell in found] == [(LoraUse("fox", 0.5),), (LoraUse("fox-000004", 0.5),), ()]
    with pytest.raises(GridError, match="fit no plot"):
        cells(said, (3 * W, H))


def test_random_seeds_are_those_that_were_drawn() -> None:
    said = plot({"X": ("Seed", "-1,-1")}, **{"Fixed X Values": '"11, 12"'})
    assert [cell.generation.seed for cell in check(drawn(2, 1, 1, None), said)] == [1, 12]


@pytest.mark.parametrize(
    ("label", "text", "values"),
    [
        ("Seed", "1-3", ["1", "2", "3"]),
        ("Seed", "1-10 (+4)", ["1", "5", "9"]),
        ("Steps", "10-30 [3]", ["10", "20", "30"]),
        ("LoRA weight", "0-1 [5]", ["0", "0.25", "0.5", "0.75", "1"]),
        ("CFG Scale", "5-7", ["5", "6", "7"]),
        ("Prompt S/R", 'red, "blue, dark", green', ["red", "blue, dark", "green"]),
        ("LoRA weight", "-0.5, 0, 1", ["-0.5", "0", "1"]),
    ],
)
def test_values_are_taken_apart_as_the_plot_does(label: str, text: str, values: list[str]) -> None:
    assert axis_values(label, text) == values


@pytest.mark.parametrize(
    ("axes", "size", "says"),
    [
        ({"X": ("Clip skip", "1,2")}, (2 * W, H), "Clip skip"),
        ({"X": ("Seed", "1,2,3")}, (2 * W, H), "fit no plot"),
        ({"X": ("Seed", "1,2")}, (2 * W, H + 5), None),
        ({"X": ("Seed", "1"), "Y": ("Steps", "1,2")}, (W + 48, 2 * H + 9), "one column"),
        ({"X": ("Prompt S/R", "cat,dog")}, (2 * W, H), 'first value "cat"'),
    ],
)
def test_what_cannot_be_known_is_refused(axes: dict, size: tuple[int, int], says: str | None) -> None:  # type: ignore[type-arg]
    if says is None:
        assert len(cells(plot(axes), size)) == 2
        return
    with pytest.raises(GridError, match=says):
        cells(plot(axes), size)


def test_a_cell_saved_alone_is_no_plot() -> None:
    assert not is_plot(plot({})) and is_plot(plot({"Z": ("Seed", "1")}))
