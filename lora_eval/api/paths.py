"""Every path that a request can name, confined where its body is parsed.

Each body says in ``PATHS`` which of its fields name files and how they are spelled; :func:`confined` turns all of them
into paths inside the allowed folders before anything else sees the body. ``tests/api/test_paths.py`` walks every field
of every body and fails for a new one that is neither in ``PATHS`` nor known to name no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_eval.encoders.registry import is_name
from lora_eval.scorecard.plan.suites import suite_names
from lora_eval.service.confinement import Confinement

PATH, LIST, NAME, SUITE, ENCODER = "path", "list of paths", "name", "suite", "encoder"
"""How a field names files: a path; one path or several; a name in the output folder; a shipped suite's name or a path;
an encoder's name, or a path behind a name and ``=``."""


def confined(
    values: Mapping[str, Any], rules: Mapping[str, str], confinement: Confinement, output: Path
) -> dict[str, Any]:
    """``values`` with every field of ``rules`` inside the allowed folders.

    Args:
        values: field -> what the caller sent.
        rules: field -> one of the kinds above.
        output: folder in which a NAME is one plain part.

    Raises:
        ForbiddenPath: a path leads outside, or cannot be one.
    """
    found = dict(values)
    for name, kind in rules.items():
        value = found.get(name)
        if value is None or value == "":
            continue
        if kind == PATH:
            found[name] = confinement.path(value)
        elif kind == LIST:
            found[name] = [confinement.path(one) for one in ([value] if isinstance(value, str) else value)]
        elif kind == NAME:
            found[name] = confinement.child(output, value)
        elif kind == SUITE:
            found[name] = value if value in suite_names() else str(confinement.path(value))
        elif kind == ENCODER:
            found[name] = _encoder(value, confinement)
    return found


def _encoder(value: str, confinement: Confinement) -> str:
    architecture, equals, file = value.partition("=")
    if equals:
        return f"{architecture}={confinement.path(file)}"
    if is_name(value):
        return value
    return str(confinement.path(value))
