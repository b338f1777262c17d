"""What must not be used, whatever its likeness.

- *no effect*: every weight of a checkpoint whose largest weight changes pictures by less than a tenth of
  the distance between two seeds, or by less than a third without moving them surely towards the references;
- *blank pictures*: a weight at which half of the pictures are of one shade, which NaN is drawn as;
- *copies*: the share of copies is surely above 5 % and above weight 0's;
- *collapse*: surely less than a quarter of the variety between seeds is left;
- *distortion*: the weight is at or above the onset of distortion;
- *prompt ignored*: surely less than .75 of the base model's margin between prompts is kept;
- *no likeness*: the pictures surely do not come a twentieth of the way to the references.

"Surely" is the 95 % interval; where there is none, the value.
"""

from __future__ import annotations

from lora_eval.scorecard.data import Measure
from lora_eval.scorecard.decision.findings import Rows, find
from lora_eval.scorecard.dimensions.consistency.rows import NO_EFFECT
from lora_eval.scorecard.grid import Grid

HARDLY_ANY_EFFECT = 0.33
COPY_RATE = 0.05
COLLAPSED = 0.25
ALIGNMENT_KEPT = 0.75
NO_LIKENESS = 0.05
BLANK_SHARE = 0.5


def shut_gates(grid: Grid, rows: Rows) -> list[list[str]]:
    """Per condition the names of the gates that shut, in the order above."""
    silent = {name for name in grid.checkpoints if _silent(grid, rows, name)}
    result = []
    for c in grid.conditions:
        onset = find(rows, c, "strength", "onset")
        blank = find(rows, c, "strength", "blank_share")
        copies = find(rows, c, "generalisation", "copies")
        shut = {
            "no effect": c.checkpoint in silent,
            "blank pictures": blank is not None
            and (blank.value or 0.0) >= max(BLANK_SHARE, (blank.baseline or 0.0) + 0.01),
            "copies": copies is not None and (copies.ci_low or 0.0) > max(COPY_RATE, copies.baseline or 0.0),
            "collapse": _surely_below(find(rows, c, "generalisation", "diversity_kept"), COLLAPSED),
            "distortion": onset is not None and onset.value is not None and c.weight >= onset.value,
            "prompt ignored": _surely_below(find(rows, c, "alignment", "score"), ALIGNMENT_KEPT),
            "no likeness": _surely_below(find(rows, c, "fidelity", "score"), NO_LIKENESS),
        }
        result.append([name for name, is_shut in shut.items() if is_shut])
    return result


def _surely_below(row: Measure | None, limit: float) -> bool:
    """Whether even the upper end of the interval lies below the limit; False when not measured."""
    if row is None or row.value is None:
        return False
    return (row.value if row.ci_high is None else row.ci_high) < limit


def _silent(grid: Grid, rows: Rows, checkpoint: str) -> bool:
    mine = [i for i in grid.of(checkpoint) if grid.conditions[i].weight > 0]
    if not mine:
        return False
    top = grid.conditions[mine[-1]]
    effect = find(rows, top, "consistency", "carlos_strength")
    if effect is None or effect.value is None:
        return False
    upper = effect.value if effect.ci_high is None else effect.ci_high
    yardstick = effect.baseline if effect.baseline is not None else 0.0
    # without a second seed there is no yardstick: only pictures that did not change at all are silent
    if upper < max(1e-4, NO_EFFECT * yardstick):
        return True
    gain = find(rows, top, "fidelity", "clip_i_gain")
    unmoved = gain is not None and gain.ci_low is not None and gain.ci_low <= 0.0
    return upper < HARDLY_ANY_EFFECT * yardstick and unmoved


def gate_notes(grid: Grid, shut: list[list[str]]) -> list[str]:
    """Which gates shut where, one line each, for example ``distortion: zorp-300 from weight 1.2``."""
    lines: dict[tuple[str, str], list[float]] = {}
    for c, found in zip(grid.conditions, shut, strict=True):
        for gate in found:
            lines.setdefault((gate, c.checkpoint), []).append(c.weight)
    return [
        f"{gate}: {checkpoint} at weight {', '.join(f'{w:g}' for w in weights)}"
        for (gate, checkpoint), weights in lines.items()
    ]
