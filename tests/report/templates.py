"""Which sentences the program can say: the templates in its source, as the catalogue of a language must have them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "lora_eval"
# whose strings reach a reader of the tab or the report
SENTENCES = (
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "scorecard" / "decision").glob("*.py")),
    *(
        "scorecard/features/references.py",
        "scorecard/features/extras.py",
        "encoders/protocol.py",
        "encoders/dinov2.py",
        "encoders/insight_face.py",
        "scorecard/features/collect.py",
        "service/scoring.py",
    ),
    "scorecard/draw/draw.py",
    "scorecard/features/cache.py",
    "service/measured/run.py",
    "service/measured/said.py",
    "scorecard/comparison/compare.py",
    "scorecard/comparison/verdict.py",
    "scorecard/comparison/pairs.py",
    "scorecard/comparison/comparable.py",
    "training/curve.py",
    "training/unrest.py",
    *sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "scorecard" / "dimensions").glob("**/*.py")
        # errors of formulas reach programmers alone
        if path.name != "formulas.py"
    ),
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
        if isinstance(node, ast.Raise) and not (node.exc is not None and "Missing" in ast.unparse(node.exc)):
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
    *(
        "service/submit.py",
        "dataset/captioning.py",
        "ui/controller.py",
        "service/estimate.py",
        "files.py",
        "service/library.py",
        "service/training_pictures.py",
    ),
    "ui/request.py",
    "scorecard/plan/request.py",
    "scorecard/plan/presets.py",
    "dataset/captions.py",
    "dataset/encode.py",
    "dataset/folder.py",
    "dataset/images.py",
    "dataset/sidecars.py",
    "dataset/tables.py",
    *(
        "dataset/split.py",
        "host/webui/a1111.py",
        "host/current.py",
        "host/webui/forge.py",
        "host/webui/staging.py",
        "host/webui/host.py",
    ),
    "host/webui/draw.py",
    "host/webui/interrogate.py",
    "host/webui/queue.py",
    "lora/files.py",
    "lora/adapter_file.py",
    "lora/adapter_match.py",
    "lora/targets.py",
    *(
        "scorecard/decision/adaptive.py",
        "scorecard/plan/checkpoints.py",
        "scorecard/comparison/compare.py",
        "scorecard/comparison/comparable.py",
    ),
    "scorecard/comparison/runs.py",
    "scorecard/comparison/sides.py",
    "scorecard/draw/draw.py",
    "encoders/clip.py",
    "encoders/registry.py",
    "scorecard/features/cache.py",
    "scorecard/plan/plan.py",
    "scorecard/plan/make.py",
    "scorecard/plan/ranges.py",
    *(
        "service/scoring.py",
        "scorecard/draw/store.py",
        "scorecard/plan/suites.py",
        "training/config.py",
        "training/keeping.py",
    ),
    "training/kohya.py",
    "training/kohya_dataset.py",
    "training/memory.py",
    "training/negatives.py",
    "training/optim.py",
    "training/prepare.py",
    "training/presets.py",
    "training/resume.py",
    "training/run.py",
    "training/session.py",
    "options/option.py",
    "training/step.py",
    "training/stopping.py",
    "training/templates.py",
)
# whose findings and notes they read; texts that never change are in the WebUI's catalogue
NOTES = (
    *("dataset/captioning.py", "dataset/check.py", "dataset/colour.py", "dataset/folder.py", "dataset/inventory.py"),
    *("training/kohya.py", "training/memory.py", "training/watch.py"),
)
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
