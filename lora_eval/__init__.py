"""LoRA Eval: train a LoRA on the model in memory, and say with numbers whether it is good.

``from lora_eval import StandaloneHost, TrainConfig, load_config, train, ScoreRequest, score, measure_table, compare,
read_card``. The package imports without a WebUI and without torch: each of these names is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ScoreRequest": "scorecard.plan.request",
    "StandaloneHost": "host.standalone",
    "TrainConfig": "training.config",
    "compare": "scorecard.comparison.compare",
    "load_config": "training.config",
    "measure_table": "service.measured",
    "read_card": "service.scoring",
    "score": "service.scoring",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"lora_eval.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lora_eval' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
