"""The Scorecard tab's controls as an order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_eval.actions import ScoreOrder
from lora_eval.errors import ConfigError
from lora_eval.ui import text

OPTIONAL = ("weights", "seeds", "prompts", "suite", "trigger", "class_word", "batch_size", "encoder")
SAMPLING = ("sampler", "scheduler", "steps", "cfg_scale", "width", "height", "clip_skip")
_WHOLE = {"seeds": (1, 1000), "prompts": (1, 1000), "batch_size": (1, 512), "steps": (1, 1000), "clip_skip": (1, 12)}
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
    return ScoreOrder(
        loras=[loras[label] for label in chosen],
        data=Path(data).expanduser() if data else None,
        preset=str(values.get("preset") or "standard"),
        kind=None if kind in (None, "", text.FROM_LORA) else str(kind),
        sampling={name: given[name] for name in SAMPLING if given[name] is not None},
        **{name: given[name] for name in OPTIONAL if given[name] is not None},
    )


def _read(name: str, value: Any) -> Any:
    words = "" if value is None else str(value).strip()
    if not words:
        return None
    limits = {**_WHOLE, **_SIDES}.get(name)
    if limits is not None:
        low, high = limits
        try:
            number = float(words)
        except ValueError:
            number = float("nan")
        if not (low <= number <= high and number == int(number)):
            raise ConfigError(f"{name} is {words!r}; write a whole number from {low} to {high}, or leave it empty")
        if name in _SIDES and number % 8:
            raise ConfigError(f"{name} is {words}; write a multiple of 8, or leave it empty")
        return int(number)
    if name == "cfg_scale":
        try:
            number = float(words)
        except ValueError:
            number = float("nan")
        if not 0 <= number <= 100:
            raise ConfigError(f"cfg_scale is {words!r}; write a number from 0 to 100, or leave it empty")
        return number
    return words
