"""Does it work, and how fast is it, on a GPU? One command, section by section, each in a process of its own.

    python -m benchmarks gpu_check [--out DIR] [--sections contract,gradients,...] [--cpu --tiny]

| section | what it shows | limit, s |
|---|---|---|
| models | writes random full-size SD1.5 and SDXL (``tools.full_size``) | 100 |
| contract | training in fp32, fp16, bf16, checkpointing: tensors and a picture identical, 0 bytes left | 90 |
| gradients | gradients of our hooks against peft's on the same weights; sdpa and sliced attention, checkpointing | 45 |
| speed | SD1.5 512 px batch 1 and 4: our whole step against peft + diffusers and a bare forward and backward | 75 |
| speed_sdxl | SDXL 1024 px batch 1 and 2, the same | 110 |
| embedding | ViT-B-32 and ViT-L-14 on 512-px pictures against a bare open_clip loop | 30 |
| scorecard | 64 pictures: the whole scorecard against its drawing alone | 60 |
| memory | out of memory provoked by a limit: the next smaller settings, a finished run | 45 |
| tests | the repository's own tests of hosts, layers and training | 120 |

The script continues past a section that fails or overruns. It prints one table and writes ``gpu_check.json``; what
could not be measured says why. ``--cpu --tiny`` runs all but ``models``, ``speed_sdxl`` and ``tests`` on the shipped
tiny model.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIMITS = {
    "models": 100,
    "contract": 90,
    "gradients": 45,
    "speed": 75,
    "speed_sdxl": 110,
    "embedding": 30,
    "scorecard": 60,
    "memory": 45,
    "tests": 120,
}


def main(argv: list[str]) -> int:
    """Run the sections; 0 when each of them passed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu_check")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu-check"))
    parser.add_argument("--sections", help=f"of {', '.join(LIMITS)}; default: all")
    parser.add_argument("--cpu", action="store_true", help="on the processor")
    parser.add_argument("--tiny", action="store_true", help="with the shipped tiny model in place of full-size ones")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.section:
        from benchmarks import _gpu_sections

        found = getattr(_gpu_sections, options.section)(options)
        (options.out / f"{options.section}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        return 0
    names = options.sections.split(",") if options.sections else list(LIMITS)
    if options.tiny:
        names = [name for name in names if name not in ("models", "speed_sdxl", "tests")]
    whole: dict[str, Any] = {"device": device_name(options.cpu), "sections": {}}
    print(f"{whole['device']}", flush=True)
    for name in names:
        whole["sections"][name] = run_section(name, options)
        (options.out / "gpu_check.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
        print(rows_of(name, whole["sections"][name]), flush=True)
    failed = [name for name, found in whole["sections"].items() if not found["passed"]]
    print("all sections passed" if not failed else f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def run_section(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One section in its own process, ended at its limit: ``passed``, ``seconds``, ``rows`` and, if any, ``error``."""
    command = [sys.executable, "-m", "benchmarks", "gpu_check", "--section", name, "--out", str(options.out)]
    command += [flag for flag, given in (("--cpu", options.cpu), ("--tiny", options.tiny)) if given]
    result = options.out / f"{name}.json"
    result.unlink(missing_ok=True)
    began = time.monotonic()
    error = ""
    with (options.out / f"{name}.log").open("w", encoding="utf-8") as log:
        try:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, timeout=LIMITS.get(name, 60)
            ).returncode
            if code:
                error = f"ended with code {code}"
        except subprocess.TimeoutExpired:
            error = f"not measured: more than {LIMITS[name]} s"
    if error:
        lines = (options.out / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        error += f": {lines[-1][:300]}" if lines else ""
    rows = json.loads(result.read_text(encoding="utf-8")) if result.exists() else []
    passed = not error and all(row.get("passed", True) for row in rows)
    return {"passed": passed, "seconds": round(time.monotonic() - began, 1), "rows": rows, "error": error}


def rows_of(name: str, found: dict[str, Any]) -> str:
    """A section as lines of the table."""
    lines = [f"| {name} | {'passed' if found['passed'] else 'FAILED'} | {found['seconds']:.0f} s | {found['error']} |"]
    for row in found["rows"]:
        text = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                         for key, value in row.items() if key not in ("what", "passed"))  # fmt: skip
        lines.append(f"|  | {'' if row.get('passed', True) else 'FAILED '}{row['what']} | | {text} |")
    return "\n".join(lines)


def device_name(cpu: bool) -> str:
    """The machine that the figures belong to."""
    import torch

    if cpu or not torch.cuda.is_available():
        return f"{platform.system()} {platform.machine()} processor, torch {torch.__version__}"
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
