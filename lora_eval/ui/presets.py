"""The settings of the tab LoRA Train as text, under a name, and from a file."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lora_eval.errors import LoraEvalError
from lora_eval.ui import form, render, text
from lora_eval.ui.compat import Update, html, keep, listen, open_choice, section, transient
from lora_eval.ui.controller import Controller


def make(controller: Controller, element: str) -> dict[str, Any]:
    """A folded section: presets, a file to take settings from, and the settings as YAML."""
    made: dict[str, Any] = {}
    with gr.Accordion(text.CONFIG, open=False, elem_id=f"{element}_yaml_group"):
        with gr.Row():
            made["name"] = transient(
                open_choice(controller.presets(), text.PRESET_NAME, f"{element}_kept_preset", scale=3)
            )
            for key, words in (("load", text.PRESET_LOAD), ("save", text.PRESET_SAVE)):
                made[key] = gr.Button(
                    words,
                    size="sm",
                    scale=1,
                    min_width=80,
                    elem_id=f"{element}_kept_preset_{key}",
                    elem_classes=["lora-eval-low"],
                )
        made["file"] = transient(
            gr.File(label=text.SETTINGS_FILE, file_types=[".yaml", ".yml", ".toml"], elem_id=f"{element}_config_file")
        )
        with gr.Row():
            made["show"] = gr.Button(text.CONFIG_SHOW, size="sm", elem_id=f"{element}_yaml_show")
            made["use"] = gr.Button(text.CONFIG_USE, size="sm", elem_id=f"{element}_yaml_use")
        label, info = text.CONFIG_BOX
        made["box"] = transient(gr.Textbox(label=label, info=info, lines=8, max_lines=30, elem_id=f"{element}_yaml"))
        made["said"] = html(visible=False, elem_id=f"{element}_yaml_said")
    return made


def wire(controller: Controller, made: dict[str, Any], names: list[str], inputs: list[Any]) -> None:
    """``inputs``: the control of each setting in ``names``."""
    said = made["said"]

    def fill(values: dict[str, Any], notes: list[str]) -> list[Any]:
        """Controls of the settings that ``values`` speaks of; the others stay."""
        shown = {name: form.to_shown(name, values[name]) for name in names if name in values}
        message = render.good(text.WORDS["settings_taken"]) + "".join(render.message(note, "waits") for note in notes)
        return [*(shown.get(name, keep()) for name in names), section(message)]

    def refused(error: LoraEvalError) -> list[Any]:
        return [*(keep() for _ in names), section(render.message(str(error)))]

    def write(*values: Any) -> list[Any]:
        try:
            return [controller.to_yaml(form.read_values(names, values)), section("")]
        except LoraEvalError as error:
            return [keep(), section(render.message(str(error)))]

    def read(words: str) -> list[Any]:
        try:
            return fill(controller.from_yaml(words), [])
        except LoraEvalError as error:
            return refused(error)

    def load(name: str) -> list[Any]:
        try:
            return fill(controller.load_preset(str(name or "")), [])
        except LoraEvalError as error:
            return refused(error)

    def save(name: str, *values: Any) -> list[Update]:
        try:
            path = controller.save_preset(str(name or ""), form.read_values(names, values))
        except LoraEvalError as error:
            return [keep(), section(render.message(str(error)))]
        message = section(render.good(text.WORDS["preset_saved"], path.stem))
        return [gr.update(choices=controller.presets(), value=path.stem), message]

    def upload(file: Any) -> list[Any]:
        # gradio 3 hands over an open file, later ones its path
        try:
            return fill(*controller.from_file(getattr(file, "name", file)))
        except LoraEvalError as error:
            return refused(error)

    listen(made["show"].click, write, inputs, [made["box"], said])
    listen(made["use"].click, read, [made["box"]], [*inputs, said])
    listen(made["load"].click, load, [made["name"]], [*inputs, said])
    listen(made["save"].click, save, [made["name"], *inputs], [made["name"], said])
    listen(made["file"].upload, upload, [made["file"]], [*inputs, said])
