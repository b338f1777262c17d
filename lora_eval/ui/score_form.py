"""What the tab LoRA Scorecard shows: its fields, in the order of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from lora_eval.errors import LoraEvalError
from lora_eval.scorecard.plan.request import SCORE_FIELDS, ScoreRequest
from lora_eval.ui import page, render, score_view, text
from lora_eval.ui.compat import html, open_choice, transient
from lora_eval.ui.controller import Controller

ELEMENT = "lora_eval_score"


def choices(controller: Controller) -> dict[str, Any]:
    """LoRAs, run, kind, data, preset, budget and the map: ``controls`` by name."""
    controls: dict[str, Any] = {}
    label, info = text.LORAS
    controls["loras"] = transient(
        gr.Dropdown(labels(controller), value=[], multiselect=True, label=label, info=info, elem_id=f"{ELEMENT}_loras")
    )
    with gr.Row():
        label, info = text.RUN_PICK
        controls["run"] = transient(
            gr.Dropdown(
                names(controller.training_runs()),
                value=None,
                label=label,
                info=info,
                scale=3,
                elem_id=f"{ELEMENT}_run_pick",
            )
        )
        controls["refresh"] = gr.Button(
            text.REFRESH, size="sm", scale=1, min_width=80, elem_id=f"{ELEMENT}_refresh", elem_classes=["lora-eval-low"]
        )
    label, info = text.SCORE_KIND
    controls["kind"] = gr.Radio(
        [text.FROM_LORA, *text.KINDS], value=text.FROM_LORA, label=label, info=info, elem_id=f"{ELEMENT}_kind"
    )
    label, info = text.DATA
    controls["data"] = transient(
        gr.Textbox(label=label, info=info, placeholder=text.FOLDER_HINT, max_lines=1, elem_id=f"{ELEMENT}_data")
    )
    label, info = text.PRESET
    controls["preset"] = gr.Radio(
        list(text.PRESETS), value="standard", label=label, info=info, elem_id=f"{ELEMENT}_preset"
    )
    with gr.Row(visible=False, elem_id=f"{ELEMENT}_budget_row") as controls["budget_row"]:
        label, info = text.BUDGET
        controls["budget"] = gr.Textbox(
            value="", label=label, info=info, max_lines=1, scale=2, min_width=150, elem_id=f"{ELEMENT}_budget"
        )
        controls["budget_unit"] = gr.Radio(
            [text.PICTURES, text.MINUTES],
            value=text.PICTURES,
            label=text.BUDGET_UNIT,
            scale=1,
            min_width=150,
            elem_id=f"{ELEMENT}_budget_unit",
        )
    controls["estimate"] = html(_first_estimate(controller), elem_id=f"{ELEMENT}_estimate")
    for name, default, axis, values in (
        ("x", "weight", text.X_AXIS, text.X_VALUES),
        ("y", "checkpoint", text.Y_AXIS, text.Y_VALUES),
    ):
        with gr.Row(elem_id=f"{ELEMENT}_{name}_row"):
            controls[f"{name}_axis"] = gr.Dropdown(
                list(text.AXES),
                value=default,
                label=axis[0],
                info=axis[1],
                scale=2,
                min_width=140,
                elem_id=f"{ELEMENT}_{name}_axis",
            )
            controls[f"{name}_values"] = gr.Textbox(
                value="",
                label=values[0],
                info=values[1],
                max_lines=1,
                scale=3,
                min_width=160,
                elem_id=f"{ELEMENT}_{name}_values",
            )
    return controls


def buttons() -> tuple[dict[str, Any], Any]:
    """Start, interrupt and the hidden one the page fills the form with; and where they answer."""
    with gr.Row(elem_classes=["lora-eval-buttons"]):
        run, interrupt = page.job_buttons(ELEMENT, text.RUN)
    # the page clicks this one when a training run is to be scored, with the run's folder
    fill = gr.Button("fill", elem_id=f"{ELEMENT}_fill", elem_classes=page.HIDDEN)
    return {"run": run, "interrupt": interrupt, "fill": fill}, html(visible=False, elem_id=f"{ELEMENT}_message")


def settings(controller: Controller) -> dict[str, Any]:
    """What is drawn and how, folded away."""
    from lora_eval.scorecard.plan.suites import suite_names

    def field(name: str) -> Any:
        label, info = text.SCORE_OPTIONS[name]
        return gr.Textbox(value="", label=label, info=info, max_lines=1, min_width=150, elem_id=f"{ELEMENT}_{name}")

    def more(group: str) -> None:
        """Fields of the group that the layout above does not name."""
        for name, one in SCORE_FIELDS.items():
            if one.metadata.get("group") == group and name not in controls:
                controls[name] = field(name)

    controls: dict[str, Any] = {}
    with gr.Accordion(text.WHAT, open=False, elem_id=f"{ELEMENT}_what"):
        controls["weights"] = field("weights")
        with gr.Row():
            controls["seeds"], controls["prompts"] = field("seeds"), field("prompts")
        suites = [text.SUITE_AUTO, *suite_names()]
        controls["suite"] = open_choice(suites, text.SUITE, f"{ELEMENT}_suite", text.SUITE_AUTO)
        with gr.Row():
            controls["trigger"], controls["class_word"] = field("trigger"), field("class_word")
        more("what")
    with gr.Accordion(text.SAMPLING, open=False, elem_id=f"{ELEMENT}_how"):
        with gr.Row():
            samplers = ["", *controller.samplers()]
            label = text.SCORE_OPTIONS["sampler"]
            controls["sampler"] = open_choice(samplers, label, f"{ELEMENT}_sampler", min_width=150)
            controls["scheduler"] = field("scheduler")
        for pair in (("steps", "cfg_scale"), ("width", "height"), ("clip_skip", "batch_size")):
            with gr.Row():
                for name in pair:
                    controls[name] = field(name)
        more("how")
    return controls


def results(controller: Controller) -> dict[str, Any]:
    """The run that is shown: job, queue, live map, verdict, its use, files."""
    shown: dict[str, Any] = {}
    label, info = text.HISTORY
    with gr.Row():
        shown["history"] = transient(
            gr.Dropdown(
                names(controller.scored_runs()), value=None, label=label, info=info, elem_id=f"{ELEMENT}_history"
            )
        )
    with gr.Accordion(text.ALL_RUNS, open=False, elem_id=f"{ELEMENT}_runs"):
        shown["runs"] = html(elem_id=f"{ELEMENT}_run_list")
    # the page clicks this one when a run of the list is to be shown, with its name
    shown["pick"] = gr.Button("pick", elem_id=f"{ELEMENT}_pick", elem_classes=page.HIDDEN)
    shown["job"] = html(render.empty(text.SCORE_EMPTY), elem_id=f"{ELEMENT}_job")
    shown["queue"] = html(visible=False, elem_id=f"{ELEMENT}_queue")
    shown["live"] = html(visible=False, elem_id=f"{ELEMENT}_live")
    shown["verdict"] = html(visible=False, elem_id=f"{ELEMENT}_verdict")
    with gr.Accordion(text.USE, open=True, visible=False, elem_id=f"{ELEMENT}_use_group") as shown["group"]:
        with gr.Row():
            label, info = text.USE_LORA
            shown["checkpoint"] = transient(
                gr.Textbox(label=label, info=info, max_lines=1, min_width=160, elem_id=f"{ELEMENT}_use_lora")
            )
            label, info = text.USE_VALUE
            shown["weight"] = transient(
                gr.Textbox(label=label, info=info, max_lines=1, min_width=120, elem_id=f"{ELEMENT}_use_value")
            )
            shown["use"] = gr.Button(
                text.USE_WEIGHT, min_width=120, elem_id=f"{ELEMENT}_use", elem_classes=["lora-eval-low"]
            )
        shown["used"] = html(visible=False, elem_id=f"{ELEMENT}_used")
        shown["files"] = gr.File(
            label=text.DOWNLOADS, file_count="multiple", interactive=False, elem_id=f"{ELEMENT}_files"
        )
    return {**shown, **page.make_requests(ELEMENT)}


def comparison(controller: Controller) -> dict[str, Any]:
    """Runs side by side."""
    made: dict[str, Any] = {}
    with gr.Accordion(text.COMPARE, open=False, elem_id=f"{ELEMENT}_compare_group"):
        with gr.Row():
            label, info = text.COMPARE_RUNS
            made["runs"] = transient(
                gr.Dropdown(
                    _finished(controller),
                    value=[],
                    multiselect=True,
                    label=label,
                    info=info,
                    scale=4,
                    min_width=240,
                    elem_id=f"{ELEMENT}_compare_runs",
                )
            )
            label, info = text.COMPARE_AT
            made["at"] = transient(
                gr.Textbox(
                    value="",
                    label=label,
                    info=info,
                    max_lines=1,
                    scale=3,
                    min_width=200,
                    elem_id=f"{ELEMENT}_compare_at",
                )
            )
        with gr.Row(elem_classes=["lora-eval-buttons"]):
            made["start"] = gr.Button(text.COMPARE_START, min_width=120, elem_id=f"{ELEMENT}_compare")
        made["said"] = html(visible=False, elem_id=f"{ELEMENT}_compare_message")
        made["files"] = gr.File(
            label=text.COMPARE_FILES,
            file_count="multiple",
            interactive=False,
            visible=False,
            elem_id=f"{ELEMENT}_compare_files",
        )
        made["page"] = html(visible=False, elem_id=f"{ELEMENT}_compare_page")
    return made


def _finished(controller: Controller) -> list[str]:
    return [run.folder.name for run in controller.history() if run.verdict]


def labels(controller: Controller) -> list[str]:
    """LoRAs by the label the dropdown has; none where the folder cannot be read."""
    try:
        return list(controller.loras())
    except LoraEvalError:
        return []


def _first_estimate(controller: Controller) -> str:
    return score_view.presets(controller.estimates(ScoreRequest([])), "standard")


def names(folders: list[Path]) -> list[str]:
    """Folder names as dropdowns show them."""
    return [folder.name for folder in folders]


def named(folders: list[Path], name: str | None) -> Path | None:
    """The folder of a name that :func:`names` gave, None where it is gone."""
    return next((folder for folder in folders if folder.name == name), None)
