"""Both tabs as the WebUI registers them."""

from __future__ import annotations

from typing import Any

from lora_eval.host.current import current_host
from lora_eval.service.jobs import queue
from lora_eval.ui import score_tab, text, train_tab
from lora_eval.ui.controller import Desk


def tabs(desk: Desk | None = None) -> list[tuple[Any, str, str]]:
    """(blocks, title, element id) of each tab; ``desk`` by default that of the current host and its queue."""
    desk = desk or Desk(current_host, queue)
    return [
        (train_tab.make(desk), text.TRAIN_TITLE, train_tab.ELEMENT),
        (score_tab.make(desk), text.SCORE_TITLE, score_tab.ELEMENT),
    ]
