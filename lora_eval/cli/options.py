"""Options of the command line, made from the fields of a request."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_type_hints

from lora_eval.options.option import inner_type
from lora_eval.scorecard.plan.request import SCORE_FIELDS, ScoreRequest, parse_axes, read_count

# what the command line chooses where the tab takes the WebUI's settings
DEFAULTS = {"encoder": "auto", "batch_size": 8}
REQUIRED = ("loras", "out")


def add_score_options(parser: argparse.ArgumentParser) -> None:
    """One option for each field of :class:`ScoreRequest`, and ``--size`` for width and height."""
    hints = get_type_hints(ScoreRequest)
    for name, one in SCORE_FIELDS.items():
        flag = flag_of(name)
        if flag is None:
            continue
        kind = inner_type(hints[name])
        about: dict[str, Any] = {"dest": name, "help": _help(name)}
        if name in REQUIRED:
            about["required"] = True
        if name == "loras":
            about.update(nargs="+", type=Path, metavar="FILE")
        elif one.metadata["choices"]:
            about["choices"] = list(one.metadata["choices"])
        elif kind in (int, float, Path):
            about["type"] = kind
        if "metavar" in one.metadata:
            about["metavar"] = one.metadata["metavar"]
        parser.add_argument(flag, default=DEFAULTS.get(name, None if name in REQUIRED else one.default), **about)
    parser.add_argument("--size", metavar="WxH", help="picture size in pixels (default: the model's own)")


def flag_of(name: str) -> str | None:
    """``--batch-size`` for ``batch_size``; None for a field that the command line has in another form."""
    found = SCORE_FIELDS[name].metadata.get("flag", "--" + name.replace("_", "-"))
    return None if found is None else str(found)


def read_request(arguments: argparse.Namespace, **more: Any) -> ScoreRequest:
    """The request of parsed options; ``more`` are fields that the command line has in another form.

    Raises:
        ConfigError: a value that cannot be read or is out of range.
    """
    values = {name: getattr(arguments, name) for name in SCORE_FIELDS if flag_of(name) is not None}
    for name in ("seeds", "prompts"):
        values[name] = read_count(name, values[name], flag_of(name))
    values["axes"] = parse_axes(values["axes"])
    return ScoreRequest(**{**values, **more})


def _help(name: str) -> str:
    """The label and help sentence of a field, with the default as the command line has it."""
    about = SCORE_FIELDS[name].metadata
    text = f"{about['label']}: {about['help']}" if about["help"] else about["label"]
    if name in DEFAULTS:
        text = text.partition("; empty:")[0] + f" (default: {DEFAULTS[name]})"
    return text.replace("empty: ", "default: ").replace("%", "%%")
