"""A WebUI's X/Y/Z plot saved as one picture: which cell was drawn how, and where it stands.

The text of the picture is that of its first cell, and names the axes and their values; the layout follows from the
sizes. Sources: ``process_axis`` and ``draw_xyz_grid`` (scripts/xyz_grid.py) and ``draw_grid_annotations``
(modules/images.py) of AUTOMATIC1111/stable-diffusion-webui 1.10: columns are X, rows Y, sub-grids beside each other Z;
titles stand above and at the left, three quarters of a cell wide, so that the last cell ends in the lower right corner.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lora_eval.reading.generation import Generation, LoraUse, lora_tags

_WHOLE = re.compile(r"\s*([+-]?\s*\d+)\s*-\s*([+-]?\s*\d+)(?:\s*\(([+-]\d+)\s*\))?\s*")
_REAL = re.compile(r"\s*([+-]?\s*\d+(?:.\d*)?)\s*-\s*([+-]?\s*\d+(?:.\d*)?)(?:\s*\(([+-]\d+(?:.\d*)?)\s*\))?\s*")
_COUNT = re.compile(r"\s*([+-]?\s*\d+(?:\.\d*)?)\s*-\s*([+-]?\s*\d+(?:\.\d*)?)(?:\s*\[(\d+)\s*])?\s*")
NOTHING, PROMPT, SEED = "Nothing", "Prompt S/R", "Seed"
# this program's own axes, see extension/xyz_axes.py
LORA, WEIGHT = "LoRA checkpoint", "LoRA weight"
_KINDS = {SEED: int, "Steps": int, "CFG Scale": float, "Sampler": str, PROMPT: str, LORA: str, WEIGHT: float}
Box = tuple[int, int, int, int]
Place = tuple[int, int, int]


class GridError(ValueError):
    """Why a picture that is a grid cannot be cut into its cells."""


@dataclass(frozen=True)
class Axis:
    """One axis: its label in the WebUI and its values, in the order of the cells."""

    label: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One cell: ``place`` for people ("x2 y1"), ``box`` (left, upper, right, lower) in pixels, and how it was drawn."""

    place: str
    box: Box
    generation: Generation


def is_plot(generation: Generation) -> bool:
    """Whether the text is that of a whole X/Y/Z plot: a cell that was saved alone does not name the axes."""
    return any(f"{axis} Type" in generation.parameters for axis in "XYZ")


def cells(generation: Generation, size: tuple[int, int]) -> list[Cell]:
    """The cells of a plot of this (width, height).

    Raises:
        GridError: an axis that has no column in a table, or sizes that fit no layout of these axes.
    """
    axes = [_axis(generation, axis) for axis in "XYZ"]
    if generation.size is None:
        raise GridError("its text does not say how large a cell is")
    boxes = _boxes(generation.size, size, axes)
    found = []
    for (x, y, z), box in boxes:
        drawn = generation
        for axis, at in zip(axes, (x, y, z), strict=True):
            drawn = _apply(drawn, axis, at)
        place = " ".join(
            f"{name}{at + 1}" for name, at, axis in zip("xyz", (x, y, z), axes, strict=True) if len(axis.values) > 1
        )
        found.append(Cell(place or "x1", box, replace(drawn, parameters={})))
    return found


def _axis(generation: Generation, name: str) -> Axis:
    said = generation.parameters
    label = said.get(f"{name} Type", NOTHING)
    if label == NOTHING:
        return Axis(NOTHING, ("",))
    if label not in _KINDS:
        raise GridError(f'its axis "{label}" has no column in a table')
    values = axis_values(label, said.get(f"Fixed {name} Values") or said.get(f"{name} Values", ""))
    if not values:
        raise GridError(f'its text does not say the values of its axis "{label}"')
    return Axis(label, tuple(values))


def axis_values(label: str, text: str) -> list[str]:
    """The values of an axis as the plot takes them apart: commas, quotation marks, and ranges of numbers.

    >>> axis_values("Seed", "1-3, 10")
    ['1', '2', '3', '10']
    >>> axis_values("LoRA weight", "0-1 [3]")
    ['0', '0.5', '1']
    """
    parts = [part.strip() for row in csv.reader(io.StringIO(text), skipinitialspace=True) for part in row]
    kind = _KINDS[label]
    if kind is str:
        return parts
    found: list[str] = []
    for part in filter(None, parts):
        step, count = (_WHOLE if kind is int else _REAL).fullmatch(part), _COUNT.fullmatch(part)
        if step is not None:
            found += _stepped(kind, step)
        elif count is not None:
            first, last, many = float(count[1]), float(count[2]), int(count[3] or 1)
            found += [_written(kind, first + (last - first) * at / max(many - 1, 1)) for at in range(many)]
        else:
            found.append(part)
    return found


