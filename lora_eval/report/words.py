"""Words of the report and the tab. Those of one dimension are in its module, and are collected here."""

from __future__ import annotations

from lora_eval.scorecard.dimensions.registry import DIMENSIONS

TITLES = {spec.name: spec.title for spec in DIMENSIONS}
QUESTIONS = {spec.name: spec.question for spec in DIMENSIONS}
COMPARED = {spec.name: spec.compared for spec in DIMENSIONS}
ROLE_WORDS = {
    "plain": "the concept as trained",
    "fidelity": "key features in other poses",
    "challenge": "new scene, style or action",
    "composition": "several things asked for at once",
    "negative": "with a negative prompt",
    "unrelated": "without the trigger",
}
_COLUMNS = sorted((column for spec in DIMENSIONS for column in spec.columns), key=lambda column: column.rank)
# cells.csv column -> (words, decimals, what it is in a sentence), in the order shown under a picture
CELL_FACTS = {column.name: (column.label, column.digits, column.about) for column in _COLUMNS}
# how a metric colours a map: gain (blue above 0, orange below), level (more is bluer), fault (more is oranger)
COLOURS = {column.name: column.colour for column in _COLUMNS if column.colour}
AXIS_TITLES = {"weight": "weight", "checkpoint": "checkpoint", "prompt": "prompt", "seed": "seed"}
