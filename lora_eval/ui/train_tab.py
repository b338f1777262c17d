"""The tab LoRA Train: three choices to a first training, everything else folded away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import gradio as gr

from lora_eval.errors import LoraEvalError
from lora_eval.ui import captions, form, page, presets, render, text
from lora_eval.ui.compat import Update, html, keep, listen, section, transient
from lora_eval.ui.controller import Controller

REDRAW = 2.0
"""Seconds between two drawings of the loss chart while a run goes on."""
ELEMENT = "lora_eval_train"
PLAN = ("lora_rank", "learning_rate", "epochs", "max_steps", "batch_size", "save_steps")
"""Settings whose values are shown while all are folded away."""


def make(controller: Controller) -> gr.Blocks:
    """The tab as Blocks of its own, as the WebUI takes them."""
    everything = [*form.ON_TOP, *form.NAMES]
    with gr.Blocks(analytics_enabled=False) as blocks:
        with gr.Row(elem_id=f"{ELEMENT}_tab", elem_classes=["lora-eval"]):
            with gr.Column(scale=5, min_width=340, elem_id=f"{ELEMENT}_settings"):
                top = _choices(controller)
                buttons, said = _buttons()
                controls = _settings(controller)
                kept = presets.make(controller, ELEMENT)
            with gr.Column(scale=6, min_width=340, elem_id=f"{ELEMENT}_progress"):
                shown = _results()
        inputs = [*(top[name] for name in form.ON_TOP), *(controls[name] for name in form.NAMES)]
        _wire_template(controller, top, controls)
        _wire_jobs(controller, buttons, said, everything, inputs)
        _wire_check(controller, top, controls, shown)
        about = [top["train_data_dir"], controls["metadata_path"], top["trigger"], controls["class_word"]]
        captions.wire(controller, top["made"], about)
        presets.wire(controller, kept, everything, inputs)
        _wire_poll(controller, {**shown, "captioned": top["made"]["shown"]})
        page.wire_requests(controller, "train", shown, top["name"])
    return blocks


# -- parts -------------------------------------------------------------------------------------------


def _heading(words: str) -> None:
    html(f'<h3 class="lora-eval-heading">{words}</h3>')


def _choices(controller: Controller) -> dict[str, Any]:
    top: dict[str, Any] = {}
    _heading(text.STEP_FOLDER)
    label, info = text.FOLDER
    top["train_data_dir"] = transient(
        gr.Textbox(label=label, info=info, placeholder=text.FOLDER_HINT, max_lines=1, elem_id=f"{ELEMENT}_folder")
    )
    top["check"] = gr.Button(text.CHECK, size="sm", elem_id=f"{ELEMENT}_check")
    top["made"] = captions.make(controller, ELEMENT)
    _heading(text.STEP_NAME)
    with gr.Row():
        for key, (label, info) in (("name", text.NAME), ("trigger", text.TRIGGER)):
            top[key] = transient(
                gr.Textbox(label=label, info=info, max_lines=1, min_width=150, elem_id=f"{ELEMENT}_{key}")
            )
    _heading(text.STEP_TEMPLATE)
    with gr.Row():
        label, info = text.KIND
        top["kind"] = gr.Radio(
            list(text.KINDS), value="style", label=label, info=info, min_width=220, elem_id=f"{ELEMENT}_kind"
        )
        label, info = text.LOW_VRAM
        top["low_vram"] = gr.Checkbox(False, label=label, info=info, min_width=150, elem_id=f"{ELEMENT}_low_vram")
    top["plan"] = html(render.plan(controller.template("style", False)), elem_id=f"{ELEMENT}_plan")
    return top


def _buttons() -> tuple[dict[str, Any], Any]:
    with gr.Row(elem_classes=["lora-eval-buttons"]):
        train, interrupt = page.job_buttons(ELEMENT, text.TRAIN)
        resume = gr.Button(text.RESUME, scale=1, min_width=90, elem_id=f"{ELEMENT}_resume")
    buttons = {"train": train, "interrupt": interrupt, "resume": resume}
    return buttons, html(visible=False, elem_id=f"{ELEMENT}_message")


def _settings(controller: Controller) -> dict[str, Any]:
    start = controller.template("style", False)
    controls = {}
    for number, (title, names) in enumerate(text.GROUPS.items()):
        with gr.Accordion(title, open=False, elem_id=f"{ELEMENT}_group_{number}"):
            ordered = list(names)
            for at in range(0, len(ordered), 2):
                with gr.Row():
                    for name in ordered[at : at + 2]:
                        controls[name] = form.make_control(name, start[name])
    return controls


def _results() -> dict[str, Any]:
    shown: dict[str, Any] = {
        "job": html(render.empty(text.TRAIN_EMPTY), elem_id=f"{ELEMENT}_job"),
        "queue": html(visible=False, elem_id=f"{ELEMENT}_queue"),
        "loss": html(visible=False, elem_id=f"{ELEMENT}_loss"),
        "film": html(visible=False, elem_id=f"{ELEMENT}_film"),
    }
    shown["score"] = gr.Button(text.SCORE_RUN, visible=False, elem_id=f"{ELEMENT}_score")
    with gr.Row():
        for key, words in (("captions", text.SAVE_CAPTIONS), ("prepend", text.ADD_TRIGGER)):
            shown[key] = gr.Button(words, size="sm", visible=False, elem_id=f"{ELEMENT}_{key}")
    # the page's script clicks this one for the picture that a person sets aside
    shown["aside"] = gr.Button("aside", elem_id=f"{ELEMENT}_aside", elem_classes=page.HIDDEN)
    shown["saved"] = html(visible=False, elem_id=f"{ELEMENT}_saved")
    shown["check"] = html(visible=False, elem_id=f"{ELEMENT}_checked")
    return {**shown, **page.make_requests(ELEMENT)}


# -- what they do ------------------------------------------------------------------------------------


def _wire_template(controller: Controller, top: dict[str, Any], controls: dict[str, Any]) -> None:
    def fill(kind: str, low_vram: bool) -> list[Any]:
        return form.show_values(form.NAMES, controller.template(kind, low_vram))

    def plan(*values: Any) -> str:
        try:
            return render.plan(form.read_values(PLAN, values))
        except LoraEvalError:
            return ""

    for name in PLAN:
        listen(controls[name].change, plan, [controls[name] for name in PLAN], [top["plan"]], quiet=True)
    outputs = [controls[name] for name in form.NAMES]
    for control in (top["kind"], top["low_vram"]):
        # by the user alone: a config taken over sets the kind too and must not be overwritten
        listen(control.input, fill, [top["kind"], top["low_vram"]], outputs, quiet=True)


def _wire_jobs(controller: Controller, buttons: dict[str, Any], said: Any, names: list[str], inputs: list[Any]) -> None:
    def start(resume: bool, values: tuple[Any, ...]) -> Update:
        try:
            controller.train(form.read_values(names, values), resume)
        except LoraEvalError as error:
            return section(render.message(str(error)))
        return section(render.good(text.WORDS["submitted"]))

    def train(*values: Any) -> Update:
        return start(False, values)

    def resume(*values: Any) -> Update:
        return start(True, values)

    def interrupt() -> Update:
        if controller.interrupt(kind="train"):
            return section(render.good(text.WORDS["stopping"]))
        return section(render.message(text.WORDS["nothing_runs"]))

    listen(buttons["train"].click, train, inputs, [said])
    listen(buttons["resume"].click, resume, inputs, [said])
    listen(buttons["interrupt"].click, interrupt, [], [said], quiet=True)


def _wire_check(controller: Controller, top: dict[str, Any], controls: dict[str, Any], shown: dict[str, Any]) -> None:
    def look(*about: str, said: str = "") -> list[Update]:
        folder, table, trigger, resolution, word = about
        try:
            found = controller.check(folder, table, trigger, form.from_shown("resolution", resolution), word)
        except LoraEvalError as error:
            return [section(render.message(str(error))), *(gr.update(visible=False) for _ in range(2)), section(said)]
        return [section(render.checked(found)), *(gr.update(visible=True) for _ in range(2)), section(said)]

    def changed(change: Callable[[], int], about: tuple[str, ...]) -> list[Update]:
        try:
            count = change()
        except LoraEvalError as error:
            return [keep(), keep(), keep(), section(render.message(str(error)))]
        return look(*about, said=render.good(text.WORDS["captions_saved"], count))

    def save(captions: str, *about: str) -> list[Update]:
        values = {str(name): str(caption) for name, caption in json.loads(captions or "{}").items()}
        folder, table, *_ = about
        return changed(lambda: controller.save_captions(folder, table, values), about)

    def aside(order: str, *about: str) -> list[Update]:
        folder, table, *_ = about
        asked = json.loads(order or "{}")
        try:
            controller.save_captions(folder, table, {str(key): str(value) for key, value in asked["captions"].items()})
            moved = controller.set_aside(folder, table, str(asked["name"]))
        except LoraEvalError as error:
            return [keep(), keep(), keep(), section(render.message(str(error)))]
        return look(*about, said=render.good(text.WORDS["aside_done"], moved))

    def prepend(*about: str) -> list[Update]:
        folder, table, trigger, *_ = about
        return changed(lambda: controller.add_trigger(folder, table, trigger), about)

    inputs = [top["train_data_dir"], controls["metadata_path"], top["trigger"]]
    inputs += [controls["resolution"], controls["class_word"]]
    outputs = [shown[name] for name in ("check", "captions", "prepend", "saved")]
    listen(top["check"].click, look, inputs, outputs)
    # the page's captions take the place of the first input, which only has to hold a text
    instead = "(_, ...about) => [loraEval.captions(), ...about]"
    listen(shown["captions"].click, save, [top["name"], *inputs], outputs, js=instead)
    instead = "(_, ...about) => [loraEval.asideOrder(), ...about]"
    listen(shown["aside"].click, aside, [top["name"], *inputs], outputs, js=instead)
    listen(shown["prepend"].click, prepend, inputs, outputs)
    listen(shown["score"].click, None, [], [], js="() => { loraEval.scoreRun(); return []; }")


def _wire_poll(controller: Controller, shown: dict[str, Any]) -> None:
    def poll(state: dict[str, Any] | None) -> list[Any]:
        state = dict(state or {"stamp": None, "drawn": 0.0, "tick": 0})
        view = controller.training()
        now = time.monotonic()
        over = view.job is None or view.job.ended is not None
        loss = film = keep()
        stamp = (over, *view.stamp)
        begun = not state["stamp"] or over != state["stamp"][0]
        if stamp != state["stamp"] and (over or begun or now - state["drawn"] >= REDRAW):
            loss = section(render.loss(view.folder, awaited=not over))
            film = section(render.film(view.folder, awaited=0 if over else controller.previews(view.job)))
            state["stamp"], state["drawn"] = stamp, now
        state["tick"] += 1
        waiting = section(render.queue(controller.waiting(), "train"))
        return [
            state,
            render.train_job(view),
            waiting,
            loss,
            film,
            gr.update(visible=view.folder is not None or view.job is not None),
            section(captions.show(controller)),
            page.tick(state["tick"]),
        ]

    outputs = [shown[name] for name in ("state", "job", "queue", "loss", "film", "score", "captioned", "tick")]
    listen(shown["poll"].click, poll, [shown["state"]], outputs, quiet=True)
