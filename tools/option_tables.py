"""Write the tables of options into the documentation: ``python -m tools.option_tables [--check]``.

A table stands between ``<!-- options TrainConfig: key, key -->`` (or ``ScoreRequest:``) and ``<!-- end -->``; it is
made from the fields' own metadata. ``--check`` changes nothing and fails when a page is out of date or a field is in
no table.
"""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path

from lora_eval.options.table import markdown_table
from lora_eval.scorecard.plan.request import SCORE_FIELDS, ScoreRequest
from lora_eval.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "training.md", ROOT / "docs" / "api.md")
OWNERS = {"TrainConfig": TrainConfig, "ScoreRequest": ScoreRequest}
BODY_KEYS = {name: str(one.metadata.get("body", name)) for name, one in SCORE_FIELDS.items()}
_MARK = re.compile(r"<!-- options (\w+): ([\w, ]+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(text: str, seen: dict[str, list[str]]) -> str:
    """``text`` with every table made anew; ``seen`` collects the fields by class."""

    def table(match: re.Match[str]) -> str:
        names = [name.strip() for name in match[2].split(",")]
        seen.setdefault(match[1], []).extend(names)
        made = markdown_table(OWNERS[match[1]], names, BODY_KEYS if match[1] == "ScoreRequest" else None)
        return f"<!-- options {match[1]}: {', '.join(names)} -->\n{made}\n<!-- end -->"

    return _MARK.sub(table, text)


def main(argv: list[str]) -> int:
    """Write the pages, or compare them."""
    seen: dict[str, list[str]] = {}
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        made = filled(text, seen)
        if made != text:
            stale.append(page.name)
            if "--check" not in argv:
                page.write_text(made, encoding="utf-8")
    missing = [
        one.name for name, owner in OWNERS.items() for one in fields(owner) if one.name not in seen.get(name, [])
    ]
    for name in missing:
        print(f"{name} is in no table; add it to a mark in docs/")
    for name in stale:
        print(f"docs/{name}: the tables {'are out of date' if '--check' in argv else 'are written'}")
    return 1 if missing or (stale and "--check" in argv) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
