"""Both tabs as the WebUI registers them."""

from __future__ import annotations

from typing import Any

from lora_eval.host.current import current_host
from lora_eval.service.jobs import queue
from lora_eval.ui import score_tab, text, train_tab
from lora_eval.ui.controller import Controller


def tabs(controller: Controller | None = None) -> list[tuple[Any, str, str]]:
    """(blocks, title, element id) of each tab; ``controller`` by default that of the current host and its queue."""
    controller = controller or Controller(current_host, queue)
    return [
        (train_tab.make(controller), text.TRAIN_TITLE, train_tab.ELEMENT),
        (score_tab.make(controller), text.SCORE_TITLE, score_tab.ELEMENT),
    ]
