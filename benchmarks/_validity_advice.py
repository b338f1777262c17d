"""Is the advised weight the best one, and the advised checkpoint? By what the reader saw of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# what the reader finds within this of the best is equally good
EQUAL = 0.02
# weights within this of each other are one, rounding aside
WEIGHT_OFF = 0.1 + 1e-9

Result = dict[str, Any]


@dataclass(frozen=True)
class Advised:
    """What an advice lacks to the best, on pictures drawn for nothing but this comparison.

    Attributes:
        weight_off: distance to the nearest of the best weights of the advised checkpoint.
        quality_lost: quality that the advised weight lacks to the best of that checkpoint.
        checkpoint_lost: concept accuracy that the advised checkpoint lacks to the best one, each at the weight that
            its grid shows to be its best.
        surely_worse: whether that is more than ``EQUAL`` by the 95 % interval, picture by picture.
    """

    weight_off: float
    quality_lost: float
    checkpoint_lost: float
    surely_worse: bool

    @property
    def near(self) -> bool:
        """Whether the weight is within .1 of a best one."""
        return self.weight_off <= WEIGHT_OFF

    @property
    def equal(self) -> bool:
        """Whether the checkpoint is within 2 points of the best one."""
        return self.checkpoint_lost <= EQUAL + 1e-9


def best_weights(truth: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Per checkpoint the weight at which the grid shows the concept most often; of equals the one of most quality."""
    found: dict[str, dict[str, Any]] = {}
    for entry in truth:
        name = entry["checkpoint"]
        if name and (name not in found or _rank(entry) > _rank(found[name])):
            found[name] = entry
    return {name: float(entry["weight"]) for name, entry in found.items()}


def _rank(entry: dict[str, Any]) -> tuple[float, float]:
    return entry["accuracy"], entry["quality"]


def on_fresh(result: Result) -> Advised | None:
    """The advice on fresh pictures; None where there are none of the advised weight."""
    named = {(e["checkpoint"], e["weight"]): np.array(e["named"], dtype=float) for e in result.get("fresh", [])}
    right = {(e["checkpoint"], e["weight"]): np.array(e["right"], dtype=float) for e in result.get("fresh", [])}
    advised = result["checkpoint"]
    if (advised, result["weight"]) not in named:
        return None
    quality = {w: float((named[c, w] * right[c, w]).mean()) for c, w in named if c == advised}
    top = max(quality.values())
    best = [weight for weight, value in quality.items() if value >= top - EQUAL - 1e-9]
    shown = {name: named[name, weight] for name, weight in best_weights(result["truth"]).items()}
    leader = max(shown.values(), key=lambda hits: float(hits.mean()))
    return Advised(
        min(abs(result["weight"] - weight) for weight in best),
        top - quality[result["weight"]],
        float(leader.mean() - shown[advised].mean()),
        surely_more(leader - shown[advised]),
    )


def surely_more(differences: np.ndarray) -> bool:
    """Whether the mean of paired differences is more than ``EQUAL`` with its 95 % interval."""
    margin = 1.96 * float(differences.std(ddof=1)) / len(differences) ** 0.5
    return float(differences.mean()) - margin > EQUAL


# -- by the pictures of the scorecard -----------------------------------------------------------


def weight_off(result: Result) -> float | None:
    """Distance of the advised weight to the nearest of the best of the grid, at the advised checkpoint."""
    if result["weight"] is None:
        return None
    mine = [t for t in result["truth"] if t["checkpoint"] == result["checkpoint"]]
    top = max(t["quality"] for t in mine)
    return min(abs(result["weight"] - t["weight"]) for t in mine if t["quality"] >= top - EQUAL)


def checkpoint_lost(result: Result) -> float | None:
    """Concept accuracy that the advised checkpoint lacks to the best one, each at its best weight of the grid."""
    if result["checkpoint"] is None:
        return None
    best: dict[str, float] = {}
    for t in result["truth"]:
        if t["checkpoint"]:
            best[t["checkpoint"]] = max(best.get(t["checkpoint"], 0.0), t["accuracy"])
    return max(best.values()) - best[result["checkpoint"]]


def reader_choice(result: Result) -> bool | None:
    """Whether the weight that the reader likes best on the scorecard's own pictures is near the best on fresh ones.

    What so few pictures can tell at all: nobody sees more in them than he who knows the truth. None without advice.
    """
    mine = [t for t in result["truth"] if t["checkpoint"] and t["checkpoint"] == result["checkpoint"]]
    if not mine:
        return None
    found = on_fresh({**result, "weight": max(mine, key=lambda t: t["quality"])["weight"]})
    return None if found is None else found.near
