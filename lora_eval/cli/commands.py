"""What each command of the command line does: a function takes the parsed arguments and returns the exit code."""

from __future__ import annotations

from lora_eval.cli.common import DEMO_CONFIG, DEMO_DATA
from lora_eval.cli.dataset import caption, check
from lora_eval.cli.page import demo, ui
from lora_eval.cli.scoring import compare, measure, report, score
from lora_eval.cli.training import convert, curve, train

__all__ = [
    "DEMO_CONFIG", "DEMO_DATA", "caption", "check", "compare", "convert", "curve", "demo", "measure", "report", "score",
    "train", "ui",
]  # fmt: skip
