"""The files of a comparison: ``compare.csv``, ``compare.json`` and ``compare.html``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_eval.files import make_folder, write_json, write_text
from lora_eval.report.card import plain
from lora_eval.report.compare_page import write_page
from lora_eval.scorecard.comparison.compare import Comparison
from lora_eval.scorecard.comparison.verdict import Row
from lora_eval.scorecard.tables import to_csv

SCHEMA = 1


def write_comparison(out: Path | str, comparison: Comparison) -> Path:
    """Write ``compare.csv``, ``compare.json`` and ``compare.html``; returns the page. Raises RunError."""
    folder = make_folder(Path(out))
    columns = list(Row.__dataclass_fields__)
    table = to_csv(columns, ([getattr(row, name) for name in columns] for row in comparison.rows))
    write_text(folder / "compare.csv", table)
    write_json(folder / "compare.json", to_json(comparison))
    write_page(folder / "compare.html", comparison)
    return folder / "compare.html"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """``{"schema", "verdict", "sides", "rows", "notes", "provenance"}``, JSON-safe."""
    sides = [
        {"label": s.label, "run": s.run.id, "folder": s.run.name, "checkpoint": s.checkpoint, "step": s.step,
         "weight": s.weight, "sha256": s.sha256, "pictures": len(s.pictures)}
        for s in comparison.sides
    ]  # fmt: skip
    rows = [asdict(row) for row in comparison.rows]
    whole = {"schema": SCHEMA, "verdict": comparison.verdict, "sides": sides, "rows": rows}
    return dict(plain({**whole, "notes": comparison.notes, "provenance": comparison.provenance}))
