"""Which sentences the program can say: the templates in its source, as the catalogue of a language must have them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "lora_eval"
# whose strings reach a reader of the tab or the report
SENTENCES = (
    *("scorecard/verdicts.py", "scorecard/decide.py", "scorecard/advice.py", "scorecard/adaptive.py"),
    *("scorecard/references.py", "scorecard/extras.py", "scorecard/collect.py", "scorecard/run.py"),
    *("scorecard/draw.py", "scorecard/features.py"),
    *("scorecard/table.py", "scorecard/compare.py", "scorecard/compare_verdict.py"),
    *("scorecard/compare_pairs.py", "scorecard/compare_alike.py"),
    *("training/curve.py", "training/unrest.py"),
    *sorted(f"scorecard/measures/{path.name}" for path in (ROOT / "scorecard" / "measures").glob("*.py")),
)
PAGES = ("report/*.py", "ui/score_view.py", "ui/render.py")


def in_sentences(path: Path) -> dict[str, int]:
    """Template -> line of every string that is more than a name; holes as ``{0}``. Errors and docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: dict[str, int] = {}

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Expr) and _constant(node.value)):
            return
        # why an extra encoder is missing is a note of the report; other errors are not
        if isinstance(node, ast.Raise) and not (node.exc is not None and "Missing(" in ast.unparse(node.exc)):
            return
        if isinstance(node, ast.JoinedStr):
            template, number = "", 0
            for part in node.values:
                if isinstance(part, ast.Constant):
                    template += str(part.value)
                else:
                    template, number = template + f"{{{number}}}", number + 1
                    walk(part.value)  # type: ignore[attr-defined]
            found.setdefault(template, node.lineno)
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.setdefault(node.value, node.lineno)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(tree)
    return {template: line for template, line in found.items() if _says_something(template)}


def _constant(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant)


def _says_something(template: str) -> bool:
    words = re.sub(r"\{\d+\}", "", template)
    if re.search(r"\\d|\(\?|https?://", template) or not re.search(r"[A-Za-z]{2}", words):
        return False
    return " " in words.strip() or bool(re.search(r"[A-Za-z]{2,}", words) and "{" in template and " " in words)


def translated_calls(path: Path) -> set[str]:
    """First argument of each ``t("...")`` and ``words("...")``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("t", "words"):
            first = node.args[0]
            if isinstance(first, ast.Constant):
                found.add(str(first.value))
    return found
