"""The tab LoRA Scorecard: choose LoRAs, see what it costs, run, read the verdict, use the weight."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr

from lora_eval.errors import LoraEvalError
from lora_eval.scorecard.plan.presets import ADAPTIVE
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service.submit import COMPARED
from lora_eval.ui import page, render, score_form, score_view, text
from lora_eval.ui.compat import Update, html, keep, listen, section
from lora_eval.ui.controller import Controller
from lora_eval.ui.request import BUDGET, FIELDS, MAP, make_request

REDRAW = 2.0
ELEMENT = score_form.ELEMENT
# controls in the order that handlers get them
RESULT = ("verdict", "group", "checkpoint", "weight", "used", "files", "report")
INPUTS = ("loras", "kind", "data", "preset", *MAP, *BUDGET, *FIELDS)


def make(controller: Controller) -> gr.Blocks:
    """The tab as Blocks of its own, as the WebUI takes them."""
    with gr.Blocks(analytics_enabled=False) as blocks:
        with gr.Row(elem_id=f"{ELEMENT}_tab", elem_classes=["lora-eval"]):
            with gr.Column(scale=5, min_width=340, elem_id=f"{ELEMENT}_settings"):
                controls = score_form.choices(controller)
                buttons, said = score_form.buttons()
                controls.update(score_form.settings(controller))
            with gr.Column(scale=6, min_width=340, elem_id=f"{ELEMENT}_progress"):
                shown = score_form.results(controller)
        with gr.Row(elem_id=f"{ELEMENT}_report_row", elem_classes=["lora-eval"]):
            shown["report"] = html(visible=False, elem_id=f"{ELEMENT}_report")
        with gr.Row(elem_id=f"{ELEMENT}_compare_row", elem_classes=["lora-eval"]):
            compared = score_form.comparison(controller)
        inputs = [controls[name] for name in INPUTS]
        _wire_choices(controller, controls, buttons, said, inputs)
        _wire_jobs(controller, buttons, said, shown, inputs)
        _wire_result(controller, shown)
        _wire_comparison(controller, compared)
        _wire_poll(controller, {**shown, "compared": compared["runs"], "estimate": controls["estimate"]}, inputs)
        page.wire_requests(controller, "score", shown, shown["weight"])
    return blocks


# -- what they do ------------------------------------------------------------------------------------


def _request(controller: Controller, values: tuple[Any, ...]) -> ScoreRequest:
    return make_request(dict(zip(INPUTS, values, strict=True)), controller.loras())


def _estimate(controller: Controller, values: tuple[Any, ...]) -> str:
    try:
        request = _request(controller, values)
        return score_view.presets(controller.estimates(request), request.preset)
    except LoraEvalError as error:
        return render.message(str(error))


def _wire_choices(
    controller: Controller, controls: dict[str, Any], buttons: dict[str, Any], said: Any, inputs: list[Any]
) -> None:
    def refresh(chosen: list[str] | None) -> list[Any]:
        labels = score_form.labels(controller)
        kept = [label for label in chosen or [] if label in labels]
        return [gr.update(choices=labels, value=kept), gr.update(choices=score_form.names(controller.training_runs()))]

    def estimate(*values: Any) -> str:
        return _estimate(controller, values)

    def budget(preset: str) -> Update:
        return gr.update(visible=preset == ADAPTIVE)

    def fill(run: Path | None) -> list[Any]:
        runs = score_form.names(controller.training_runs())
        if run is None:
            return [keep(), keep(), gr.update(choices=runs), keep()]
        try:
            proposal = controller.propose(run)
        except LoraEvalError as error:
            return [keep(), keep(), gr.update(choices=runs), section(render.message(str(error)))]
        return [
            gr.update(choices=score_form.labels(controller), value=proposal.loras),
            proposal.kind or text.FROM_LORA,
            gr.update(choices=runs, value=run.name),
            section(render.good(text.WORDS["filled"], run.name)),
        ]

    def pick(name: str | None) -> list[Any]:
        return fill(score_form.named(controller.training_runs(), name))

    def from_page(name: str) -> list[Any]:
        return fill(score_form.named(controller.training_runs(), Path(name).name if name else None))

    listen(controls["refresh"].click, refresh, [controls["loras"]], [controls["loras"], controls["run"]], quiet=True)
    outputs = [controls["loras"], controls["kind"], controls["run"], said]
    listen(controls["run"].input, pick, [controls["run"]], outputs, quiet=True)
    listen(buttons["fill"].click, from_page, [controls["data"]], outputs, js="() => [loraEval.run]", quiet=True)
    listen(controls["preset"].change, budget, [controls["preset"]], [controls["budget_row"]], quiet=True)
    counted = ("loras", "preset", "kind", "suite", "weights", "seeds", "prompts", "steps", "width", "height")
    for name in (*counted, *MAP, *BUDGET):
        listen(controls[name].change, estimate, inputs, [controls["estimate"]], quiet=True)


def _wire_jobs(
    controller: Controller, buttons: dict[str, Any], said: Any, shown: dict[str, Any], inputs: list[Any]
) -> None:
    def run(*values: Any) -> list[Any]:
        try:
            request = _request(controller, values)
            if not request.loras:
                return [section(render.message(text.NO_LORA)), keep()]
            controller.score(request)
        except LoraEvalError as error:
            return [section(render.message(str(error))), keep()]
        # the new run is shown, not the one picked from the history
        return [section(render.good(text.WORDS["submitted"])), None]

    def interrupt() -> Update:
        if controller.interrupt(kind="score"):
            return section(render.good(text.WORDS["stopping"]))
        return section(render.message(text.WORDS["nothing_runs"]))

    listen(buttons["run"].click, run, inputs, [said, shown["history"]])
    listen(buttons["interrupt"].click, interrupt, [], [said], quiet=True)


def _wire_result(controller: Controller, shown: dict[str, Any]) -> None:
    def use(name: str | None, checkpoint: str, weight: str) -> Update:
        try:
            view = controller.scoring(_history_path(controller, name))
            if view.folder is None:
                return section(render.message(text.SCORE_EMPTY))
            card = controller.use_weight(view.folder, checkpoint.strip(), weight)
        except LoraEvalError as error:
            return section(render.message(str(error)))
        return section(render.good(text.WORDS["saved"], card.name))

    listen(shown["use"].click, use, [shown["history"], shown["checkpoint"], shown["weight"]], [shown["used"]])


def _wire_comparison(controller: Controller, made: dict[str, Any]) -> None:
    def compare(names: list[str] | None, at: str) -> list[Any]:
        nothing = [gr.update(value=None, visible=False), section("")]
        try:
            runs = [score_form.named(controller.scored_runs(), name) for name in names or []]
            folder = controller.compare([run for run in runs if run is not None], at or "")
        except LoraEvalError as error:
            return [section(render.message(str(error))), *nothing]
        files = [str(folder / name) for name in COMPARED]
        return [
            section(""),
            gr.update(value=files, visible=True),
            section(score_view.report(folder, "compare.html", "comparison")),
        ]

    listen(made["start"].click, compare, [made["runs"], made["at"]], [made["said"], made["files"], made["page"]])


def _history_path(controller: Controller, name: str | None) -> str:
    folder = score_form.named(controller.scored_runs(), name) if name else None
    return "" if folder is None else str(folder)


def _wire_poll(controller: Controller, shown: dict[str, Any], inputs: list[Any]) -> None:
    def poll(state: dict[str, Any] | None, name: str | None, *values: Any) -> list[Any]:
        state = dict(state or {"stamp": None, "card": None, "drawn": 0.0, "tick": 0, "runs": None})
        view = controller.scoring(_history_path(controller, name))
        now = time.monotonic()
        over = view.job is None or view.job.ended is not None
        live, result = keep(), [keep()] * len(RESULT)
        if view.stamp != state["stamp"] and (over or now - state["drawn"] >= REDRAW):
            state["stamp"], state["drawn"] = view.stamp, now
            live = section("" if over else score_view.live(view.folder))
            # a run that is gone on with keeps its earlier result until the new one is there
            stamp = view.stamp[:2] + view.stamp[3:]
            if stamp != state["card"]:
                state["card"], result = stamp, _result(controller, view.folder)
        runs = score_form.names(controller.scored_runs())
        history, listed, finished, estimated = keep(), keep(), keep(), keep()
        shown_run = "" if view.folder is None else view.folder.name
        if [*runs, shown_run, over] != state["runs"]:
            state["runs"] = [*runs, shown_run, over]
            history = gr.update(choices=runs)
            finished_runs = controller.history()
            listed = section(score_view.history(finished_runs, shown_run))
            finished = gr.update(choices=[one.folder.name for one in finished_runs if one.verdict])
            # a run that ended tells the speed
            estimated = gr.update(value=_estimate(controller, values))
        state["tick"] += 1
        job, waiting = score_view.score_job(view), section(render.queue(controller.waiting(), "score"))
        return [
            state,
            job,
            waiting,
            live,
            *result,
            history,
            listed,
            finished,
            estimated,
            page.tick(state["tick"]),
        ]

    names = ("state", "job", "queue", "live", *RESULT, "history", "runs", "compared", "estimate", "tick")
    listen(
        shown["pick"].click,
        lambda name: Path(str(name)).name,
        [shown["weight"]],
        [shown["history"]],
        js="() => [loraEval.run]",
        quiet=True,
    )
    asked = [shown["state"], shown["history"], *inputs]
    listen(shown["poll"].click, poll, asked, [shown[name] for name in names], quiet=True)


def _result(controller: Controller, folder: Path | None) -> list[Any]:
    """Updates of the components in RESULT."""
    from lora_eval.service import library

    nothing = [
        section(""),
        gr.update(visible=False),
        "",
        "",
        section(""),
        gr.update(value=None, visible=False),
        section(""),
    ]
    if folder is None:
        return nothing
    try:
        card = library.read_scorecard(folder)
    except LoraEvalError as error:
        return [section(render.message(str(error))), *nothing[1:]]
    if card is None:
        return nothing
    best = card.get("recommended") or {}
    weight = best.get("weight")
    files = [str(path) for path in controller.downloads(folder)]
    return [
        section(score_view.verdict(card)),
        gr.update(visible=True),
        best.get("checkpoint") or "",
        "" if weight is None else f"{weight:g}",
        section(""),
        gr.update(value=files or None, visible=bool(files)),
        section(score_view.report(folder)),
    ]
