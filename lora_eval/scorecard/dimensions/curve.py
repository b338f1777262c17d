"""Training curve: the loss history of each checkpoint, checked against what was drawn.

The state of a curve (converged, still falling, ...) is found by :func:`lora_eval.training.curve.diagnose`. A curve that
still falls counts as converged where later checkpoints draw no better.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lora_eval.errors import RunError
from lora_eval.scorecard.data import Dimension, Measure
from lora_eval.scorecard.dimensions.context import Context, Estimate, number
from lora_eval.scorecard.dimensions.place import Place
from lora_eval.scorecard.dimensions.spec import DimensionSpec, Finding, Limits, Remedy
from lora_eval.statistics.bootstrap import Draws

if TYPE_CHECKING:
    from lora_eval.training.curve import Diagnosis, Samples
    from lora_eval.training.logs import LossHistory

NAME = "curve"
LIMITS = Limits(1.0, 0.40)
NO_HISTORY = "no loss history; name the training's history.csv or TensorBoard folder"
# a grade for the radar, not a measurement: how far the curve supports trusting the checkpoint
GRADES = {"converged": 1.0, "still falling": 0.6, "oscillating": 0.4, "overfit": 0.3, "flat": 0.2, "diverged": 0.0}
# likeness by which a later checkpoint must lead before longer training is said to have helped
BETTER = 0.05
# the lowest grade of a curve that says training did no harm: converged or still falling
SOUND = GRADES["still falling"]

# -- rows of the summary -------------------------------------------------------------------------


def measure(context: Context) -> None:
    """Score: the grade of the state: converged 1, still falling .6, oscillating .4, overfit .3, flat .2, diverged 0."""
    # training is not needed to start a WebUI, where the words of this module are
    from lora_eval.training.logs import read_history

    grid = context.grid
    context.evidence[NAME] = {"histories": {}}
    histories: dict[Path, LossHistory | str] = {}
    lora_of = _loras(context)
    for checkpoint in grid.checkpoints:
        where = grid.conditions[grid.of(checkpoint)[0]]
        path = _path(context, checkpoint, lora_of.get(checkpoint, ""))
        if path is None:
            reason = context.data.notes.get("history", NO_HISTORY)
            context.add(where, NAME, "state", Estimate(None, verdict=f"not measured: {reason}"), whole_checkpoint=True)
            continue
        if path not in histories:
            try:
                histories[path] = read_history(path)
            except RunError as error:
                histories[path] = str(error)
        history = histories[path]
        if isinstance(history, str):
            context.notes["history"] = history
            failed = Estimate(None, verdict=f"not measured: {history}")
            context.add(where, NAME, "state", failed, whole_checkpoint=True)
            continue
        found, whole = _diagnosis(context, checkpoint, history)
        _add(context, checkpoint, found)
        detail = {k: number(v) if isinstance(v, float) else v for k, v in asdict(found).items()}
        detail["whole_run"] = whole.state
        context.evidence[NAME]["histories"][checkpoint] = {**detail, "source": history.source, "file": path.name}


def _diagnosis(context: Context, checkpoint: str, history: LossHistory) -> tuple[Diagnosis, Diagnosis]:
    """The diagnosis of what had been trained when the checkpoint was saved, and that of the whole run."""
    grid = context.grid
    step = grid.conditions[grid.of(checkpoint)[0]].step
    samples = _samples(context, checkpoint)
    found, whole = _until(history, step, samples), _until(history, None, samples)
    if found.state == "too short":
        found = whole
    if found.state == "still falling" and (why := _no_better_later(context, checkpoint)) is not None:
        found = replace(found, state="converged", reason=f"{found.reason}; {why}")
    return found, whole


def _add(context: Context, checkpoint: str, found: Diagnosis) -> None:
    """Rows of a diagnosis."""

    def add(name: str, estimate: Estimate) -> None:
        where = context.grid.conditions[context.grid.of(checkpoint)[0]]
        context.add(where, NAME, name, estimate, whole_checkpoint=True)

    grade = GRADES.get(found.state)
    verdict = found.state if grade is not None else f"not measured: {found.reason}"
    add("state", Estimate(grade, n=found.n, score=grade, verdict=verdict))
    if found.slope is not None and found.slope_low is not None and found.slope_high is not None:
        add("late_slope", Estimate(found.slope, (found.slope_low, found.slope_high), found.n, 0.0))
    add("fall", Estimate(found.fall, n=found.n, baseline=0.0))


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
    from lora_eval.training.curve import Samples

    grid, likeness, prompt_margin = context.grid, context.shared.likeness, context.shared.prompt_margin
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

    def pick(draws: Draws) -> list[float]:
        return [float(draws.estimate[i]) for i in index]

    assert context.shared.variety is not None
    vendi = context.shared.variety.vendi
    valid = np.isfinite(vendi).any(axis=(1, 2))
    diversity = [float(np.nanmean(vendi[i])) if valid[i] else float("nan") for i in index]
    top = np.nanmax(diversity) if np.isfinite(diversity).any() else 1.0
    spread = [(v - 1.0) / max(top - 1.0, 1e-9) for v in diversity]
    return Samples(
        [float(steps[c] or 0) for c in mine],
        None if likeness is None else pick(likeness.relative),
        spread,
        None if prompt_margin is None else pick(prompt_margin.kept),
    )


def _no_better_later(context: Context, checkpoint: str) -> str | None:
    """Why a loss that still fell at the checkpoint is no sign of too little training: later ones draw no better."""
    if context.shared.likeness is None:
        return None
    grid, relative = context.grid, context.shared.likeness.relative
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
    """The diagnosis of the history up to a step; of all of it where the step is None or before its first value."""
    from lora_eval.training.curve import diagnose

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


# -- result and rules ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """The training curve of one checkpoint.

    Attributes:
        row: row ``state`` of the summary, its value the grade; None where the curve was not measured.
        state: of the curve, see :data:`GRADES`; "" where there is no history.
        reason: what the state was found from.
    """

    row: Measure | None = None
    state: str = ""
    reason: str = ""

    @property
    def sound(self) -> bool:
        """Whether the curve says that training did no harm: it is converged or still falling."""
        return self.row is not None and (self.row.value or 0.0) >= SOUND


def read(place: Place) -> Result:
    """The result at a place."""
    found = (place.evidence(NAME).get("histories") or {}).get(place.where.checkpoint) or {}
    return Result(place.rows_of(NAME)("state"), found.get("state", ""), found.get("reason", ""))


def _explain(result: Result) -> Finding:
    assert result.row is not None
    return Finding(f"{result.row.verdict}: {result.reason}")


def _state(name: str) -> Callable[[Result, Dimension], bool]:
    return lambda result, answer: result.state == name


SPEC = DimensionSpec(
    name=NAME,
    title="Training curve",
    question="Can I trust the loss curve?",
    compared="1: converged; 0.6: still falling; 0.4: oscillating; 0.3: overfit; 0.2: flat; 0: diverged",
    limits=LIMITS,
    add="name the training's history.csv or TensorBoard folder",
    measure=measure,
    # nothing of strength is read here; it fixes the order of rows in summary.csv
    after=("fidelity", "alignment", "consistency", "strength"),
    by_weight=False,
    headline="state",
    read=read,
    explain=_explain,
    by_checkpoint="histories",
    remedies=(
        Remedy(
            _state("oscillating"),
            "the loss oscillates strongly",
            "the learning rate is too high: halve it, or take a larger batch",
        ),
        Remedy(
            _state("diverged"),
            "the loss runs away",
            "lower the learning rate to a third; check the precision for NaN",
        ),
        Remedy(
            _state("flat"),
            "the loss does not fall",
            "captions wrong or batch too small; if the pictures do not change either, raise the learning rate",
        ),
        Remedy(
            _state("overfit"),
            "validation rises and the pictures get worse",
            "stop and go back: take the checkpoint nearest the lowest validation, fewer epochs next time",
        ),
        Remedy(
            _state("still falling"),
            "the loss still falls",
            "a few more epochs, as long as the test pictures get better",
        ),
    ),
)
