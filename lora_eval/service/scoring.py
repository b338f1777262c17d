"""A scorecard from beginning to end: plan, draw, embed, measure, decide, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

import lora_eval
from lora_eval.encoders.protocol import Encoder
from lora_eval.errors import RunError
from lora_eval.files import read_json
from lora_eval.host.protocol import Host, Job, ModelInfo
from lora_eval.report.results import write_results
from lora_eval.scorecard.data import Measurement, RunData, Scorecard
from lora_eval.scorecard.decision.adaptive import Stop, account, next_round, with_budget
from lora_eval.scorecard.dimensions.measure import measure
from lora_eval.scorecard.draw.draw import draw, unchanged
from lora_eval.scorecard.draw.store import TABLE_FILE, RunFolder
from lora_eval.scorecard.features.cache import FeatureCache
from lora_eval.scorecard.features.collect import EncoderSource, Material, build_data, measured_with, picture_source
from lora_eval.scorecard.features.references import References, find_references
from lora_eval.scorecard.plan.make import make_plan
from lora_eval.scorecard.plan.plan import Plan, Round
from lora_eval.scorecard.plan.presets import ADAPTIVE
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.scorecard.tables import CELL_COLUMNS, write_cells
from lora_eval.service import estimate
from lora_eval.service.measured import measure_again, measure_table
from lora_eval.training.run import run_places

__all__ = ["load_run", "measure_table", "read_card", "report", "score"]


def score(
    host: Host,
    request: ScoreRequest,
    out: Path | str | None = None,
    *,
    encoder: str | Encoder | None = None,
    histories: dict[str, str] | None = None,
    resamples: int = 1000,
) -> Scorecard:
    """Draw a sweep, measure it, decide, and write the reports.

    In a folder that holds the same plan it draws only what is missing; nothing, when nothing is.

    Args:
        host: who draws.
        request: what to draw and how. ``data`` None takes the references that the LoRA's training run recorded. With
            ``budget`` (or ``minutes``, or the preset ``adaptive``) at most so many pictures are drawn, chosen in rounds
            from the grid of weights and seeds; otherwise the whole grid.
        out: run folder, where the request names none.
        encoder: a loaded encoder, or a name that replaces the request's.
        histories: checkpoint or LoRA name -> loss history; found beside the LoRA where not given.
        resamples: of the bootstrap.

    Raises:
        LoraEvalError: bad input, another run in the folder, a LoRA that did not take, an encoder that is not available.
        Interrupted: the user stopped it; the same call continues from there.
    """
    place = out if out is not None else request.out
    if place is None:
        raise RunError("no run folder; name one")
    if request.preset == ADAPTIVE or request.minutes is not None:
        each = estimate.seconds_each(host.output_folder, request)
        request = estimate.settled(request, each, estimate.is_tiny(host))
    named = encoder if encoder is not None else request.encoder or "auto"
    folder = RunFolder(place)
    with folder.lock():
        plan = make_plan(host, request)
        if request.budget is not None:
            plan = with_budget(plan, request.budget)
        found = find_references(request.data, [Path(lora.path) for lora in plan.loras], _roots(host))
        plan = replace(
            plan,
            encoder=_encoder_name(named, host.model(), plan.sampling.width),
            references=_references_json(found),
            histories=_histories(plan, histories, _roots(host)),
        )
        plan = folder.agree(plan)
        source = EncoderSource(named if not isinstance(named, str) else plan.encoder, host.info().device)
        with host.job("LoRA scorecard", max(len(plan), plan.budget or 0)) as job:
            source.say = job.say
            while True:
                if not all(folder.finished(cell) for cell in plan.cells()):
                    # an encoder that is not available should say so now, not after an hour of drawing
                    source.load()
                draw(host, plan, folder, job)
                write_cells(folder.cells_file, _cells_table(plan))
                run, shown = _gather(plan, folder, source, job)
                measured = measure(run, resamples=resamples)
                more = _more(plan, run, measured)
                if not isinstance(more, Round):
                    return write_results(folder, run, measured, shown, provenance(plan, run, more))
                plan = folder.extend(plan, more)


def report(run_dir: Path | str, encoder: Encoder | None = None, resamples: int = 1000) -> Scorecard:
    """Measure a run again and write its tables and reports again, from the pictures alone.

    Raises:
        RunError: no run there, or pictures are missing: draw them first.
    """
    folder = RunFolder(run_dir)
    if not folder.plan_file.exists() and (folder.root / TABLE_FILE).exists():
        return measure_again(folder.root, encoder, resamples)
    plan = _drawn_plan(folder)
    with folder.lock():
        run, shown = _gather(plan, folder, EncoderSource(encoder if encoder is not None else plan.encoder), None)
        measured = measure(run, resamples=resamples)
        more = _more(plan, run, measured)
        if isinstance(more, Round):
            more = Stop("interrupted", "run score on the same folder to draw the next round")
        return write_results(folder, run, measured, shown, provenance(plan, run, more))


def load_run(run_dir: Path | str, encoder: Encoder | None = None) -> tuple[Plan, RunData]:
    """The plan of a drawn run and all that measuring needs of its pictures. Writes nothing but the feature cache.

    Raises:
        RunError: no run there, or pictures are missing: draw them first.
    """
    folder = RunFolder(run_dir)
    plan = _drawn_plan(folder)
    with folder.lock():
        return plan, _gather(plan, folder, EncoderSource(encoder if encoder is not None else plan.encoder), None)[0]


def _drawn_plan(folder: RunFolder) -> Plan:
    if not folder.root.is_dir():
        raise RunError(f"{folder.root} does not exist; give the folder of a scorecard run")
    plan = folder.read_plan()
    missing = [cell.id for cell in plan.cells() if not folder.finished(cell)]
    if missing:
        raise RunError(
            f"{folder.root} lacks {len(missing)} of {len(plan)} pictures, {missing[0]} first; "
            "run score on the same folder to draw them"
        )
    return plan


def _more(plan: Plan, data: RunData, measured: Measurement) -> Round | Stop | None:
    """The next round of an adaptive plan or why there is none; None for a whole grid."""
    return None if plan.budget is None else next_round(plan, data, measured)


def _gather(plan: Plan, folder: RunFolder, source: EncoderSource, job: Job | None) -> tuple[RunData, dict[str, Path]]:
    """What was drawn, made ready for measuring; depends on the run folder and the references alone."""
    cache = FeatureCache(folder, source.id, source.load)
    cells = plan.cells()
    sources = [picture_source(folder.image_path(cell)) for cell in cells]
    size = (plan.sampling.width, plan.sampling.height)
    notes: dict[str, str] = dict(plan.references.get("notes", {}))
    if said_of := folder.lora_notes():
        notes["loras"] = ". ".join(f"{name}: {'; '.join(lines)}" for name, lines in said_of.items())
    if names := unchanged(plan, folder):
        notes["effect"] = f"every picture at the largest weight equals weight 0: {', '.join(names)}"
    return build_data(
        cache,
        Material(
            _cells_table(plan),
            sources,
            prompts={prompt.id: prompt for prompt in plan.prompts},
            kind=plan.kind,
            size=size,
            references=References(
                [Path(path) for path in plan.references.get("pictures", ())],
                bool(plan.references.get("held_out")),
                [Path(path) for path in plan.references.get("training", ())],
            ),
            histories={name: Path(path) for name, path in plan.histories.items()},
            notes=notes,
        ),
        job,
    )


def provenance(plan: Plan, data: RunData, stop: Stop | None = None) -> dict[str, Any]:
    """What the numbers rest on, for the report."""
    return {
        "run": plan.run,
        "created": plan.created,
        "program": f"lora-eval {lora_eval.__version__}",
        "host": f"{plan.host.name} {plan.host.version} on {plan.host.device}",
        "model": {key: plan.model[key] for key in ("name", "sha256", "family", "prediction")},
        "loras": [{"name": x.name, "step": x.step, "sha256": x.sha256} for x in plan.loras],
        "weights": list(plan.weights),
        "seeds": list(plan.seeds),
        "suite": plan.suite,
        "prompts": len(plan.prompts),
        "images": len(plan),
        "axes": list(plan.axes),
        **({"adaptive": account(plan, stop)} if stop is not None else {}),
        "sampling": vars(plan.sampling),
        "trigger": plan.trigger,
        **measured_with(data),
    }


def _cells_table(plan: Plan) -> pd.DataFrame:
    sampling = plan.sampling
    rows = [
        (
            plan.run,
            cell.lora.series if cell.lora else "",
            cell.lora.name if cell.lora else "",
            cell.lora.step if cell.lora else None,
            cell.weight,
            cell.prompt.id,
            cell.prompt.role,
            cell.prompt.text,
            cell.prompt.negative,
            cell.seed,
            sampling.sampler,
            sampling.steps,
            sampling.cfg_scale,
            sampling.width,
            sampling.height,
            cell.image,
        )
        for cell in plan.cells()
    ]
    return pd.DataFrame(rows, columns=list(CELL_COLUMNS))


def _encoder_name(encoder: str | Encoder, model: ModelInfo, width: int) -> str:
    from lora_eval.encoders.registry import resolve_encoder

    return resolve_encoder(encoder, model, width) if isinstance(encoder, str) else encoder.id


def _references_json(found: References) -> dict[str, Any]:
    return {
        "pictures": [str(path) for path in found.pictures],
        "held_out": found.held_out,
        "training": [str(path) for path in found.training],
        "notes": found.notes,
    }


def _histories(plan: Plan, given: dict[str, str] | None, roots: Sequence[Path]) -> dict[str, str]:
    """The user's own, else the ``history.csv`` of the training run: beside the LoRA, or under ``roots``."""
    if given:
        return {name: str(Path(path).resolve()) for name, path in given.items()}
    found = {}
    for lora in plan.loras:
        # a published LoRA lies in the host's folder, its run under the outputs
        files = (folder / "history.csv" for folder in run_places(Path(lora.path), roots))
        path = next((file for file in files if file.is_file()), None)
        if path is not None:
            found[lora.name] = str(path.resolve())
    return found


def _roots(host: Host) -> list[Path]:
    return [host.output_folder]


def read_card(run_dir: Path | str) -> dict[str, Any]:
    """``scorecard.json`` of a run. Raises RunError."""
    return dict(read_json(RunFolder(run_dir).card_file))
