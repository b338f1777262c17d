"""The Scorecard tab's controls as a request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from lora_eval.errors import ConfigError
from lora_eval.options.option import in_range, inner_type, is_multiple
from lora_eval.scorecard.plan.plan import DEFAULT_AXES
from lora_eval.scorecard.plan.presets import ADAPTIVE
from lora_eval.scorecard.plan.ranges import parse_int_range, parse_places, parse_range
from lora_eval.scorecard.plan.request import SCORE_FIELDS, ScoreRequest, read_count
from lora_eval.service.library import pick_checkpoints
from lora_eval.ui import text

# the fields of a request that have a control of their own name; the others have controls of another form
FIELDS = tuple(name for name, one in SCORE_FIELDS.items() if "group" in one.metadata)
MAP = ("x_axis", "x_values", "y_axis", "y_values")
BUDGET = ("budget", "budget_unit")
_HINTS = get_type_hints(ScoreRequest)


def make_request(values: Mapping[str, Any], loras: Mapping[str, Path]) -> ScoreRequest:
    """Control values -> request; an empty control is None. Raises ConfigError naming control and range."""
    given = {name: _read(name, values.get(name)) for name in FIELDS}
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
    request = ScoreRequest(
        loras=[loras[label] for label in chosen],
        data=Path(data).expanduser() if data else None,
        preset=str(values.get("preset") or "standard"),
        kind=None if kind in (None, "", text.FROM_LORA) else str(kind),
        **{name: given[name] for name in FIELDS if given[name] is not None},
    )
    return _budgeted(_spanned(request, values), values)


def _spanned(request: ScoreRequest, values: Mapping[str, Any]) -> ScoreRequest:
    """The request with both axes; what is entered at an axis wins over the control of that name."""
    axes = tuple(str(values.get(name) or default) for name, default in zip(MAP[::2], DEFAULT_AXES, strict=True))
    if axes[0] == axes[1]:
        raise ConfigError(f"both axes are {axes[0]}; choose two different ones")
    if axes != DEFAULT_AXES:
        request = replace(request, axes=(axes[0], axes[1]))
    for axis, name in zip(axes, MAP[1::2], strict=True):
        words = str(values.get(name) or "").strip()
        if not words:
            continue
        if axis == "weight":
            parse_range(words, "weights")
            request = replace(request, weights=words)
        elif axis == "seed":
            request = replace(request, seeds=parse_places(words, "seeds", 0))
        elif axis == "prompt":
            request = replace(request, prompts=parse_places(words, "prompts"))
        elif request.loras:
            request = replace(request, loras=pick_checkpoints(request.loras, parse_int_range(words, "checkpoints")))
    return request


def _budgeted(request: ScoreRequest, values: Mapping[str, Any]) -> ScoreRequest:
    words = str(values.get("budget") or "").strip()
    if request.preset != ADAPTIVE or not words:
        return request
    number = _number(words)
    if not 0 < number <= 1_000_000:
        raise ConfigError(f"budget is {words!r}; write a number above 0, or leave it empty")
    if values.get("budget_unit") == text.MINUTES:
        return replace(request, minutes=number)
    return replace(request, budget=int(number))


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
        return read_count(name, words)
    about = SCORE_FIELDS[name].metadata
    if not math.isfinite(about["high"]):
        return words
    low, high, number = about["low"], about["high"], _number(words)
    whole = inner_type(_HINTS[name]) is int
    if not in_range(number, about) or (whole and number != int(number)):
        if whole:
            raise ConfigError(f"{name} is {words!r}; write a whole number from {low:g} to {high:g}, or leave it empty")
        raise ConfigError(f"{name} is {words!r}; write a number from {low:g} to {high:g}, or leave it empty")
    if not is_multiple(number, about):
        raise ConfigError(f"{name} is {words}; write a multiple of {about['multiple']}, or leave it empty")
    return int(number) if whole else number
