"""What other programs, saved settings and scripts rely on: routes, options, keys and element ids, as plain values.

``python -m tests.surface`` writes the list that ``test_surface.py`` compares with; do that only for a change that users
are told about.
"""

from __future__ import annotations

import argparse
import ast
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".json")


def routes() -> dict[str, list[str]]:
    """Method and path of every REST route -> keys of its body."""
    from fastapi import FastAPI

    from lora_eval.api.routes import PREFIX, create_routes
    from lora_eval.service.jobs import JobQueue

    app = FastAPI()
    create_routes(app, lambda: None, JobQueue())  # type: ignore[arg-type, return-value]
    described = app.openapi()
    schemas = described.get("components", {}).get("schemas", {})
    found = {}
    for path, methods in described["paths"].items():
        if not path.startswith(PREFIX):
            continue
        for method, about in methods.items():
            body = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            name = body.get("$ref", "").rpartition("/")[2]
            found[f"{method.upper()} {path}"] = sorted(schemas.get(name, {}).get("properties", {}))
    return found


def commands() -> dict[str, list[str]]:
    """Command -> its options and arguments."""
    from lora_eval.cli.main import build_parser

    parser = build_parser()
    parts = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return {
        name: sorted(option for action in one._actions for option in (action.option_strings or [action.dest]))
        for name, one in parts.choices.items()
    }


def training_keys() -> dict[str, str]:
    """Key of a training config -> its default as text."""
    from lora_eval.training.config import TrainConfig

    config = TrainConfig()
    return {one.name: repr(getattr(config, one.name)) for one in fields(TrainConfig)}


def elements() -> list[str]:
    """Ids of the tabs' elements."""
    from lora_eval.service.jobs import JobQueue
    from lora_eval.ui.controller import Controller
    from lora_eval.ui.tabs import tabs

    def nowhere() -> Any:
        from lora_eval.errors import HostError

        raise HostError("no host")

    found = set()
    for blocks, _, element in tabs(Controller(nowhere, JobQueue())):
        found.add(element)
        for component in blocks.get_config_file()["components"]:
            if name := component["props"].get("elem_id"):
                found.add(name)
    return sorted(found)


def settings() -> list[str]:
    """Keys of the WebUI's settings page, read from the source: building them needs a WebUI."""
    tree = ast.parse((ROOT / "lora_eval" / "extension" / "callbacks.py").read_text(encoding="utf-8"))
    function = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "add_settings")
    keys = {
        k.value for n in ast.walk(function) if isinstance(n, ast.Dict) for k in n.keys if isinstance(k, ast.Constant)
    }
    return sorted(key for key in keys if str(key).startswith("lora_eval"))


def exits() -> dict[str, int]:
    """Name -> exit code."""
    from lora_eval.cli import exits as codes

    return {name: getattr(codes, name) for name in ("GOOD", "BAD", "FAILED", "STOPPED")}


PARTS = {
    "routes": routes,
    "commands": commands,
    "training keys": training_keys,
    "elements": elements,
    "settings": settings,
    "exit codes": exits,
}


if __name__ == "__main__":
    LIST.write_text(
        json.dumps({name: part() for name, part in PARTS.items()}, indent=1, sort_keys=True) + "\n", "utf-8"
    )
