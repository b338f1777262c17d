"""Fidelity: does it look like the pictures it was trained for?

CLIP-I and DINO as in DreamBooth (arXiv 2208.12242, section 5): mean cosine to the real pictures. The absolute number
depends on the encoder and rewards backgrounds, so it is read between two anchors measured with the same encoder: the
base model (0) and the references among themselves (1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lora_eval.encoders.registry import SPECS
from lora_eval.scorecard.data import Measure
from lora_eval.scorecard.dimensions import arrays
from lora_eval.scorecard.dimensions.context import Context, Estimate, Series, number
from lora_eval.scorecard.dimensions.place import Place, below, interval_text
from lora_eval.scorecard.dimensions.shared import Likeness
from lora_eval.scorecard.dimensions.spec import Advised, CellColumn, Check, DimensionSpec, Finding, Limits, Remedy
from lora_eval.statistics.bootstrap import resample

NAME = "fidelity"
LIMITS = Limits(0.55, 0.30)
# the references must be this much more alike to one another than the base model is to them (cosine), else every ratio
# is noise
ROOM = 0.02
# training pictures whose interval ends below this share of the way to the references show something else
SAME_SUBJECT = 0.85
# with fewer references than this, their likeness to each other (the upper anchor) is not well known
ENOUGH_REFERENCES = 5
# a weight whose interval ends below this score shows no likeness
NO_LIKENESS = 0.05
# a weight shows the concept when it reaches this share of the likeness that any weight reaches
SHOWN = 0.8
NO_REFERENCES = "no reference pictures; name the folder the LoRA was trained on or, better, pictures it never saw"
NO_BASE = "no picture at weight 0; draw the same prompts and seeds without the LoRA"
ONE_REFERENCE = "one reference picture; add at least three, so that their likeness to each other is known"

# -- formulas ------------------------------------------------------------------------------------


def clip_i(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Mean cosine of each picture to the references (CLIP-I of DreamBooth, arXiv 2208.12242).

    DreamBooth's table with ViT-B/32: real pictures among themselves .885, a good fine-tune .80.

    Args:
        pictures: (n, D) unit features.
        references: (R, D) unit features.

    Returns:
        (n,) in [-1, 1].

    Raises:
        ValueError: not finite unit features.
    """
    return _clip_i(arrays.features(pictures, "pictures"), arrays.features(references, "references"))


