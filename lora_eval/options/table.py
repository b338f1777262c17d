"""The fields of a request as a Markdown table, for the documentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

from lora_eval.options.option import inner_type


def markdown_table(owner: type, names: Sequence[str], keys: dict[str, str] | None = None) -> str:
    """Rows ``key, default, allowed, meaning`` of some fields of a dataclass made of options.

    Args:
        owner: ``TrainConfig`` or ``ScoreRequest``.
        names: the fields, in the order of the table.
        keys: name of a field -> key that the reader writes, where it is another.

    Raises:
        KeyError: the class has no such field.
    """
    known = {one.name: one for one in fields(owner)}
    hints = get_type_hints(owner)
    lines = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for name in names:
        one = known[name]
        key = (keys or {}).get(name, name)
        lines.append(f"| `{key}` | {_default(one)} | {_allowed(one, inner_type(hints[name]))} | {_meaning(one)} |")
    return "\n".join(lines)


def _default(one: Field[Any]) -> str:
    made: Any = one.default_factory
    value = one.default if one.default is not MISSING else made()
    if value is None or value == "" or value == () or value == []:
        found = one.metadata["help"].rpartition("empty: ")
        return found[2] if found[1] else "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _allowed(one: Field[Any], kind: Any) -> str:
    about = one.metadata
    if about["choices"]:
        return ", ".join(f"`{choice}`" for choice in about["choices"])
    low, high = about["low"], about["high"]
    if math.isfinite(low) and math.isfinite(high):
        start = f"above {low:g}" if about["open_low"] else f"{low:.12g}"
        end = f"below {high:.12g}" if about["open_high"] else f"{high:.12g}"
        step = f", multiples of {about['multiple']}" if about.get("multiple", 1) > 1 else ""
        return f"{start} to {end}{step}"
    names = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}
    return names.get(kind, "")


def _meaning(one: Field[Any]) -> str:
    about = one.metadata
    sentence = about["help"].partition("; empty:")[0] if about["help"].count("; empty:") else about["help"]
    parts = [about["label"], "" if sentence.startswith("empty:") else sentence, about.get("detail", "")]
    return ": ".join(parts[:2] if parts[1] else parts[:1]) + (f"; {parts[2]}" if parts[2] else "")
