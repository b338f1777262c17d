"""Which sentences the program can say: the templates in its source, as the catalogue of a language must have them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "lora_eval"
# whose strings reach a reader of the tab or the report
SENTENCES = (
    *("scorecard/verdicts.py", "scorecard/findings.py", "scorecard/decide.py", "scorecard/gates.py"),
    *("scorecard/advice.py", "scorecard/adaptive.py"),
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


# whose errors and lines of progress a user of the tabs meets
ERRORS = (
    *("actions.py", "captioning.py", "desk.py", "estimate.py", "files.py", "library.py", "training_pictures.py"),
    *("ui/order.py", "dataset/captions.py", "dataset/encode.py", "dataset/folder.py", "dataset/images.py"),
    *("dataset/split.py", "host/a1111.py", "host/current.py", "host/forge.py", "host/staging.py", "host/webui.py"),
    *("host/webui_draw.py", "host/webui_interrogate.py", "host/webui_queue.py", "lora/files.py", "lora/targets.py"),
    *("scorecard/adaptive.py", "scorecard/checkpoints.py", "scorecard/compare.py", "scorecard/compare_alike.py"),
    *("scorecard/compare_runs.py", "scorecard/compare_sides.py", "scorecard/draw.py", "scorecard/embed.py"),
    *("scorecard/features.py", "scorecard/plan.py", "scorecard/planning.py", "scorecard/ranges.py"),
    *("scorecard/run.py", "scorecard/store.py", "scorecard/suites.py", "training/config.py", "training/keeping.py"),
    *("training/kohya.py", "training/memory.py", "training/negatives.py", "training/optim.py", "training/prepare.py"),
    *("training/presets.py", "training/resume.py", "training/run.py", "training/session.py", "training/settings.py"),
    *("training/step.py", "training/stopping.py", "training/templates.py"),
)
# whose findings and notes they read; texts that never change are in the WebUI's catalogue
NOTES = ("captioning.py", "dataset/check.py", "training/kohya.py", "training/memory.py", "training/watch.py")
_SAID = re.compile(r"\w*Error|Diverged|Early|say|advance|Interrupted|Problem")
_NOT = ("ValueError", "TypeError", "AttributeError", "KeyError")


def in_errors(path: Path) -> dict[str, int]:
    """Template -> line of every error that is made and every line of progress that is said, holes as ``{0}``."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if _SAID.fullmatch(name) and name not in _NOT:
                # an error's message comes first; of a problem and of progress any text may
                for one in node.args if not name.endswith("Error") else node.args[:1]:
                    for part in ast.walk(one) if isinstance(one, (ast.IfExp, ast.BinOp)) else (one,):
                        if isinstance(part, (ast.JoinedStr, ast.Constant)) and (made := _template(part)):
                            found.setdefault(made, node.lineno)
    return {template: line for template, line in found.items() if _says_something(template)}


def _template(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    holes = iter(range(100))
    parts = node.values if isinstance(node, ast.JoinedStr) else []
    return "".join(str(part.value) if isinstance(part, ast.Constant) else f"{{{next(holes)}}}" for part in parts)


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
