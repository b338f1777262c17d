"""The package is a row of rooms: a module imports from its own room and from rooms below it, never from above.

The order is ``ROOMS``, lowest first. Inside ``scorecard`` the same holds for its own rooms. No two modules import each
other, directly or in a circle, imports inside functions included.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.structure import circles, import_graph, imports, modules

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


MODULES = modules(ROOT)
GRAPH = import_graph(MODULES)


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
    assert circles(GRAPH) == []


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_optional_packages_stay_in_their_room(package):
    for name, path in MODULES.items():
        if any(found == package or found.startswith(package + ".") for found in imports(path, MODULES)):
            where = path.relative_to(ROOT / "lora_eval").as_posix()
            assert where.startswith(ONLY_IN[package]), f"{name} imports {package}"
