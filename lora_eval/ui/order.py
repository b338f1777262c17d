"""The Scorecard tab's controls as an order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_eval.errors import ConfigError
from lora_eval.scorecard.plan.plan import DEFAULT_AXES
from lora_eval.scorecard.plan.ranges import parse_count, parse_int_range, parse_places, parse_range
from lora_eval.service.estimate import ADAPTIVE
from lora_eval.service.library import pick_checkpoints
from lora_eval.service.order import ScoreOrder
from lora_eval.ui import text

OPTIONAL = ("weights", "seeds", "prompts", "suite", "trigger", "class_word", "batch_size", "encoder")
SAMPLING = ("sampler", "scheduler", "steps", "cfg_scale", "width", "height", "clip_skip")
MAP = ("x_axis", "x_values", "y_axis", "y_values")
BUDGET = ("budget", "budget_unit")
_WHOLE = {"batch_size": (1, 512), "steps": (1, 1000), "clip_skip": (1, 12)}
_SIDES = {"width": (32, 4096), "height": (32, 4096)}


def make_order(values: Mapping[str, Any], loras: Mapping[str, Path]) -> ScoreOrder:
    """Control values -> order; an empty control is None. Raises ConfigError naming control and range."""
    given = {name: _read(name, values.get(name)) for name in (*OPTIONAL, *SAMPLING)}
    if given["suite"] == text.SUITE_AUTO:
        given["suite"] = None
    kind = values.get("kind")
    data = str(values.get("data") or "").strip()
    chosen = list(values.get("loras") or [])
    missing = [label for label in chosen if label not in loras]
    if missing:
        raise ConfigError(f"{missing[0]} is not there any more; refresh the list and choose again")
    if data and not Path(data).expanduser().is_dir():
        raise ConfigError(f"{data} is no folder; give the folder of reference pictures, or leave it empty")
    order = ScoreOrder(
        loras=[loras[label] for label in chosen],
        data=Path(data).expanduser() if data else None,
        preset=str(values.get("preset") or "standard"),
        kind=None if kind in (None, "", text.FROM_LORA) else str(kind),
        sampling={name: given[name] for name in SAMPLING if given[name] is not None},
        **{name: given[name] for name in OPTIONAL if given[name] is not None},
    )
    return _budgeted(_spanned(order, values), values)


def _spanned(order: ScoreOrder, values: Mapping[str, Any]) -> ScoreOrder:
    """The order with both axes; what is entered at an axis wins over the control of that name."""
    axes = tuple(str(values.get(name) or default) for name, default in zip(MAP[::2], DEFAULT_AXES, strict=True))
    if axes[0] == axes[1]:
        raise ConfigError(f"both axes are {axes[0]}; choose two different ones")
    if axes != DEFAULT_AXES:
        order = replace(order, axes=(axes[0], axes[1]))
    for axis, name in zip(axes, MAP[1::2], strict=True):
        words = str(values.get(name) or "").strip()
        if not words:
            continue
        if axis == "weight":
            parse_range(words, "weights")
            order = replace(order, weights=words)
        elif axis == "seed":
            order = replace(order, seeds=parse_places(words, "seeds", 0))
        elif axis == "prompt":
            order = replace(order, prompts=parse_places(words, "prompts"))
        elif order.loras:
            order = replace(order, loras=pick_checkpoints(order.loras, parse_int_range(words, "checkpoints")))
    return order


def _budgeted(order: ScoreOrder, values: Mapping[str, Any]) -> ScoreOrder:
    words = str(values.get("budget") or "").strip()
    if order.preset != ADAPTIVE or not words:
        return order
    number = _number(words)
    if not 0 < number <= 1_000_000:
        raise ConfigError(f"budget is {words!r}; write a number above 0, or leave it empty")
    if values.get("budget_unit") == text.MINUTES:
        return replace(order, minutes=number)
    return replace(order, budget=int(number))


def _number(words: str) -> float:
    try:
        return float(words)
    except ValueError:
        return math.nan


def _read(name: str, value: Any) -> Any:
    words = "" if value is None else str(value).strip()
    if not words:
        return None
    if name in ("seeds", "prompts"):
        return parse_count(words, name, 0 if name == "seeds" else 1)
    limits = {**_WHOLE, **_SIDES}.get(name)
    if limits is not None:
        low, high = limits
        number = _number(words)
        if not (low <= number <= high and number == int(number)):
            raise ConfigError(f"{name} is {words!r}; write a whole number from {low} to {high}, or leave it empty")
        if name in _SIDES and number % 8:
            raise ConfigError(f"{name} is {words}; write a multiple of 8, or leave it empty")
        return int(number)
    if name == "cfg_scale":
        number = _number(words)
        if not 0 <= number <= 100:
            raise ConfigError(f"cfg_scale is {words!r}; write a number from 0 to 100, or leave it empty")
        return number
    return words
