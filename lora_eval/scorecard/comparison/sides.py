"""Which checkpoint and weight of each run are set side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from lora_eval.errors import RunError
from lora_eval.scorecard.comparison.runs import Run, Side
from lora_eval.scorecard.plan.ranges import format_number


def choose(runs: Sequence[Run], at: Sequence[str] = ()) -> list[Side]:
    """The sides of a comparison: each run at its recommendation, or as ``NAME:WEIGHT`` says.

    As many ``at`` as runs go to the runs in order; fewer go to the run that has the checkpoint.

    Raises:
        RunError: a run recommends nothing and none was named, unknown or ambiguous names, the same twice.
    """
    asked: dict[int, tuple[str, float]] = {}
    for position, text in enumerate(at):
        name, weight = _parse(text)
        owners = [i for i, run in enumerate(runs) if name in run.checkpoints]
        if len(at) == len(runs):
            owners = [position]
        if not owners:
            known = ", ".join(dict.fromkeys(name for run in runs for name in run.checkpoints))
            raise RunError(f"--at {text}: no run has the checkpoint {name}; there are {known}")
        if len(owners) > 1 or owners[0] in asked:
            raise RunError(f"--at {text} fits several runs; give one --at for each of the {len(runs)} runs, in order")
        asked[owners[0]] = (name, weight)
    sides = [_side(run, asked.get(index)) for index, run in enumerate(runs)]
    seen: dict[tuple[Path, str, float], Side] = {}
    for side in sides:
        key = (side.run.folder.root.resolve(), side.checkpoint, side.weight)
        if key in seen:
            raise RunError(
                f"{side.run.folder.root} is named twice with {side.checkpoint} at {side.weight:g}; "
                "name another run, or another checkpoint or weight with --at"
            )
        seen[key] = side
    return _labelled(sides)


def _parse(text: str) -> tuple[str, float]:
    name, separator, weight = text.rpartition(":")
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not separator or not name or not math.isfinite(value):
        raise RunError(f"--at {text} is not NAME:WEIGHT; write for example --at zorp-000300:0.8")
    return name, value


def _side(run: Run, asked: tuple[str, float] | None) -> Side:
    root = run.folder.root
    if asked is None:
        chosen = run.card.get("recommended") or {}
        name, weight = chosen.get("checkpoint"), chosen.get("weight")
        if name is None or weight is None:
            raise RunError(f"{root} recommends no checkpoint and weight; name one with --at NAME:WEIGHT")
    else:
        name, weight = asked
    if name not in run.checkpoints:
        raise RunError(f"{root} has no checkpoint {name}; it has {', '.join(run.checkpoints)}")
    drawn = sorted(w for other, w in run.rows if other == name and w != 0)
    found = next((w for w in drawn if abs(w - float(weight)) < 1e-6), None)
    if found is None:
        shown = ", ".join(format_number(w) for w in drawn)
        raise RunError(f"{root} has no pictures of {name} at {float(weight):g}; drawn were {shown}")
    return Side(run, str(name), found)


def _labelled(sides: Sequence[Side]) -> list[Side]:
    """Shortest labels that tell the sides apart: checkpoint and weight, then the folder, then a number."""
    labels = [f"{side.checkpoint} at {side.weight:g}" for side in sides]
    for more in ([f"{s.run.name}: " for s in sides], [f"{i}. " for i in range(1, len(sides) + 1)]):
        doubled = {label for label in labels if labels.count(label) > 1}
        labels = [f"{add}{label}" if label in doubled else label for add, label in zip(more, labels, strict=True)]
    return [Side(s.run, s.checkpoint, s.weight, label) for s, label in zip(sides, labels, strict=True)]
