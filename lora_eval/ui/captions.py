"""Captions made by a program, in the tab LoRA Train: who makes them, and how far it is."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lora_eval.errors import LoraEvalError
from lora_eval.service.jobs import ENDED, FINISHED
from lora_eval.ui import render, text
from lora_eval.ui.compat import Update, html, listen, section, transient
from lora_eval.ui.controller import Controller


def make(controller: Controller, element: str) -> dict[str, Any]:
    """A folded section: captioner, whether to replace what is there, the button, and what came of it."""
    known = controller.captioners()
    made: dict[str, Any] = {}
    with gr.Accordion(text.CAPTION_GROUP, open=False, elem_id=f"{element}_caption_group"):
        with gr.Row():
            label, info = text.CAPTION_BY
            made["by"] = gr.Dropdown(known, value=known[0], label=label, info=info, elem_id=f"{element}_caption_by")
            label, info = text.CAPTION_ANEW
            made["anew"] = transient(gr.Checkbox(False, label=label, info=info, elem_id=f"{element}_caption_anew"))
        made["start"] = gr.Button(text.CAPTION_MAKE, size="sm", elem_id=f"{element}_caption_start")
        made["refused"] = html(visible=False, elem_id=f"{element}_caption_refused")
        made["shown"] = html(visible=False, elem_id=f"{element}_caption_shown")
    return made


def wire(controller: Controller, made: dict[str, Any], about: list[Any]) -> None:
    """``about``: controls of folder, caption table, trigger and class word."""

    def start(by: str, anew: bool, folder: str, table: str, trigger: str, class_word: str) -> list[Update]:
        try:
            controller.caption(folder, table, by, trigger, class_word, anew)
        except LoraEvalError as error:
            return [section(render.message(str(error))), section(show(controller))]
        return [section(""), section(show(controller))]

    listen(made["start"].click, start, [made["by"], made["anew"], *about], [made["refused"], made["shown"]])


def show(controller: Controller) -> str:
    """The captioning that runs, or what came of the last one."""
    state = controller.captioning()
    if state is None:
        return ""
    if state.status not in ENDED:
        return render.job(state, None, "") + render.stop_button(state.id)
    if state.status != FINISHED:
        return render.job(state, None, "")
    lines = [render.good(text.WORDS["captions_saved"], state.result.get("changed", 0), text.WORDS["look_again"])]
    lines += [render.message(line) for line in state.result.get("failed", ())]
    lines += [render.message(line, "waits") for line in state.result.get("notes", ())]
    return "".join(lines)
