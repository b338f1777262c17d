"""The files of a report: two tables, the JSON and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_eval.report.card import write_card
from lora_eval.report.page import write_page
from lora_eval.scorecard.data import Measurement, RunData, Scorecard
from lora_eval.scorecard.decision.decide import decide
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.tables import write_cells, write_summary


def write_results(
    folder: RunFolder, data: RunData, measurement: Measurement, shown: dict[str, Path], origin: dict[str, Any]
) -> Scorecard:
    """Decide, and write the two tables, the JSON and the page."""
    card = decide(data, measurement)
    card.provenance = {**origin, **card.provenance}
    write_cells(folder.cells_file, data.cells, measurement.cell_metrics)
    write_summary(folder.summary_file, measurement.summary)
    write_card(folder.card_file, card)
    write_page(folder.page_file, data, measurement, card, folder.root, shown)
    return card
