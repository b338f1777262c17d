"""A sweep while it is drawn: which places of its map have how many pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from lora_eval.errors import LoraEvalError
from lora_eval.files import read_json
from lora_eval.scorecard.plan.plan import Cell, Plan
from lora_eval.scorecard.plan.ranges import format_number


@dataclass
class Place:
    """One place of the map. ``picture``: the first one that is there."""

    done: int = 0
    total: int = 0
    picture: Path | None = None


@dataclass
class Map:
    """``places`` by (row, column); ``x`` and ``y`` name the axes."""

    x: str
    y: str
    columns: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    places: dict[tuple[int, int], Place] = field(default_factory=dict)
    done: int = 0
    total: int = 0


def live_map(run: Path) -> Map | None:
    """The map of a run as far as it is drawn; None where there is no plan that can be read.

    Weight 0 is drawn once for all checkpoints and stands in each one's row.
    """
    plan = _plan(run)
    if plan is None:
        return None
    try:
        there = {entry.name for entry in os.scandir(run / "images")}
    except OSError:
        there = set()
    x, y = plan.axes
    found = Map(x, y)
    names = {"checkpoint": [lora.name for lora in plan.loras]}
    names["weight"] = [format_number(weight) for weight in plan.weights]
    names["prompt"] = [prompt.id for prompt in plan.prompts]
    names["seed"] = [str(seed) for seed in plan.seeds]
    found.columns, found.rows = names[x], names[y]
    at = {axis: {name: place for place, name in enumerate(values)} for axis, values in names.items()}
    for cell in plan.cells():
        found.total += 1
        drawn = cell.image.rpartition("/")[2] in there
        found.done += drawn
        for row in _along(y, cell, at):
            for column in _along(x, cell, at):
                place = found.places.setdefault((row, column), Place())
                place.total += 1
                if drawn:
                    place.done += 1
                    place.picture = place.picture or run / cell.image
    return found


def _along(axis: str, cell: Cell, at: dict[str, dict[str, int]]) -> list[int]:
    if axis == "checkpoint":
        return list(at[axis].values()) if cell.lora is None else [at[axis][cell.lora.name]]
    value = {"weight": format_number(cell.weight), "prompt": cell.prompt.id, "seed": str(cell.seed)}[axis]
    return [at[axis][value]]


def _plan(run: Path) -> Plan | None:
    path = run / "plan.json"
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (LoraEvalError, OSError):
        return None


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> Plan:
    """A plan; an adaptive run's grows while it is drawn."""
    return Plan.from_json(read_json(path), str(path))
