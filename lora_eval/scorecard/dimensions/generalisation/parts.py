"""The parts of generalisation: kept likeness and alignment, diversity, leak, nearness to training pictures, copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lora_eval.scorecard.dimensions import fidelity
from lora_eval.scorecard.dimensions.alignment.rows import MARGIN_NEEDED
from lora_eval.scorecard.dimensions.consistency.formulas import vendi_of_sets
from lora_eval.scorecard.dimensions.context import Context, Estimate, Series, number
from lora_eval.scorecard.dimensions.generalisation import formulas
from lora_eval.scorecard.dimensions.generalisation.copies import NAME, PART_COUNT, PART_LEVEL, miss
from lora_eval.scorecard.dimensions.shared import Likeness
from lora_eval.scorecard.grid import CHALLENGE_ROLES, OPEN_ROLES, TRIGGERED_ROLES
from lora_eval.statistics.bootstrap import Draws
from lora_eval.statistics.intervals import wilson

# variety is divided by the base model's, or by this share of it where a resample has less
VARIETY_FLOOR = 0.1
# held-out pictures that can be compared with the training pictures
HELD_OUT_NEEDED = 4
# share of the distance to the references that likeness must gain, or the concept does not show
GAIN_NEEDED = 0.1


class PartValues(NamedTuple):
    """One part of the score, (C,) each: its value, the ends of its interval at PART_LEVEL, pictures behind it."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


@dataclass(frozen=True)
class Part:
    """One part of the score.

    Attributes:
        name: in the evidence.
        measure: adds its rows, and returns its values; None where it was not measured, or is not judged.
        says: the words after the value in the finding, where this part is the smallest.
        seen, change: the row of advice where this part is the smallest, "" for none of its own.
        decides: whether the part alone can show that the concept was learnt, or that the training pictures were. Where
            no such part was measured, there is no score.
    """

    name: str
    measure: Callable[[Context], PartValues | None]
    says: str
    seen: str = ""
    change: str = ""
    decides: bool = True


def _miss(context: Context, measure: str, reason: str) -> PartValues | None:
    """Say why a part was not measured. Returns None, the values of such a part."""
    miss(context, measure, reason)
    return None


def _of_draws(draws: Draws) -> PartValues:
    """Values of a part whose draws are 1 where nothing is lost."""
    low, high = draws.interval(PART_LEVEL)
    return PartValues(draws.estimate, low, high, draws.n)


def _of_loss(draws: Draws) -> PartValues:
    """Values of a part whose draws are 0 where nothing is lost."""
    low, high = draws.interval(PART_LEVEL)
    return PartValues(1.0 - draws.estimate, 1.0 - high, 1.0 - low, draws.n)


def concept_shows(context: Context) -> np.ndarray | None:
    """(C,) whether the concept shows, on plain prompts or on all; otherwise there is nothing to keep or to leak.

    It does where the lower end of the interval of the likeness gained exceeds GAIN_NEEDED of the distance to the
    references. None without references.
    """
    likeness = context.shared.likeness
    if likeness is None:
        return None
    clip_i, room = likeness.clip_i, _room(likeness)
    needed = GAIN_NEEDED * np.clip(room, fidelity.ROOM, None)
    shows = np.zeros(len(context.grid.conditions), dtype=bool)
    for prompts in (context.grid.core(), context.grid.prompts_of(TRIGGERED_ROLES)):
        if prompts:
            gain = context.draws(context.paired(clip_i) - context.paired_base(clip_i), prompts)
            low, _ = gain.interval()
            with np.errstate(invalid="ignore"):
                shows |= np.where(np.isfinite(low), low, gain.estimate) > needed
    return shows


def _room(likeness: Likeness) -> np.ndarray:
    """(C,) distance in cosine from weight 0 to the references' own level."""
    return likeness.ceiling - likeness.base.estimate


