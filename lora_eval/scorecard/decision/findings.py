"""What was found in each dimension, in a sentence, and whether it is bad in itself whatever the score."""

from __future__ import annotations

import math

from lora_eval.scorecard.data import Measure, Measurement
from lora_eval.scorecard.decision.advice import splits, varies_more
from lora_eval.scorecard.dimensions.fidelity.formulas import SAME_SUBJECT
from lora_eval.scorecard.grid import Condition

# "good" from the first, "poor" when even the upper end of the interval is below the second; see verdicts.py
LIMITS = {
    "consistency": (0.50, 0.25),
    "fidelity": (0.55, 0.30),
    "generalisation": (0.60, 0.30),
    "curve": (1.0, 0.40),
    "strength": (0.50, 0.25),
    "alignment": (0.80, 0.60),
}
# below this many references their likeness to each other, the upper anchor, is not well known
FEW_REFERENCES = 5
# pictures that merely ignore their prompts lie near the middle of the training pictures, and as near to held-out ones
GAP = 0.1

Rows = dict[tuple[str, float | None, str, str], Measure]


def index_rows(measurement: Measurement) -> Rows:
    """Summary rows by (checkpoint, weight, dimension, measure)."""
    return {(m.checkpoint, m.weight, m.dimension, m.measure): m for m in measurement.summary}


def find(rows: Rows, where: Condition, dimension: str, measure: str) -> Measure | None:
    """The row of a condition or, where the number belongs to the checkpoint, of that; None without a value."""
    row = rows.get((where.checkpoint, where.weight, dimension, measure)) or rows.get(
        (where.checkpoint, None, dimension, measure)
    )
    return row if row is not None and row.value is not None else None


def interval_text(row: Measure, digits: int = 2) -> str:
    """``0.72 (0.61 to 0.80)``, or the value alone where there is no interval."""
    value = math.nan if row.value is None else row.value
    if row.ci_low is None or row.ci_high is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({row.ci_low:.{digits}f} to {row.ci_high:.{digits}f})"


def _consistency(rows: Rows, where: Condition, row: Measure, measurement: Measurement) -> tuple[str, bool]:
    worse = False
    carlos = find(rows, where, "consistency", "carlos_consistency")
    known = carlos is not None and carlos.ceiling is not None
    one = "what the references would give" if known else "the same change each time"
    text = f"the change that the LoRA makes agrees between seeds at {interval_text(row)}; 0 is noise, 1 {one}"
    drift = find(rows, where, "consistency", "drift_share")
    if drift is not None and drift.value:
        count = round((drift.value or 0) * drift.n)
        text += f"; {count} of {drift.n} pictures drift from the other seeds of their prompt"
        worse |= (drift.ci_low or 0.0) > max(0.05, drift.baseline or 0.0)
    ratio, share = (find(rows, where, "consistency", name) for name in ("split_ratio", "split_share"))
    if ratio is not None and share is not None and splits(ratio.value, share.value):
        text += f"; draws fall into two kinds: {share.value:.0%} of what seeds change lies on one line"
        worse = True
    spread = find(rows, where, "consistency", "style_spread_ratio")
    if spread is not None and varies_more(spread.value, spread.ci_low, spread.n):
        text += f"; the style varies {spread.value:.1f} times as much between seeds as the base model's"
        worse = True
    return text, worse


def _fidelity(rows: Rows, where: Condition, row: Measure, measurement: Measurement) -> tuple[str, bool]:
    text = f"likeness {interval_text(row)} on the way from the base model (0) to the references themselves (1)"
    clip = find(rows, where, "fidelity", "clip_i")
    if clip is not None and clip.baseline is not None and clip.ceiling is not None:
        text += f"; CLIP-I {clip.value:.3f}, {clip.baseline:.3f} without LoRA, {clip.ceiling:.3f} among the references"
    found = measurement.evidence.get("fidelity", {})
    if 0 < found.get("references", 0) < FEW_REFERENCES:
        text += f"; only {found['references']} references, so the upper anchor is rough"
    if not found.get("held_out", False):
        text += "; the references are training pictures, so copying would count as likeness"
    trained = find(rows, where, "fidelity", "training_likeness")
    if trained is None or trained.ci_high is None or trained.ci_high >= SAME_SUBJECT:
        return text, False
    text += f"; the training pictures themselves come {interval_text(trained)} of that way: they show something else"
    return text, True


