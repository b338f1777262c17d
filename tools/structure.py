"""How the package is built, in numbers: ``python -m tools.structure [FOLDER] [--measure NAME]``.

Reads the source of a checkout (this one by default) as text; nothing is imported or changed. It counts

- modules at the package's root, folders, and Python files over 400 lines;
- circles: groups of modules that import one another, imports inside functions included;
- folders that import each other, in either direction (a folder is the first level below the package);
- the most parameters of a function, ``self`` not counted, and how many functions take more than 8;
- files that name one measure (``data_copying`` by default): what adding such a measure would touch;
- repeated code: places of six or more equal lines, imports, blank lines and comments left out.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from pathlib import Path

LINES = 400
PARAMETERS = 8
REPEATED = 6


def modules(root: Path) -> dict[str, Path]:
    """Dotted name of every module of the package -> its file."""
    found = {}
    for path in sorted((root / "lora_eval").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, files: dict[str, Path]) -> set[str]:
    """Every module that a file names in an import, at its top or inside a function; ``files`` are the package's own."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & files.keys()
            found |= inside if len(inside) == len(node.names) else inside | {node.module}
    return found


def import_graph(files: dict[str, Path]) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports anywhere in its source."""
    return {name: (imports(path, files) & files.keys()) - {name} for name, path in files.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan, SIAM J. Comput. 1, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            part = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(part) > 1:
                found.append(sorted(part))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def folder_circles(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Pairs of folders whose modules import each other."""

    def folder(name: str) -> str:
        parts = name.split(".")
        return parts[1] if len(parts) > 2 else ""

    edges = {(folder(a), folder(b)) for a, others in graph.items() for b in others}
    return sorted((a, b) for a, b in edges if a and b and a < b and (b, a) in edges)


def parameters(files: dict[str, Path]) -> list[tuple[int, str]]:
    """Every function as (number of parameters without ``self``, name), most first."""
    found = []
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                given = [*node.args.posonlyargs, *node.args.args]
                own = bool(given) and given[0].arg in ("self", "cls")
                found.append((len(given) + len(node.args.kwonlyargs) - own, f"{name}.{node.name}"))
    return sorted(found, reverse=True)


def naming(root: Path, measure: str) -> list[str]:
    """Files of the package, its languages included, that hold the word ``measure``."""
    wanted = [*(root / "lora_eval").rglob("*.py"), *(root / "lora_eval").rglob("*.json"), *root.glob("localizations/*")]
    return sorted(
        path.relative_to(root).as_posix()
        for path in wanted
        if measure in path.read_text(encoding="utf-8", errors="ignore")
    )


def repeated(files: dict[str, Path]) -> int:
    """Number of places that begin a run of ``REPEATED`` lines which stands elsewhere too."""
    windows: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, path in files.items():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if line and not line.startswith(("#", "import ", "from "))]
        for at in range(len(lines) - REPEATED + 1):
            windows[tuple(lines[at : at + REPEATED])].append((name, at))
    places = {place for found in windows.values() if len(found) > 1 for place in found}
    return sum((name, at - 1) not in places for name, at in places)


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tools.structure", description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--measure", default="data_copying", help="a measure's name in summary.csv")
    options = parser.parse_args(argv)
    files = modules(options.folder)
    graph = import_graph(files)
    long = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in files.items()}
    over = sorted((count, name) for name, count in long.items() if count > LINES)
    most = parameters(files)
    touched = naming(options.folder, options.measure)
    package = options.folder / "lora_eval"
    folders = [path for path in package.rglob("*") if path.is_dir() and any(path.glob("*.py"))]
    fullest = max(((len(list(path.glob("*.py"))), path.name) for path in folders), default=(0, ""))
    rows = [
        ("Python files, lines", f"{len(files)}, {sum(long.values())}"),
        ("modules at the package's root", len(list(package.glob("*.py")))),
        ("files in the fullest folder", f"{fullest[0]} ({fullest[1]})"),
        (f"files over {LINES} lines", ", ".join(f"{name} {count}" for count, name in over) or 0),
        ("circles of modules", "; ".join(" <-> ".join(part) for part in circles(graph)) or 0),
        ("folders that import each other", ", ".join(f"{a} <-> {b}" for a, b in folder_circles(graph)) or 0),
        ("most parameters of a function", f"{most[0][0]} ({most[0][1]})"),
        (f"functions with more than {PARAMETERS} parameters", sum(count > PARAMETERS for count, _ in most)),
        (f"files that name {options.measure}", f"{len(touched)}: {', '.join(touched)}"),
        (f"places that repeat {REPEATED} lines or more", repeated(files)),
    ]
    for name, value in rows:
        print(f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