def _fidelity_kept(context: Context) -> PartValues | None:
    """Likeness gained on challenge and composition prompts over that on plain ones.

    Both gains are taken as they are, or each over its own distance from the base model to the references; the larger
    ratio counts. A new scene makes the distance longer, and a base model that is nearer there already makes the gain
    smaller; neither is a loss by the LoRA.
    """
    challenge = context.grid.prompts_of(CHALLENGE_ROLES)
    if not challenge:
        return _miss(context, "fidelity_kept", "no challenge prompt; add prompts with a new scene, style or action")
    shows, likeness = concept_shows(context), context.shared.likeness
    if shows is None or likeness is None:
        return _miss(context, "fidelity_kept", "no reference pictures; name pictures of the concept")
    if not shows.any():
        return _miss(context, "fidelity_kept", "the concept does not surely show, so there is nothing to keep")
    clip_i, ceiling = likeness.clip_i, likeness.ceiling
    there = context.draws(context.paired(clip_i) - context.paired_base(clip_i), challenge)
    of_gain = there.map(lambda a, b: a / b, likeness.gain)
    # a base model that is already nearer on challenge prompts leaves less to gain there
    base = context.draws(context.paired_base(clip_i), challenge)
    relative = there.map(lambda a, z: np.where(ceiling - z < fidelity.ROOM, np.nan, a / (ceiling - z)), base)
    of_way = relative.map(lambda a, b: a / b, likeness.relative)
    kept = of_gain.map(np.fmax, of_way).map(lambda v: np.where(shows, v, np.nan))
    context.add_series(NAME, "fidelity_kept", Series(kept, 1.0))
    context.evidence[NAME]["challenge_prompts"] = [context.grid.prompts[p] for p in challenge]
    return _of_draws(kept)


def _alignment_kept(context: Context) -> PartValues | None:
    """Margin between prompts that is kept on challenge prompts, beyond what plain prompts lose."""
    challenge, core = context.grid.prompts_of(CHALLENGE_ROLES), context.grid.core()
    found = context.shared.prompt_margin
    if found is None and "texts" in context.data.notes:
        return _miss(context, "alignment_kept", context.data.notes["texts"])
    if not challenge or found is None or not np.isfinite(found.margin).any():
        return _miss(context, "alignment_kept", "no challenge prompt with an encoded text; add some and embed again")
    margin = found.margin

    def kept(prompts: list[int]) -> Draws:
        cube = context.paired(margin)
        base = context.draws(context.paired_base(margin, cube), prompts)
        return context.draws(cube, prompts).map(lambda w, zero: np.where(zero > MARGIN_NEEDED, w / zero, np.nan), base)

    beyond = kept(challenge).map(lambda a, b: 1.0 + a - np.minimum(b, 1.0), kept(core))
    context.add_series(NAME, "alignment_kept", Series(beyond, 1.0))
    return _of_draws(beyond)


def _diversity(context: Context) -> PartValues | None:
    """Variety between seeds, (Vendi - 1), over that of weight 0.

    Where that is less, over the variety of as many references, or over that of the base model on prompts without the
    trigger. Seeds of a concept that the base model does not know give different things each time, and a LoRA has to
    end that variety; what it should keep is the variety with which the base model draws what it knows.
    """
    variety = context.shared.variety
    assert variety is not None
    vendi, base = variety.vendi, variety.vendi_0
    if not np.isfinite(vendi * base).any():
        return _miss(
            context,
            "diversity_kept",
            "fewer than two seeds with a weight-0 twin; draw at least 4 seeds of every prompt",
        )
    ceiling = variety.reference or np.inf
    every = list(range(vendi.shape[1]))
    ceiling = ceiling if np.isfinite(ceiling) else np.inf
    known = _known_variety(context)
    ceiling = min(ceiling, known) if np.isfinite(known) else ceiling
    here, zero = context.draws(vendi, every), context.draws(base, every)
    # a resample of few prompts can have hardly any variety at weight 0, which would make the ratio of any size
    floor = np.maximum(VARIETY_FLOOR * (np.minimum(zero.estimate, ceiling) - 1.0), 1e-9)

    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a - 1.0) / np.maximum(np.minimum(b, ceiling) - 1.0, floor)

    kept = here.map(ratio, zero)
    context.add_series(NAME, "diversity_kept", Series(kept, 1.0, bounds=(0.0, np.inf)))
    vendi_ratio = here.map(lambda a, b: a / b, zero)
    context.add_series(NAME, "vendi_ratio", Series(vendi_ratio, 1.0, bounds=(0.0, np.inf)))
    return _of_draws(kept)


