"""The training curve of each checkpoint's history, cross-checked with what was drawn."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from lora_eval.errors import RunError
from lora_eval.scorecard.dimensions.context import Context, number
from lora_eval.training.curve import Diagnosis, Samples, diagnose
from lora_eval.training.logs import LossHistory, read_history

NAME = "curve"
NO_HISTORY = "no loss history; name the training's history.csv or TensorBoard folder"
# a grade for the radar, not a measurement: how far the curve supports trusting the checkpoint
GRADES = {"converged": 1.0, "still falling": 0.6, "oscillating": 0.4, "overfit": 0.3, "flat": 0.2, "diverged": 0.0}

# likeness by which a later checkpoint must lead before longer training is said to have helped
BETTER = 0.05


def measure(context: Context) -> None:
    """Score: the grade of the state: converged 1, still falling .6, oscillating .4, overfit .3, flat .2, diverged 0."""
    grid = context.grid
    context.evidence[NAME] = {"histories": {}}
    read: dict[str, tuple[Any, Any]] = {}
    lora_of = _loras(context)
    for checkpoint in grid.checkpoints:
        where = grid.conditions[grid.of(checkpoint)[0]]
        path = _path(context, checkpoint, lora_of.get(checkpoint, ""))
        if path is None:
            context.add(where, NAME, "state", None, whole_checkpoint=True,
                        verdict=f"not measured: {context.data.notes.get('history', NO_HISTORY)}")  # fmt: skip
            continue
        key = str(path)
        if key not in read:
            try:
                read[key] = (read_history(path), None)
            except RunError as error:
                read[key] = (None, str(error))
        history, failed = read[key]
        if history is None:
            context.notes["history"] = failed
            context.add(where, NAME, "state", None, verdict=f"not measured: {failed}", whole_checkpoint=True)
            continue
        samples = _samples(context, checkpoint)
        found, whole = _until(history, where.step, samples), _until(history, None, samples)
        if found.state == "too short":
            found = whole
        if found.state == "still falling" and (told := _no_better_later(context, checkpoint)) is not None:
            found = replace(found, state="converged", reason=f"{found.reason}; {told}")
        grade = GRADES.get(found.state)
        verdict = found.state if grade is not None else f"not measured: {found.reason}"
        context.add(where, NAME, "state", grade, n=found.n, score=grade, verdict=verdict, whole_checkpoint=True)
        if found.slope is not None and found.slope_low is not None and found.slope_high is not None:
            context.add(where, NAME, "late_slope", found.slope, (found.slope_low, found.slope_high), found.n, 0.0,
                        whole_checkpoint=True)  # fmt: skip
        context.add(where, NAME, "fall", found.fall, n=found.n, baseline=0.0, whole_checkpoint=True)
        detail = {k: number(v) if isinstance(v, float) else v for k, v in asdict(found).items()}
        detail["whole_run"] = whole.state
        context.evidence[NAME]["histories"][checkpoint] = {**detail, "source": history.source, "file": Path(key).name}


def _loras(context: Context) -> dict[str, str]:
    cells = context.data.cells
    if "lora" not in cells.columns:
        return {}
    result = {}
    for c, condition in enumerate(context.grid.conditions):
        rows = context.grid.rows[c]
        result[condition.checkpoint] = str(cells["lora"].iloc[int(rows[rows >= 0][0])])
    return result


def _path(context: Context, checkpoint: str, lora: str) -> Path | None:
    histories = context.data.histories
    series = re.sub(r"[-_](step)?\d+$", "", checkpoint)
    for key in (checkpoint, checkpoint.rsplit("/", 1)[-1], lora, series):
        if key and key in histories:
            return Path(histories[key])
    return None


def _samples(context: Context, checkpoint: str) -> Samples | None:
    """Scores by step of the checkpoints of the same LoRA, at the weight nearest 1 that all of them have."""
    grid = context.grid
    lora_of = _loras(context)
    mine = [c for c in grid.checkpoints if lora_series(c, lora_of) == lora_series(checkpoint, lora_of)]
    steps = {c: grid.conditions[grid.of(c)[0]].step for c in mine}
    mine = [c for c in mine if steps[c] is not None]
    if len(mine) < 2:
        return None
    weights = set.intersection(*({grid.conditions[i].weight for i in grid.of(c)} for c in mine))
    if not weights:
        return None
    weight = min(weights, key=lambda w: (abs(w - 1.0), w))
    index = [next(i for i in grid.of(c) if grid.conditions[i].weight == weight) for c in mine]

    def pick(name: str) -> list[float] | None:
        draws = context.shared.get(name)
        return None if draws is None else [float(draws.estimate[i]) for i in index]

    vendi = context.shared["diversity"]["vendi"]
    valid = np.isfinite(vendi).any(axis=(1, 2))
    diversity = [float(np.nanmean(vendi[i])) if valid[i] else float("nan") for i in index]
    top = np.nanmax(diversity) if np.isfinite(diversity).any() else 1.0
    spread = [(v - 1.0) / max(top - 1.0, 1e-9) for v in diversity]
    return Samples([float(steps[c] or 0) for c in mine], pick("relative"), spread, pick("kept"))


def _no_better_later(context: Context, checkpoint: str) -> str | None:
    """Why a loss that still fell here was no sign of too little training: later checkpoints draw no better."""
    grid, relative = context.grid, context.shared.get("relative")
    if relative is None:
        return None
    lora_of = _loras(context)
    best: dict[float, float] = {}
    for name in grid.checkpoints:
        if lora_series(name, lora_of) != lora_series(checkpoint, lora_of):
            continue
        mine = grid.of(name)
        step, found = grid.conditions[mine[0]].step, relative.estimate[mine]
        if step is not None and np.isfinite(found).any():
            best[step] = float(np.nanmax(found))
    here = grid.conditions[grid.of(checkpoint)[0]].step
    later = {step: value for step, value in best.items() if here is not None and step > here}
    if here not in best or not later or max(later.values()) > best[here] + BETTER:
        return None
    return f"later checkpoints draw no better (likeness {max(later.values()):.2f}, here {best[here]:.2f})"


def lora_series(checkpoint: str, lora_of: dict[str, str]) -> str:
    """The LoRA that a checkpoint belongs to: its name without the step."""
    return re.sub(r"[-_](step)?\d+$", "", lora_of.get(checkpoint) or checkpoint)


def _until(history: LossHistory, step: int | None, samples: Samples | None) -> Diagnosis:
    """The diagnosis of what had been trained when the checkpoint was saved."""
    train, val = np.ones(len(history.step), dtype=bool), np.ones(len(history.val_step), dtype=bool)
    if step is not None and (history.step <= step).any():
        train, val = history.step <= step, history.val_step <= step
    error = history.val_error[val] if len(history.val_error) else None
    if samples is not None and step is not None:
        samples = samples.until(step)
    return diagnose(
        history.step[train],
        history.loss[train],
        history.val_loss[val] if val.any() else None,
        samples,
        val_step=history.val_step[val] if val.any() else None,
        val_error=error if val.any() else None,
        averaged=history.averaged,
    )
