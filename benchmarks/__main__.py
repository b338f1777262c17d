"""Run a benchmark by name, or list them."""

from __future__ import annotations

import importlib
import pkgutil
import platform
import sys
from pathlib import Path

import torch

import benchmarks


def machine() -> str:
    """What the figures were measured on, without naming the machine."""
    return f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def main() -> int:
    """``python -m benchmarks NAME [options]``; without a name the list."""
    folder = str(Path(benchmarks.__file__).parent)
    names = sorted(m.name for m in pkgutil.iter_modules([folder]) if not m.name.startswith("_"))
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        for name in names:
            summary = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").strip().split("\n")[0]
            print(f"python -m benchmarks {name:<12} {summary}")
        return 0 if len(sys.argv) < 2 else 2
    print(f"machine: {machine()}")
    return int(importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
