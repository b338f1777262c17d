"""Fidelity of a run: likeness to the references between the base model (0) and the references (1)."""

from __future__ import annotations

import numpy as np

from lora_eval.scorecard.dimensions.context import Context, number
from lora_eval.scorecard.dimensions.fidelity import formulas as metric
from lora_eval.statistics.bootstrap import resample

NAME = "fidelity"
NO_REFERENCES = "no reference pictures; name the folder the LoRA was trained on or, better, pictures it never saw"
NO_BASE = "no picture at weight 0; draw the same prompts and seeds without the LoRA"
FEW_REFERENCES = "one reference picture; add at least three, so that their likeness to each other is known"


def measure(context: Context) -> None:
    """Score: ``(s_w - s_0) / (s_ref - s_0)``, s the mean cosine to the references on plain prompts."""
    data, grid = context.data, context.grid
    context.evidence[NAME] = {"prompts": [grid.prompts[p] for p in grid.core()], "encoder": data.encoder}
    references = data.references
    if references is None or len(references) == 0:
        context.notes.setdefault("references", data.notes.get("references", NO_REFERENCES))
        context.not_measured(NAME, "score", NO_REFERENCES)
        return
    context.evidence[NAME].update(references=len(references), held_out=references.held_out)
    _encoder(context, "clip_i", data.features, references.features, main=True)
    for name in sorted(data.extra):
        if name in data.extra_references:
            _encoder(context, name, data.extra[name], data.extra_references[name], main=False)
    for name in ("dino", "face"):
        if name not in data.extra and name in data.notes:
            context.notes.setdefault(name, data.notes[name])


def _encoder(context: Context, name: str, features: np.ndarray, references: np.ndarray, main: bool) -> None:
    grid, core = context.grid, context.grid.core()
    references = references[np.isfinite(references).all(axis=1)]
    if not len(references):
        context.not_measured(NAME, name, f"no reference picture could be read by {name}")
        return
    found = np.isfinite(features).all(axis=1)
    values = np.full(len(features), np.nan)
    values[found] = metric._clip_i(features[found], references)
    context.columns[name] = values
    context.columns[f"{name}_gain"] = context.difference_column(values)
    ceiling = float(metric._leave_one_out(references).mean()) if len(references) >= 2 else float("nan")
    here = context.draws(context.paired(values) if context.has_base else grid.cube(values), core)
    base = context.draws(context.paired_base(values), core)
    gain = here.map(lambda w, zero: w - zero, base)
    score = here.map(
        lambda w, zero: np.where(ceiling - zero < metric.ROOM, np.nan, (w - zero) / (ceiling - zero)), base
    )
    context.add_draws(NAME, name, here, base.estimate, number(ceiling), score=score.estimate, bounds=(-1.0, 1.0))
    context.add_draws(NAME, f"{name}_gain", gain, 0.0, bounds=(-2.0, 2.0))
    if not found.all():
        rate = context.draws(grid.cube(found.astype(float)), core)
        context.add_draws(NAME, f"{name}_detected", rate, bounds=(0.0, 1.0))
    verdicts = []
    for c in range(len(grid.conditions)):
        room = ceiling - base.estimate[c]
        if not context.has_base or not np.isfinite(base.estimate[c]):
            verdicts.append(f"not measured: {NO_BASE}")
        elif not np.isfinite(ceiling):
            verdicts.append(f"not measured: {FEW_REFERENCES}")
        elif room < metric.ROOM:
            verdicts.append(
                f"not measured: the base model's pictures are as alike to the references ({base.estimate[c]:.3f}) "
                f"as the references are to each other ({ceiling:.3f}); use references that show the concept alone"
            )
        else:
            verdicts.append("")
    context.add_draws(
        NAME, "score" if main else f"{name}_score", score, 0.0, 1.0, score=score.estimate, verdicts=verdicts
    )
    if main:
        _training(context, references, ceiling, base.estimate)
        context.shared.update(gain=gain, relative=score, clip_i=values, ceiling=ceiling, base_clip_i=base)
        context.evidence[NAME]["interval_scope"] = here.scope
        context.evidence[NAME]["best_and_worst"] = _extremes(context, values, core)


def _training(context: Context, references: np.ndarray, ceiling: float, base: np.ndarray) -> None:
    """How far the training pictures themselves come to held-out references; 1 when both show the same."""
    training, known = context.data.training, context.data.references
    if training is None or known is None or not known.held_out or len(references) < 2 or len(training) < 2:
        return
    values = metric._clip_i(training.features[np.isfinite(training.features).all(axis=1)], references)
    spread = resample(values[:, None], context.resamples, context.seed)
    for c, condition in enumerate(context.grid.conditions):
        room = ceiling - base[c]
        if np.isfinite(room) and room >= metric.ROOM:
            mean, low, high = ((float(v) - base[c]) / room for v in (spread.estimate, *spread.interval()))
            context.add(condition, NAME, "training_likeness", mean, (low, high), len(values), 0.0, 1.0)
            # where no interval can be given nothing is sure
            context.shared["other_subject"] = bool(high < metric.SAME_SUBJECT)


def _extremes(context: Context, values: np.ndarray, core: list[int]) -> dict[str, dict[str, str]]:
    """The pictures most and least like the references, per condition."""
    result = {}
    for c, condition in enumerate(context.grid.conditions):
        rows = context.grid.rows[c][core]
        rows = rows[rows >= 0]
        rows = rows[np.isfinite(values[rows])]
        if len(rows):
            result[condition.key] = {
                "best": context.image(int(rows[np.argmax(values[rows])])),
                "worst": context.image(int(rows[np.argmin(values[rows])])),
            }
    return result