def _stepped(kind: type, match: re.Match[str]) -> Iterator[str]:
    first, last, step = (float((text or "1").replace(" ", "")) for text in match.groups())
    # the plot's ranges of whole numbers end with the last one, those of others one step further, as numpy's arange
    end = last + 1 if kind is int else last + step
    at, many = first, 0
    while (at < end - 1e-9 if step > 0 else at > end + 1e-9) and step and many < 1000:
        yield _written(kind, at)
        many += 1
        at = first + step * many


def _written(kind: type, value: float) -> str:
    return str(int(value)) if kind is int else f"{value:.6g}"


def _apply(drawn: Generation, axis: Axis, at: int) -> Generation:
    """How a cell was drawn whose value of the axis is number ``at``; ``drawn`` is of the first value."""
    value = axis.values[at]
    if axis.label == NOTHING or at == 0:
        return drawn
    try:
        if axis.label == SEED:
            return replace(drawn, seed=int(value))
        if axis.label == "Steps":
            return replace(drawn, steps=int(value))
        if axis.label == "CFG Scale":
            return replace(drawn, cfg=float(value))
        if axis.label == WEIGHT:
            return _weighed(drawn, float(value))
    except ValueError:
        raise GridError(f'the value "{value}" of its axis "{axis.label}" is not a number') from None
    if axis.label == "Sampler":
        return replace(drawn, sampler=value)
    if axis.label == LORA:
        return _swapped(drawn, axis.values[0], value)
    return _searched(drawn, axis.values[0], value)


def _searched(drawn: Generation, old: str, new: str) -> Generation:
    """``Prompt S/R``: the first value replaced, everywhere in both prompts."""
    prompt, negative = drawn.prompt or "", drawn.negative_prompt or ""
    if old not in prompt and old not in negative:
        raise GridError(f'the first value "{old}" of its axis "{PROMPT}" is not in its prompt')
    prompt = prompt.replace(old, new)
    loras, unread = lora_tags(prompt)
    if unread:
        raise GridError(unread)
    return replace(drawn, prompt=prompt, negative_prompt=negative.replace(old, new), loras=loras)


def _weighed(drawn: Generation, weight: float) -> Generation:
    loras = drawn.loras or ()
    if len(loras) != 1:
        raise GridError(f'its axis "{WEIGHT}" is of one LoRA, its prompt has {len(loras)}')
    return replace(drawn, loras=(LoraUse(loras[0].name, weight),))


def _swapped(drawn: Generation, old: str, new: str) -> Generation:
    if new == "None":
        return replace(drawn, loras=tuple(use for use in drawn.loras or () if use.name != old))
    uses = [use for use in drawn.loras or () if use.name == old]
    if len(uses) != 1:
        raise GridError(f'the first value "{old}" of its axis "{LORA}" is not in its prompt')
    kept = tuple(use for use in drawn.loras or () if use.name != old)
    return replace(drawn, loras=(*kept, LoraUse(new, uses[0].weight)))


# -- layout --------------------------------------------------------------------------------------------


def _boxes(generation_size: tuple[int, int], size: tuple[int, int], axes: list[Axis]) -> list[tuple[Place, Box]]:
    """Every cell's indices and box: counted from the lower right corner of its sub-grid, where no title stands."""
    (width, height), (columns, rows, layers) = generation_size, (len(axis.values) for axis in axes)
    whole, odd = divmod(size[0], layers)
    margin = None if odd else _margin(generation_size, (whole, size[1]), axes)
    if margin is None:
        raise GridError(
            f"{size[0]}x{size[1]} pixels fit no plot of {columns} x {rows} x {layers} cells of {width}x{height}"
        )
    found = []
    for z in range(layers):
        for y in range(rows):
            for x in range(columns):
                right = (z + 1) * whole - (columns - 1 - x) * (width + margin)
                lower = size[1] - (rows - 1 - y) * (height + margin)
                found.append(((x, y, z), (right - width, lower - height, right, lower)))
    return found


def _margin(cell: tuple[int, int], size: tuple[int, int], axes: list[Axis]) -> int | None:
    """Pixels between two cells of a sub-grid of this size; None where no layout fits.

    Raises:
        GridError: one column of cells below a title of unknown height.
    """
    columns, rows, layers = (len(axis.values) for axis in axes)
    across, down = size[0] - columns * cell[0], size[1] - rows * cell[1]
    if across == down == 0:
        return 0
    if axes[1].label != NOTHING:
        across -= cell[0] * 3 // 4
    if across < 0 or down < 0:
        return None
    untitled = axes[0].label == NOTHING and layers == 1
    if columns > 1:
        margin, odd = divmod(across, columns - 1)
        above = down - margin * (rows - 1)
        return margin if not odd and above >= 0 and not (untitled and above) else None
    if across or (rows == 1 and untitled and down):
        return None
    if rows == 1:
        return 0
    if not untitled:
        raise GridError("the distance between the cells of one column cannot be known below a title")
    margin, odd = divmod(down, rows - 1)
    return None if odd else margin
