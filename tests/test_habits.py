"""Habits that keep the code readable: short files, short argument lists, a bare root."""

from __future__ import annotations

from pathlib import Path

from tools.structure import LINES, PARAMETERS, modules, parameters

ROOT = Path(__file__).resolve().parents[1]
FILES = modules(ROOT)
# one topic, the object that A1111 and Forge share; it grows no further
LONG = {"lora_eval.host.webui.host": 422}


def test_no_function_takes_more_than_eight_parameters():
    assert [name for count, name in parameters(FILES) if count > PARAMETERS] == []


def test_files_stay_short():
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert {name: count for name, count in lines.items() if count > LONG.get(name, LINES)} == {}


def test_the_root_of_the_package_is_bare():
    found = {path.stem for path in (ROOT / "lora_eval").glob("*.py")}
    assert found == {"__init__", "__main__", "errors", "files", "log"}