_PARTS = {
    "fidelity_kept": "of the likeness is kept on challenge prompts",
    "alignment_kept": "of the listening to the prompt is kept on challenge prompts, against plain ones",
    "diversity": "of the variety between seeds is kept",
    "leak": "is left after the leak into prompts without the trigger",
    "held_out_gap": "is left after the gap between training and held-out pictures",
    "copies": "of the pictures are no copies of training pictures",
    "data_copying": "of the pictures lie no nearer to the training pictures than held-out ones do",
}


def _generalisation(rows: Rows, where: Condition, row: Measure, measurement: Measurement) -> tuple[str, bool]:
    found = measurement.evidence.get("generalisation", {})
    part = found.get("weakest", {}).get(where.key, {}).get("part", "fidelity_kept")
    text = f"weakest part: {interval_text(row)} {_PARTS[part]}"
    leak = find(rows, where, "generalisation", "leak")
    if part == "leak" and leak is not None:
        text = f"without the trigger pictures move {interval_text(leak)} as far towards the concept as with it (1)"
    pairs = found.get("copies", {}).get(where.key, [])
    if pairs:
        first = pairs[0]
        text += f"; {len(pairs)} pictures look copied, {first['image']} from {first['training']}"
    near = find(rows, where, "generalisation", "data_copying")
    gap = find(rows, where, "generalisation", "held_out_gap")
    copying = (
        near is not None and near.ci_low is not None and near.ci_low > (near.baseline or 0.0)
        and gap is not None and (gap.value or 0.0) > GAP
    )  # fmt: skip
    if near is not None and copying and part != "data_copying":
        text += f"; {near.value:.0%} of the pictures lie nearer to a training picture than held-out ones do"
    missing = [
        key.split(".", 1)[1].replace("_", " ") for key in sorted(measurement.notes) if key.startswith("generalisation.")
    ]
    if missing:
        text += f"; not judged: {', '.join(missing)}"
    return text, bool(pairs) or copying


def _curve(rows: Rows, where: Condition, row: Measure, measurement: Measurement) -> tuple[str, bool]:
    found = measurement.evidence.get("curve", {}).get("histories", {}).get(where.checkpoint, {})
    return f"{row.verdict}: {found.get('reason', '')}", False


_STRENGTH_PARTS = {
    "monotony": "it does not rise with every step of weight",
    "smoothness": "it rises in a jump",
    "unbroken": "pictures break early",
    "room": "half of the likeness is there at a small weight already",
}


def _strength(rows: Rows, where: Condition, row: Measure, measurement: Measurement) -> tuple[str, bool]:
    curve = measurement.evidence.get("strength", {}).get("curves", {}).get(where.checkpoint, {})
    usable, onset = curve.get("usable") or [], curve.get("onset")
    text = f"usable from {usable[0]:g} to {usable[-1]:g}" if usable else "no usable weight"
    text += f", distorted from {onset:g} on" if onset is not None else ", no distortion seen"
    part = curve.get("weakest")
    if part:
        weak = (row.value or 0.0) < LIMITS["strength"][0]
        text += f"; weakest part {part} {interval_text(row)}" + (f": {_STRENGTH_PARTS[part]}" if weak else "")
    return text, False


def _alignment(rows: Rows, where: Condition, row: Measure, measurement: Measurement) -> tuple[str, bool]:
    text = f"pictures tell their prompt from the others at {interval_text(row)} of the base model's margin (1)"
    delta = find(rows, where, "alignment", "clip_t_delta")
    if delta is not None:
        text += f"; CLIP-T {delta.value:+.3f} against weight 0"
    worse = False
    elements = find(rows, where, "alignment", "foils_beaten_delta")
    if elements is not None:
        text += f"; elements beat their foils {elements.value:+.0%} against weight 0"
        worse = elements.ci_high is not None and elements.ci_high < -0.05
    negative = measurement.evidence.get("alignment", {}).get("negative", {}).get(where.key)
    if negative and negative["works"] is not None:
        text += "; the negative prompt works" if negative["works"] else "; the negative prompt has no sure effect"
    return text, worse


EXPLAIN = {
    "consistency": _consistency,
    "fidelity": _fidelity,
    "generalisation": _generalisation,
    "curve": _curve,
    "strength": _strength,
    "alignment": _alignment,
}