def _known_variety(context: Context) -> float:
    """Vendi score of the base model's seeds on prompts without the trigger, NaN without any."""
    rows = context.grid.base[context.grid.prompts_of(("unrelated",))]
    features = context.data.features[np.maximum(rows, 0)].astype(np.float64)
    found = vendi_of_sets(features @ np.swapaxes(features, -1, -2), rows >= 0)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def _leak(context: Context) -> PartValues | None:
    """1 less the movement towards the references without the trigger over that with it (characters and objects)."""
    grid = context.grid
    unrelated = grid.prompts_of(("unrelated",))
    if not unrelated:
        return _miss(context, "leak", "no prompt without the trigger; add unrelated prompts")
    features = context.data.features
    drift = np.full(grid.rows.shape, np.nan)
    for c in range(len(grid.conditions)):
        rows, twins = grid.rows[c][unrelated], grid.twins()[c][unrelated]
        found = twins >= 0
        part = np.full(rows.shape, np.nan)
        part[found] = (1.0 - (features[rows[found]].astype(np.float64) * features[twins[found]]).sum(axis=1)) / 2.0
        drift[c, unrelated] = part
    context.add_series(NAME, "unrelated_drift", Series(context.draws(drift, unrelated), 0.0, bounds=(0.0, 1.0)))
    shows, likeness = concept_shows(context), context.shared.likeness
    if shows is None or likeness is None:
        return _miss(context, "leak", "no reference pictures; name pictures of the concept")
    if not shows.any():
        return _miss(context, "leak", "the concept does not surely show, so there is nothing to leak")
    movement = context.paired(likeness.clip_i) - context.paired_base(likeness.clip_i)
    context.columns["leak"] = np.where(
        np.isin(np.arange(len(context.data.cells)), grid.rows[:, unrelated]), context.columns["clip_i_gain"], np.nan
    )
    # over all prompts with the trigger: the movement on the few plain ones is known too roughly to divide by
    with_trigger = context.draws(movement, grid.prompts_of(OPEN_ROLES) or grid.core())
    ratio = context.draws(movement, unrelated).map(lambda a, b: a / b, with_trigger)
    ratio = ratio.map(lambda v: np.where(shows, v, np.nan))
    context.add_series(NAME, "leak", Series(ratio, 0.0))
    if context.data.kind == "style":
        # a style is wanted on everything; its leak is reported and not judged
        return None
    # pictures that move away from the concept without the trigger are no gain
    found = _of_loss(ratio)
    return PartValues(np.minimum(found.value, 1.0), np.minimum(found.low, 1.0), np.minimum(found.high, 1.0), found.n)


def _held_out_gap(context: Context) -> PartValues | None:
    """1 less the likeness to training pictures beyond that to held-out ones, over the distance to the references."""
    references, training, likeness = context.data.references, context.data.training, context.shared.likeness
    if references is None or training is None or not references.held_out:
        return _miss(context, "held_out_gap", "no held-out pictures; keep at least four pictures out of training")
    if len(references) < HELD_OUT_NEEDED:
        return _miss(
            context,
            "held_out_gap",
            f"{len(references)} held-out pictures; keep at least {HELD_OUT_NEEDED} out of training",
        )
    if likeness is None:
        return _miss(context, "held_out_gap", "no reference pictures; name pictures of the concept")
    if likeness.other_subject:
        return _miss(
            context,
            "held_out_gap",
            "the training pictures show something else than the references, see fidelity",
        )
    room = _room(likeness)
    gap = fidelity._clip_i(context.data.features, training.features) - likeness.clip_i
    core = context.grid.core()
    here, base = context.draws(context.paired(gap), core), context.draws(context.paired_base(gap), core)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = here.map(lambda w, zero: np.where(room > fidelity.ROOM, (w - zero) / room, np.nan), base)
    context.columns["held_out_gap"] = gap
    context.add_series(NAME, "held_out_gap", Series(relative, 0.0))
    return _of_loss(relative)


