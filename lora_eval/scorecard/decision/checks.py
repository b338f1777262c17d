"""Which checks failed at which checkpoint and weight.

Each dimension declares its own checks (:class:`lora_eval.scorecard.dimensions.spec.Check`); a failed one excludes the
weight, whatever its likeness. They compare 95 % intervals with limits; where there is no interval, the value. Data
files and the report call a check a gate.
"""

from __future__ import annotations

from lora_eval.scorecard.dimensions.place import Place, SummaryIndex
from lora_eval.scorecard.dimensions.registry import CHECKS
from lora_eval.scorecard.grid import Grid

# pictures that fail one of these are broken or ignore the prompt, and say nothing about other dimensions
SPOILING = frozenset(check.name for _, check in CHECKS if check.spoils)


def failed_checks(grid: Grid, index: SummaryIndex) -> list[list[str]]:
    """Names of the failed checks of each condition, in the order of their ranks."""
    return [failed_at(Place(condition, index)) for condition in grid.conditions]


def failed_at(place: Place) -> list[str]:
    """Names of the checks that fail at a place, in the order of their ranks."""
    results = {spec.name: spec.read(place) for spec, _ in CHECKS}
    return [check.name for spec, check in CHECKS if check.fails(results[spec.name], place)]


def check_notes(grid: Grid, failed: list[list[str]]) -> list[str]:
    """Where each check failed, one line for each checkpoint: ``distortion: zorp-300 at weight 1, 1.2``."""
    lines: dict[tuple[str, str], list[float]] = {}
    for condition, names in zip(grid.conditions, failed, strict=True):
        for name in names:
            lines.setdefault((name, condition.checkpoint), []).append(condition.weight)
    return [
        f"{name}: {checkpoint} at weight {', '.join(f'{w:g}' for w in weights)}"
        for (name, checkpoint), weights in lines.items()
    ]
