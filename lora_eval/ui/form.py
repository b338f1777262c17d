"""The controls of the training config: one for each setting, made from the dataclass and ``text.GROUPS``."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import gradio as gr

from lora_eval.training.config import TrainConfig
from lora_eval.ui import text

# settings that have their own place at the top of the tab
ON_TOP = ("train_data_dir", "name", "trigger", "kind")
NAMES = [name for group in text.GROUPS.values() for name in group]
_SETTINGS = {setting.name: setting for setting in fields(TrainConfig)}
_HINTS = typing.get_type_hints(TrainConfig)
_LINES = {"sample_prompts": 3, "sample_negative": 3, "hard_negative_prompts": 3}


def make_control(name: str, value: Any) -> Any:
    """The control of one setting; numbers that may be empty are text fields, which show "empty" as it is."""
    label, info = next(group[name] for group in text.GROUPS.values() if name in group)
    about: dict[str, Any] = {"label": label, "info": info, "elem_id": f"lora_eval_train_{name}", "interactive": True}
    hint, choices = _HINTS[name], list(_SETTINGS[name].metadata.get("choices") or ())
    shown = to_shown(name, value)
    if hint is bool:
        return gr.Checkbox(value=shown, **about)
    if hint == list[str] and choices:
        return gr.CheckboxGroup(choices=choices, value=shown, **about)
    if choices:
        return gr.Dropdown(choices=choices, value=shown, **about)
    if hint is int:
        return gr.Number(value=shown, precision=0, **about)
    return gr.Textbox(value=shown, lines=_LINES.get(name, 1), max_lines=max(6, _LINES.get(name, 1)), **about)


def to_shown(name: str, value: Any) -> Any:
    """A setting's value as its control shows it."""
    hint = _HINTS[name]
    if hint in (bool, int) or (hint == list[str] and _SETTINGS[name].metadata.get("choices")):
        return value
    if value is None:
        return ""
    if name == "resolution":
        width, height = value
        return str(width) if width == height else f"{width}x{height}"
    if name == "betas":
        return ", ".join(f"{one:g}" for one in value)
    if isinstance(value, list):
        return "\n".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def from_shown(name: str, value: Any) -> Any:
    """What the config is given for a control's value; the config itself checks it."""
    if name == "betas" and isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, str):
        value = value.strip()
        if value == "" and _HINTS[name] is not str:
            return [] if _HINTS[name] == list[str] else None
    return value


def read_values(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Names and control values -> settings."""
    return {name: from_shown(name, value) for name, value in zip(names, values, strict=True)}


def show_values(names: Sequence[str], settings: Mapping[str, Any]) -> list[Any]:
    """Settings -> control values, in the order of ``names``."""
    return [to_shown(name, settings[name]) for name in names]