def _data_copying(context: Context) -> PartValues | None:
    """1 less the share of pictures nearer to a training picture than held-out ones are, beyond chance.

    After Meehan, Chaudhuri and Dasgupta (arXiv 2004.05675), with a quantile in place of ranks: a picture counts where
    its cosine exceeds the 95th percentile of the held-out pictures'. Chance is 5 %, or weight 0's share where larger.
    """
    references, training, grid = context.data.references, context.data.training, context.grid
    if references is None or training is None or not references.held_out or len(references) < HELD_OUT_NEEDED:
        # the held-out gap names what is missing
        return None
    if context.shared.likeness is not None and context.shared.likeness.other_subject:
        return None
    prompts = grid.prompts_of(TRIGGERED_ROLES) or grid.core()
    _, honest = formulas._nearest(references.features, training.features)
    limit = float(np.quantile(honest, formulas.TRAIN_QUANTILE))
    _, cosine = formulas._nearest(context.data.features, training.features)
    near = cosine > limit
    base = grid.base[prompts]
    chance = max(1.0 - formulas.TRAIN_QUANTILE, float(near[base[base >= 0]].mean()) if (base >= 0).any() else 0.0)
    values = np.full((4, len(grid.conditions)), np.nan)
    for c, condition in enumerate(grid.conditions):
        rows = grid.rows[c][prompts]
        rows = rows[rows >= 0]
        if not len(rows) or chance >= 1.0:
            continue
        hits = int(near[rows].sum())
        low, high = wilson(hits, len(rows))
        context.add(condition, NAME, "data_copying", Estimate(hits / len(rows), (low, high), len(rows), chance))
        wide = wilson(hits, len(rows), PART_LEVEL)
        kept = [1.0 - max(0.0, share - chance) / (1.0 - chance) for share in (hits / len(rows), wide[1], wide[0])]
        values[:, c] = *kept, len(rows)
    context.evidence[NAME]["nearest_training_limit"] = number(limit)
    return PartValues(*values)


def _not_copied(context: Context) -> PartValues | None:
    """Share of pictures that are no copies of training pictures."""
    copies = context.shared.copies
    return None if copies is None else PartValues(*copies.part)


PARTS = (
    Part("fidelity_kept", _fidelity_kept, "of the likeness is kept on challenge prompts"),
    Part(
        "alignment_kept",
        _alignment_kept,
        "of the listening to the prompt is kept on challenge prompts, against plain ones",
        decides=False,
    ),
    Part(
        "diversity",
        _diversity,
        "of the variety between seeds is kept",
        "seeds give nearly the same picture",
        "fewer epochs or a lower weight; vary pose, place and framing in the training pictures",
        decides=False,
    ),
    Part(
        "leak",
        _leak,
        "is left after the leak into prompts without the trigger",
        "the concept shows without its trigger",
        "add pictures of the class without the trigger (regularisation), caption backgrounds and class words, fewer "
        "epochs",
    ),
    Part(
        "held_out_gap",
        _held_out_gap,
        "is left after the gap between training and held-out pictures",
        "training pictures are met better than held-out ones",
        "fewer epochs, more different pictures",
    ),
    Part(
        "data_copying",
        _data_copying,
        "of the pictures lie no nearer to the training pictures than held-out ones do",
        "pictures lie nearer to the training pictures than new ones of the concept do",
        "more pictures that differ in place, light and pose, captioned with what is to stay free; fewer epochs or an "
        "earlier checkpoint, a lower learning rate",
    ),
    # the remedy for copies applies wherever there are any, see the dimension's remedies
    Part("copies", _not_copied, "of the pictures are no copies of training pictures"),
)
assert len(PARTS) == PART_COUNT
