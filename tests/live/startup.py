"""By how much the extension lengthens a WebUI's start, from the logs of starts with and without it.

``python -m tests.live.startup --with on-1.log on-2.log ... --without off-1.log off-2.log ...``

Logs are paired in the order given: start the WebUI by turns with and without the extension, so that a pair sees the
same machine, and keep what it printed. Read are the host's own line ``Startup time: 10.7s (import torch: 4.0s, ...)``
and, where whoever started it put one behind, ``CPU time: 9.6s`` of the whole process, which other programs on the
machine disturb less.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TOTAL, CPU = "Startup time", "CPU time"
# two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom; beyond, the normal's
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)


@dataclass(frozen=True)
class Lengthening:
    """Seconds that the extension adds to a phase: mean of the pairs' differences and its 95 % interval."""

    phase: str
    without: float
    mean: float
    half: float
    pairs: int


def read_start(log: Path) -> dict[str, float]:
    """Phase -> seconds of the last start in a log. Raises ValueError when there is none."""
    found: dict[str, float] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if whole := re.match(rf"{TOTAL}: ([\d.]+)s(?: \((.*)\)\.?)?", line):
            phases = re.findall(r"([^:,(]+): ([\d.]+)s", whole[2] or "")
            found = {TOTAL: float(whole[1]), **{name.strip(): float(seconds) for name, seconds in phases}}
        elif cpu := re.match(rf"{CPU}: ([\d.]+)s", line):
            found[CPU] = float(cpu[1])
    if TOTAL not in found:
        raise ValueError(f"{log} has no line {TOTAL!r}; did the WebUI come up?")
    return found


def lengthening(with_it: Sequence[dict[str, float]], without: Sequence[dict[str, float]]) -> list[Lengthening]:
    """Each phase that both kinds of start print; a phase too short to be printed counts as 0. Raises ValueError."""
    if len(with_it) != len(without) or not with_it:
        raise ValueError(f"{len(with_it)} logs with and {len(without)} without the extension; give pairs")
    phases = dict.fromkeys(phase for start in (*with_it, *without) for phase in start)
    found = []
    for phase in phases:
        off = [start.get(phase, 0.0) for start in without]
        differences = [start.get(phase, 0.0) - before for start, before in zip(with_it, off, strict=True)]
        half = math.inf
        if len(differences) > 1:
            t = _T95[len(differences) - 2] if len(differences) - 2 < len(_T95) else 1.96
            half = t * statistics.stdev(differences) / math.sqrt(len(differences))
        found.append(Lengthening(phase, statistics.mean(off), statistics.mean(differences), half, len(differences)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--with", dest="with_it", nargs="+", type=Path, required=True, metavar="LOG")
    parser.add_argument("--without", nargs="+", type=Path, required=True, metavar="LOG")
    given = parser.parse_args()
    starts = ([read_start(log) for log in logs] for logs in (given.with_it, given.without))
    for one in lengthening(*starts):
        print(f"{one.phase:24s} {one.without:6.2f} s  {one.mean:+.2f} s ± {one.half:.2f} ({one.pairs} pairs)")


if __name__ == "__main__":
    main()
