"""The package is a row of rooms: a module imports from its own room and from rooms below it, never from above.

The order is ``ROOMS``, lowest first. Inside ``scorecard`` the same holds for its own rooms. No two modules import each
other, directly or in a circle, imports inside functions included.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = [
    ("errors",),
    ("log",),
    ("files",),
    ("reading",),
    ("i18n",),
    ("options",),
    ("statistics",),
    ("lora",),
    ("host",),
    ("encoders",),
    ("dataset",),
    ("training",),
    ("scorecard",),
    ("report",),
    ("service",),
    ("api", "ui"),
    ("cli", "extension"),
    ("__main__",),
]
SCORECARD_ROOMS = [
    ("data", "grid", "tables"),
    ("plan",),
    ("draw",),
    ("features",),
    ("dimensions",),
    ("decision",),
    ("comparison",),
]
# what is imported only in these rooms, so that the rest runs without it
ONLY_IN = {
    "modules": ("host/webui", "extension"),
    "modules_forge": ("host/webui",),
    "backend": ("host/webui",),
    "networks": ("host/webui",),
    "gradio": ("ui", "extension"),
    "fastapi": ("api", "service/served_files.py", "extension"),
    "pydantic": ("api",),
    "diffusers": ("host/standalone",),
    "transformers": ("host/standalone", "encoders"),
    "open_clip": ("encoders",),
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "lora_eval").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(path: Path) -> set[str]:
    """Every module that a file names in an import, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = {name for name in deeper if name in MODULES}
            found |= inside
            if len(inside) < len(deeper):
                found.add(node.module)
    return found


GRAPH = {name: {found for found in _imports(path) if found in MODULES} for name, path in MODULES.items()}


def _rank(name: str, rooms: list[tuple[str, ...]], depth: int) -> int | None:
    parts = name.split(".")
    if len(parts) <= depth:
        return None
    return next((i for i, room in enumerate(rooms) if parts[depth] in room), None)


def test_every_module_has_a_room():
    homeless = [name for name in MODULES if name != "lora_eval" and _rank(name, ROOMS, 1) is None]
    assert not homeless


@pytest.mark.parametrize("name", [name for name in MODULES if name != "lora_eval"])
def test_imports_point_downward(name):
    mine = _rank(name, ROOMS, 1)
    for other in GRAPH[name]:
        theirs = _rank(other, ROOMS, 1)
        if theirs is None or other.split(".")[1] == name.split(".")[1]:
            continue
        assert theirs < mine, f"{name} imports {other}, which lies in a room above or beside it"


def test_imports_inside_the_scorecard_point_downward():
    for name in (name for name in MODULES if name.startswith("lora_eval.scorecard.")):
        mine = _rank(name, SCORECARD_ROOMS, 2)
        for other in (other for other in GRAPH[name] if other.startswith("lora_eval.scorecard.")):
            if other.split(".")[2] != name.split(".")[2]:
                assert _rank(other, SCORECARD_ROOMS, 2) <= mine, f"{name} imports {other}"


def test_no_circles():
    state: dict[str, int] = {}
    trail: list[str] = []

    def visit(name: str) -> None:
        state[name] = 1
        trail.append(name)
        for other in sorted(GRAPH[name]):
            assert state.get(other) != 1, f"circle: {' -> '.join([*trail[trail.index(other) :], other])}"
            if other not in state:
                visit(other)
        trail.pop()
        state[name] = 2

    for name in MODULES:
        if name not in state:
            visit(name)


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_optional_packages_stay_in_their_room(package):
    for name, path in MODULES.items():
        if any(found == package or found.startswith(package + ".") for found in _imports(path)):
            where = path.relative_to(ROOT / "lora_eval").as_posix()
            assert where.startswith(ONLY_IN[package]), f"{name} imports {package}"
