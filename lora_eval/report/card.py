"""``scorecard.json``: the decision for programs."""

from __future__ import annotations

import math
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lora_eval.files import write_json
from lora_eval.scorecard.data import Dimension, Scorecard
from lora_eval.scorecard.dimensions.registry import NAMES

SCHEMA = 1


def card_json(card: Scorecard) -> dict[str, Any]:
    """The scorecard as JSON-safe values.

    ``{"schema", "verdict", "recommended": {"checkpoint", "weight"}, "tie", "leaderboard", "dimensions",
    "advice", "gates", "provenance"}``; ``dimensions`` is by name ``{"score", "ci_low", "ci_high", "n",
    "verdict", "reason", "evidence"}``, and one that was not measured has score null and its reason.
    """
    dimensions = {}
    for name in NAMES:
        found = card.dimensions.get(name) or Dimension(name, None, None, None, 0, "not measured", "was not looked at")
        dimensions[name] = {key: value for key, value in asdict(found).items() if key != "name"}
    return {
        "schema": SCHEMA,
        "verdict": card.verdict,
        "recommended": {"checkpoint": card.checkpoint, "weight": plain(card.weight)},
        "tie": plain(card.tie),
        "leaderboard": plain(card.leaderboard),
        "dimensions": plain(dimensions),
        "advice": [asdict(advice) for advice in card.advice],
        "gates": list(card.gates),
        "provenance": plain(card.provenance),
    }


def write_card(path: Path, card: Scorecard) -> None:
    """Write ``scorecard.json``. Raises RunError."""
    write_json(path, card_json(card))


def plain(value: Any) -> Any:
    """Python's own types only: arrays to lists, numbers that are not finite to None, keys to text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return str(value)
