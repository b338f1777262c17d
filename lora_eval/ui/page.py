"""What the page's own script asks for, in both tabs: a whole picture, a waiting job taken out of the queue.

Each tab has its own hidden buttons: a tab that was never opened is not in the page at all in newer gradio.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from lora_eval.ui import pictures, render, text
from lora_eval.ui.compat import Update, html, listen, section
from lora_eval.ui.controller import Controller

HIDDEN = ["lora-eval-hidden"]


def job_buttons(element: str, start: str) -> tuple[gr.Button, gr.Button]:
    """The buttons that start and interrupt the tab's job; ``start``: what the first says. Made where a row is open."""
    return (
        gr.Button(start, variant="primary", scale=3, min_width=120, elem_id=f"{element}_start"),
        gr.Button(text.INTERRUPT, variant="stop", scale=1, min_width=90, elem_id=f"{element}_interrupt"),
    )


def make_requests(element: str) -> dict[str, Any]:
    """The hidden buttons and where their answers go."""
    made: dict[str, Any] = {
        name: gr.Button(name, elem_id=f"{element}_{name}", elem_classes=HIDDEN)
        for name in ("poll", "whole", "cancel", "again")
    }
    for name in ("answer", "tick"):
        made[name] = html(elem_id=f"{element}_{name}", elem_classes=HIDDEN)
    made["state"] = gr.State(None)
    return made


def wire_requests(controller: Controller, kind: str, shown: dict[str, Any], stand_in: Any) -> None:
    """``stand_in``: a component that holds a text; the script's answer takes the place of its value."""

    def whole(key: str) -> str:
        source = pictures.whole(str(key))
        return f'<img data-le-key="{render.escaped(key)}" src="{source}" alt="">' if source else ""

    def cancel(id: str) -> Update:
        controller.interrupt(str(id))
        return section(render.queue(controller.waiting(), kind))

    def again(id: str) -> Update:
        controller.resume(str(id))
        return section(render.queue(controller.waiting(), kind))

    listen(shown["whole"].click, whole, [stand_in], [shown["answer"]], js="() => [loraEval.picture]", quiet=True)
    for name, act in (("cancel", cancel), ("again", again)):
        listen(shown[name].click, act, [stand_in], [shown["queue"]], js="() => [loraEval.job]", quiet=True)


def tick(number: int) -> str:
    """Tells the script that its question was answered."""
    return f'<i data-le-tick="{number}"></i>'