def _clip_i(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    # the mean of the cosines is the cosine with the (unnormalised) mean
    return np.asarray(pictures, dtype=np.float64) @ np.asarray(references, dtype=np.float64).mean(axis=0)


def leave_one_out(references: np.ndarray) -> np.ndarray:
    """Mean cosine of each reference to the other references, the ceiling of :func:`clip_i`.

    Args:
        references: (R, D) unit features, R at least 2.

    Returns:
        (R,) in [-1, 1].

    Raises:
        ValueError: fewer than two references, or not finite unit features.
    """
    return _leave_one_out(arrays.features(references, "references", at_least=2))


def _leave_one_out(references: np.ndarray) -> np.ndarray:
    references = np.asarray(references, dtype=np.float64)
    own = (references**2).sum(axis=1)
    return (references @ references.sum(axis=0) - own) / (len(references) - 1)


def relative(value: float, base: float, ceiling: float, room: float = ROOM) -> float:
    """Likeness on the scale from the base model to the references: ``(value - base) / (ceiling - base)``.

    Args:
        value, base, ceiling: mean cosines with the LoRA, at weight 0, and of the references among themselves.
        room: smallest distance from base to ceiling that can be divided by.

    Returns:
        0 for the base model, 1 for the references' own level; may lie outside both. NaN where ``ceiling - base`` is
        below ``room``.
    """
    if not math.isfinite(ceiling) or ceiling - base < room:
        return math.nan
    return (value - base) / (ceiling - base)


# -- rows of the summary -------------------------------------------------------------------------


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
    for name in (spec.second for spec in SPECS if spec.second):
        if name not in data.extra and name in data.notes:
            context.notes.setdefault(name, data.notes[name])


def _encoder(context: Context, name: str, features: np.ndarray, references: np.ndarray, main: bool) -> None:
    """Columns and rows by one encoder; rows that are not finite are pictures that it could not read."""
    grid, core = context.grid, context.grid.core()
    references = references[np.isfinite(references).all(axis=1)]
    if not len(references):
        context.not_measured(NAME, name, f"no reference picture could be read by {name}")
        return
    found = np.isfinite(features).all(axis=1)
    values = np.full(len(features), np.nan)
    values[found] = _clip_i(features[found], references)
    context.columns[name] = values
    context.columns[f"{name}_gain"] = context.difference_column(values)
    ceiling = float(_leave_one_out(references).mean()) if len(references) >= 2 else float("nan")
    here = context.draws(context.paired(values) if context.has_base else grid.cube(values), core)
    base = context.draws(context.paired_base(values), core)
    gain = here.map(lambda w, zero: w - zero, base)
    score = here.map(lambda w, zero: np.where(ceiling - zero < ROOM, np.nan, (w - zero) / (ceiling - zero)), base)
    between = Series(here, base.estimate, number(ceiling), score.estimate, bounds=(-1.0, 1.0))
    context.add_series(NAME, name, between)
    context.add_series(NAME, f"{name}_gain", Series(gain, 0.0, bounds=(-2.0, 2.0)))
    if not found.all():
        rate = context.draws(grid.cube(found.astype(float)), core)
        context.add_series(NAME, f"{name}_detected", Series(rate, bounds=(0.0, 1.0)))
    verdicts = [_missing(context, float(base.estimate[c]), ceiling) for c in range(len(grid.conditions))]
    scored = Series(score, 0.0, 1.0, score.estimate, verdicts)
    context.add_series(NAME, "score" if main else f"{name}_score", scored)
    if main:
        other = _training(context, references, ceiling, base.estimate)
        context.shared.likeness = Likeness(values, gain, score, base, ceiling, other)
        context.evidence[NAME]["interval_scope"] = here.scope
        context.evidence[NAME]["best_and_worst"] = _extremes(context, values, core)


def _missing(context: Context, base: float, ceiling: float) -> str:
    """Why a condition has no score, "" where it has one."""
    if not context.has_base or not np.isfinite(base):
        return f"not measured: {NO_BASE}"
    if not np.isfinite(ceiling):
        return f"not measured: {ONE_REFERENCE}"
    if ceiling - base < ROOM:
        return (
            f"not measured: the base model's pictures are as alike to the references ({base:.3f}) "
            f"as the references are to each other ({ceiling:.3f}); use references that show the concept alone"
        )
    return ""


def _training(context: Context, references: np.ndarray, ceiling: float, base: np.ndarray) -> bool:
    """Rows of how near the training pictures are to held-out references: 1 where both show the same.

    Returns:
        Whether the training pictures show something else: the interval ends below SAME_SUBJECT.
    """
    training, known = context.data.training, context.data.references
    if training is None or known is None or not known.held_out or len(references) < 2 or len(training) < 2:
        return False
    values = _clip_i(training.features[np.isfinite(training.features).all(axis=1)], references)
    spread = resample(values[:, None], context.resamples, context.seed)
    other = False
    for c, condition in enumerate(context.grid.conditions):
        room = ceiling - base[c]
        if np.isfinite(room) and room >= ROOM:
            mean, low, high = ((float(v) - base[c]) / room for v in (spread.estimate, *spread.interval()))
            found = Estimate(mean, (low, high), len(values), 0.0, 1.0)
            context.add(condition, NAME, "training_likeness", found)
            # NaN, where no interval can be given, is not below the limit
            other = bool(high < SAME_SUBJECT)
    return other


def _extremes(context: Context, values: np.ndarray, core: list[int]) -> dict[str, dict[str, str]]:
    """The pictures most and least like the references, by condition."""
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


# -- result and rules ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Fidelity at one checkpoint and weight; rows are None where they were not measured.

    Attributes:
        score: likeness on the scale from the base model (0) to the references (1).
        clip_i, clip_i_gain: mean cosine to the references, and what it gains over weight 0.
        training_likeness: the training pictures on the same scale.
        references, held_out: number of references, and whether training never saw them.
    """

    score: Measure | None = None
    clip_i: Measure | None = None
    clip_i_gain: Measure | None = None
    training_likeness: Measure | None = None
    references: int = 0
    held_out: bool = False

    @property
    def other_subject(self) -> Measure | None:
        """The row of the training pictures where they show something else than the references, else None."""
        found = self.training_likeness
        return found if found is not None and found.ci_high is not None and found.ci_high < SAME_SUBJECT else None


def read(place: Place) -> Result:
    """The result at a place."""
    row, found = place.rows_of(NAME), place.evidence(NAME)
    return Result(
        score=row("score"),
        clip_i=row("clip_i"),
        clip_i_gain=row("clip_i_gain"),
        training_likeness=row("training_likeness"),
        references=found.get("references", 0),
        held_out=found.get("held_out", False),
    )


def hardly_shows(place: Place, most: Place) -> bool:
    """Whether the concept hardly shows at a place, compared with the place of most likeness.

    It does where the likeness gained over weight 0 is below SHOWN of that there; False where either was not measured.
    """
    if most.where == place.where:
        return False
    here, there = read(place).clip_i_gain, read(most).clip_i_gain
    if here is None or there is None or here.value is None or there.value is None:
        return False
    return here.value < SHOWN * there.value


def _explain(result: Result) -> Finding:
    assert result.score is not None
    likeness = interval_text(result.score)
    text = f"likeness {likeness} on the way from the base model (0) to the references themselves (1)"
    clip = result.clip_i
    if clip is not None and clip.baseline is not None and clip.ceiling is not None:
        text += f"; CLIP-I {clip.value:.3f}, {clip.baseline:.3f} without LoRA, {clip.ceiling:.3f} among the references"
    if 0 < result.references < ENOUGH_REFERENCES:
        text += f"; only {result.references} references, so the upper anchor is rough"
    if not result.held_out:
        text += "; the references are training pictures, so copying would count as likeness"
    other = result.other_subject
    if other is None:
        return Finding(text)
    text += f"; the training pictures themselves come {interval_text(other)} of that way: they show something else"
    return Finding(text, fault=True)


def _excuse(advised: Advised, reason: str) -> str | None:
    """Low likeness is no fault of fidelity where a weight that another dimension excludes reaches a good score."""
    if advised.free.where == advised.place.where:
        return None
    there = read(advised.free).score
    if there is None or there.value is None or there.value < LIMITS.good:
        return None
    return f"{there.value:.2f} at weight {advised.free.weight:g}, which another dimension forbids; here {reason}"


SPEC = DimensionSpec(
    name=NAME,
    title="Feature fidelity",
    question="Does it look like my subject?",
    compared="0: the base model without LoRA; 1: the references among themselves",
    limits=LIMITS,
    add="add reference pictures",
    measure=measure,
    read=read,
    explain=_explain,
    excuse=_excuse,
    by_condition=("best_and_worst",),
    checks=(Check("no likeness", 70, lambda result, place: below(result.score, NO_LIKENESS)),),
    remedies=(
        Remedy(
            lambda result, answer: result.other_subject is not None,
            "the training pictures show something else than the references",
            "check both folders: the references must show what was trained; train on pictures of the subject that is "
            "wanted",
        ),
        Remedy(
            lambda result, answer: answer.verdict == "poor",
            "the pictures hardly come nearer to the references",
            "train longer or with a higher learning rate; check that the trigger stands in every caption and in the "
            "prompt; rank 16 when 8 underfits",
        ),
        Remedy(
            lambda result, answer: True,
            "likeness stays well below what the references reach among themselves",
            "more and sharper pictures from more angles, none blurred or wrong; then a higher rank or a few more "
            "epochs",
            otherwise=True,
        ),
    ),
    columns=(
        CellColumn(
            "clip_i",
            "likeness to the references (CLIP-I)",
            3,
            "Mean cosine between the picture's and the references' image features: 1 would be the same picture.",
            rank=10,
            colour="level",
        ),
        CellColumn(
            "clip_i_gain",
            "likeness gained over weight 0",
            3,
            "How much nearer to the references the LoRA brought this prompt and seed; 0 is the base model.",
            rank=20,
            colour="gain",
        ),
    ),
)
