"""One option: its type, range, label and help sentence, and the error line for a value that does not fit.

``TrainConfig`` and ``ScoreRequest`` are dataclasses whose fields are made by :func:`option`. Everything that a surface
needs (command line, REST body, form, table in the documentation, checks) is in the field's metadata.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import Field, field
from typing import Any

from lora_eval.errors import ConfigError


def option(
    default: Any = None,
    label: str = "",
    help: str = "",
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
    open_ends: str = "",
    choices: tuple[str, ...] = (),
    **more: Any,
) -> Any:
    """A dataclass field with everything that the surfaces need to know about it.

    Args:
        default: the value, or a function without arguments that makes it (for lists).
        label: name of the control in the form; also the name in a generated table.
        help: one sentence. Where an empty control has a meaning it ends in ``empty: ...``.
        within: lowest and highest number allowed, both included.
        open_ends: ``low``, ``high`` or ``low high``: these ends themselves are not allowed.
        choices: the texts allowed.
        more: what single surfaces need: ``multiple`` (a whole number must be a multiple of it), ``flag`` (option of the
            command line), ``body`` (key of the REST body), ``group`` (part of the form).
    """
    metadata = {
        "label": label, "help": help, "low": within[0], "high": within[1], "choices": choices,
        "open_low": "low" in open_ends, "open_high": "high" in open_ends, **more,
    }  # fmt: skip
    if isinstance(default, Callable):  # type: ignore[arg-type]
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def inner_type(hint: Any) -> Any:
    """The type without ``| None``: ``int | None`` -> ``int``."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        return parts[0] if len(parts) == 1 else typing.Union[tuple(parts)]  # noqa: UP007
    return hint


def in_range(value: float, about: Mapping[str, Any]) -> bool:
    """Whether a number lies in the range of an option's metadata, an open end itself left out; NaN does not."""
    low, high = about.get("low", -math.inf), about.get("high", math.inf)
    at_open_end = (about.get("open_low") and value == low) or (about.get("open_high") and value == high)
    return low <= value <= high and not at_open_end


def is_multiple(value: float, about: Mapping[str, Any]) -> bool:
    """Whether a number is a multiple of what an option's metadata asks for; any number is where it asks for none."""
    return "multiple" not in about or value % about["multiple"] == 0


def bad_name(name: str) -> str:
    """Why a LoRA cannot be called so; "" when it can."""
    if not name.strip() or name.strip(". ") != name:
        return "it is empty or starts or ends with a blank or dot"
    if any(c in '<>:"/\\|?*,' or ord(c) < 32 for c in name):
        # a colon or bracket would break the WebUI's <lora:name:weight>
        return "it has a sign that file names or the WebUI's prompt tag cannot hold"
    return "it is longer than 100 characters" if len(name) > 100 else ""


def checked(setting: Field[Any], hint: Any, value: Any) -> Any:
    """``value`` as the type that ``hint`` (resolved) asks for, within the setting's range. Raises ConfigError."""
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    hint = inner_type(hint)
    kind, name, limits = typing.get_origin(hint) or hint, setting.name, setting.metadata
    if hint is Any:
        return value
    if optional and (value is None or not str(value).strip()):
        return None
    if value is None or (value == "" and kind is not str):
        raise ConfigError(f"{name} is empty; {_wanted(kind, limits)}")
    if kind is not list:
        return _scalar(name, kind, limits, value)
    if isinstance(value, str):
        value = [line for line in (part.strip() for part in value.splitlines()) if line]
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{name} is {value!r}; write a list")
    inner = typing.get_args(hint)[0]
    return [_scalar(f"{name}[{i}]", inner, limits, one) for i, one in enumerate(value)]


def _scalar(name: str, kind: type, limits: Mapping[str, Any], value: Any) -> Any:
    wrong = ConfigError(f"{name} is {value!r}; {_wanted(kind, limits)}")
    if kind is bool:
        if isinstance(value, str) and value.strip().lower() in ("true", "false", "yes", "no", "on", "off"):
            return value.strip().lower() in ("true", "yes", "on")
        if not isinstance(value, bool):
            raise wrong
        return value
    if kind is str:
        # YAML reads `name: 2024` as a number and `mixed_precision: no` as False
        if limits.get("choices") and value is False and "no" in limits["choices"]:
            value = "no"
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise wrong
        text = str(value)
        choices = limits.get("choices")
        if choices and text not in choices:
            near = difflib.get_close_matches(text, choices, 1)
            raise ConfigError(str(wrong) + (f" (did you mean {near[0]}?)" if near else ""))
        return text
    if isinstance(value, str):
        # YAML 1.1 takes 2e-4 (no dot) for a string
        try:
            value = float(value)
        except ValueError:
            raise wrong from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise wrong
    if kind is int and value != int(value):
        raise wrong
    if not in_range(value, limits):
        raise wrong
    return kind(value)


def _wanted(kind: type, limits: Mapping[str, Any]) -> str:
    if limits.get("choices"):
        return "write one of " + ", ".join(limits["choices"])
    if kind is bool:
        return "write true or false"
    if kind is str:
        return "write a text, in quotation marks where YAML takes it for something else"
    noun = "a whole number" if kind is int else "a number"
    low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
    if math.isinf(low) and math.isinf(high):
        return f"write {noun}"
    start = f"above {low:g}" if limits.get("open_low") else f"from {low:.12g}"
    end = f"below {high:.12g}" if limits.get("open_high") else f"to {high:.12g}"
    return f"write {noun} {start} {end}"


def resolution(value: Any) -> tuple[int, int] | None:
    """One side, [width, height] or ``"512x768"`` -> (width, height); None stays None. Raises ConfigError."""
    if value is None or value == "":
        return None
    wrong = ConfigError(f"resolution is {value!r}; write one side or [width, height], each from 32 to 4096")
    if isinstance(value, str):
        value = value.replace("x", ",").replace("[", "").replace("]", "").split(",")
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    try:
        numbers = [float(side) for side in sides if not isinstance(side, bool)]
    except (TypeError, ValueError):
        raise wrong from None
    if len(numbers) != len(sides) or len(numbers) not in (1, 2):
        raise wrong
    if any(number != int(number) or not 32 <= number <= 4096 for number in numbers):
        raise wrong
    return int(numbers[0]), int(numbers[-1])
