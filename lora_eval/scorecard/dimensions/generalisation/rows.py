"""Generalisation of a run: what is left on challenge prompts, copies pair by pair, diversity, leak."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_eval.scorecard.dimensions.consistency import formulas as consistency_metric
from lora_eval.scorecard.dimensions.context import Context, number
from lora_eval.scorecard.dimensions.fidelity import formulas as fidelity_metric
from lora_eval.scorecard.dimensions.generalisation import formulas as metric
from lora_eval.scorecard.grid import CHALLENGE_ROLES, OPEN_ROLES, TRIGGERED_ROLES
from lora_eval.statistics.bootstrap import Draws
from lora_eval.statistics.intervals import LEVEL, wilson

NAME = "generalisation"
VARIETY_FLOOR = 0.1
HELD_OUT_NEEDED = 4
# of up to seven parts the smallest counts: each is bounded so that all hold at once in 95 % (Bonferroni)
PART_LEVEL = 1.0 - (1.0 - LEVEL) / 7


def measure(context: Context) -> None:
    """Score: the smallest of the parts below, each 1 when nothing is lost and 0 when everything is.

    - likeness kept: gain on challenge and composition prompts over gain on plain prompts, as such or each over
      its own way from the base model to the references, whichever is more: a new scene makes the way longer,
      a base model that is nearer there already makes the gain smaller, and neither is the LoRA's loss;
    - alignment kept there beyond what plain prompts keep;
    - copies: 1 - share of pictures that two witnesses call a copy (weight 0's own copies taken off);
    - diversity: (Vendi - 1) over that of weight 0 or, where lower, of as many references or of weight 0's prompts
      without the trigger;
    - leak (characters and objects): 1 - movement towards the references without the trigger over
      the movement with it;
    - held-out gap: 1 - likeness to the training pictures beyond that to held-out ones, over the room;
    - data copying: 1 - share of pictures that lie nearer to a training picture than held-out ones do, beyond the
      share expected by chance (Meehan, Chaudhuri and Dasgupta, arXiv 2004.05675, by a quantile in place of ranks).

    Each part counts with its bound nearest 1 (it is lost only as far as that is sure), so that seven
    noisy numbers do not make a good LoRA look bad by their minimum. The interval runs from the smallest
    of the parts' lower ends to the smallest of their upper ends.
    """
    context.evidence.setdefault(NAME, {})
    parts: dict[str, Draws | np.ndarray] = {}
    for name, found in (
        ("fidelity_kept", _fidelity_kept(context)),
        ("alignment_kept", _alignment_kept(context)),
        ("diversity", _diversity(context)),
        ("leak", _leak(context)),
        ("held_out_gap", _held_out_gap(context)),
        ("data_copying", _data_copying(context)),
        ("copies", context.shared.get("copies")),
    ):
        if found is not None:
            parts[name] = found
    _score(context, parts)


def _score(context: Context, parts: dict[str, Any]) -> None:
    grid = context.grid
    weakest: dict[str, dict[str, Any]] = {}
    # copies and gap judge memorising, kept and leak judge reach: with neither there is no verdict
    judged = [name for name in ("fidelity_kept", "copies", "leak", "held_out_gap", "data_copying") if name in parts]
    shows = _positive_gain(context)
    for c, condition in enumerate(grid.conditions):
        rows = {}
        for name, part in parts.items():
            value, low, high, n = (float(x[c]) for x in part)
            if np.isfinite(value):
                rows[name] = (value, low, high, int(n))
        copied = "copies" in rows and rows["copies"][0] < 1.0
        if shows is not None and not shows[c] and not copied:
            reason = "the concept does not surely show, so there is nothing to generalise"
            context.add(condition, NAME, "score", None, verdict=f"not measured: {reason}")
            continue
        if not any(name in rows for name in judged):
            found = [v for k, v in sorted(context.notes.items()) if k.startswith("generalisation.")]
            reason = "; ".join(dict.fromkeys(found)) or "add challenge prompts, the training pictures and references"
            context.add(condition, NAME, "score", None, verdict=f"not measured: {reason}")
            continue
        sure = {name: (value if not np.isfinite(high) else high) for name, (value, _, high, _) in rows.items()}
        name = min(sure, key=lambda key: (min(1.0, sure[key]), key))
        value, _, high, n = rows[name]
        low = min((r[1] for r in rows.values() if np.isfinite(r[1])), default=np.nan)
        # a ratio to next to nothing runs away; lost twice over is lost
        value, low, high = (float(x) for x in np.clip((value, low, high), -1.0, 1.0))
        context.add(condition, NAME, "score", value, (low, high), n, 0.0, 1.0, value)
        weakest[condition.key] = {
            "part": name,
            "parts": {
                key: {"value": number(r[0]), "ci_low": number(r[1]), "ci_high": number(r[2])} for key, r in rows.items()
            },
        }
    context.evidence[NAME]["weakest"] = weakest


def _stack(draws: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    low, high = draws.interval(PART_LEVEL)
    return draws.estimate, low, high, draws.n


def _miss(context: Context, measure_name: str, reason: str) -> None:
    context.notes[f"generalisation.{measure_name}"] = reason
    context.not_measured(NAME, measure_name, reason)


def _positive_gain(context: Context) -> np.ndarray | None:
    """(C,) whether the concept surely shows, on plain prompts or on all; there is nothing to keep otherwise."""
    clip_i = context.shared.get("clip_i")
    if clip_i is None:
        return None
    room = context.shared["ceiling"] - context.shared["base_clip_i"].estimate
    needed = 0.1 * np.clip(room, fidelity_metric.ROOM, None)
    shows = np.zeros(len(context.grid.conditions), dtype=bool)
    for prompts in (context.grid.core(), context.grid.prompts_of(TRIGGERED_ROLES)):
        if prompts:
            gain = context.draws(context.paired(clip_i) - context.paired_base(clip_i), prompts)
            low, _ = gain.interval()
            with np.errstate(invalid="ignore"):
                shows |= np.where(np.isfinite(low), low, gain.estimate) > needed
    return shows


def _fidelity_kept(context: Context) -> Any:
    challenge = context.grid.prompts_of(CHALLENGE_ROLES)
    if not challenge:
        return _miss(context, "fidelity_kept", "no challenge prompt; add prompts with a new scene, style or action")
    shows = _positive_gain(context)
    if shows is None:
        return _miss(context, "fidelity_kept", "no reference pictures; name pictures of the concept")
    if not shows.any():
        return _miss(context, "fidelity_kept", "the concept does not surely show, so there is nothing to keep")
    clip_i = context.shared["clip_i"]
    there = context.draws(context.paired(clip_i) - context.paired_base(clip_i), challenge)
    of_gain = there.map(lambda a, b: a / b, context.shared["gain"])
    # by how far it was to go: a base model that already comes nearer on challenge prompts leaves less to gain there
    ceiling, base = context.shared["ceiling"], context.draws(context.paired_base(clip_i), challenge)
    relative = there.map(lambda a, z: np.where(ceiling - z < fidelity_metric.ROOM, np.nan, a / (ceiling - z)), base)
    of_way = relative.map(lambda a, b: a / b, context.shared["relative"])
    kept = of_gain.map(np.fmax, of_way).map(lambda v: np.where(shows, v, np.nan))
    context.add_draws(NAME, "fidelity_kept", kept, 1.0)
    context.evidence[NAME]["challenge_prompts"] = [context.grid.prompts[p] for p in challenge]
    return _stack(kept)


def _alignment_kept(context: Context) -> Any:
    challenge, core = context.grid.prompts_of(CHALLENGE_ROLES), context.grid.core()
    margin = context.shared.get("clip_t_margin")
    if not challenge or margin is None or not np.isfinite(margin).any():
        return _miss(context, "alignment_kept", "no challenge prompt with an encoded text; add some and embed again")

    def kept(prompts: list[int]) -> Draws:
        cube = context.paired(margin)
        base = context.draws(context.paired_base(margin, cube), prompts)
        return context.draws(cube, prompts).map(lambda w, zero: np.where(zero > 0.005, w / zero, np.nan), base)

    beyond = kept(challenge).map(lambda a, b: 1.0 + a - np.minimum(b, 1.0), kept(core))
    context.add_draws(NAME, "alignment_kept", beyond, 1.0)
    return _stack(beyond)


def _diversity(context: Context) -> Any:
    vendi, base = context.shared["diversity"]["vendi"], context.shared["diversity"]["vendi_0"]
    if not np.isfinite(vendi * base).any():
        return _miss(
            context,
            "diversity_kept",
            "fewer than two seeds with a weight-0 twin; draw at least 4 seeds of every prompt",
        )
    ceiling = context.shared.get("vendi_reference") or np.inf
    every = list(range(vendi.shape[1]))
    ceiling = ceiling if np.isfinite(ceiling) else np.inf

    # seeds of a concept that the base model does not know give other things each time: variety that a LoRA has to
    # end. What it may not lose is the variety with which the base model draws what it knows
    known = _known_variety(context)
    ceiling = min(ceiling, known) if np.isfinite(known) else ceiling
    here, zero = context.draws(vendi, every), context.draws(base, every)
    # a resample of few prompts can hold next to no variety of the base model: the ratio must not run away there
    floor = np.maximum(VARIETY_FLOOR * (np.minimum(zero.estimate, ceiling) - 1.0), 1e-9)

    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a - 1.0) / np.maximum(np.minimum(b, ceiling) - 1.0, floor)

    kept = here.map(ratio, zero)
    context.add_draws(NAME, "diversity_kept", kept, 1.0, bounds=(0.0, np.inf))
    context.add_draws(NAME, "vendi_ratio", here.map(lambda a, b: a / b, zero), 1.0, bounds=(0.0, np.inf))
    return _stack(kept)


def _known_variety(context: Context) -> float:
    """Vendi score of the base model's seeds on prompts without the trigger, NaN without any."""
    rows = context.grid.base[context.grid.prompts_of(("unrelated",))]
    features = context.data.features[np.maximum(rows, 0)].astype(np.float64)
    found = consistency_metric.vendi_of_sets(features @ np.swapaxes(features, -1, -2), rows >= 0)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def _leak(context: Context) -> Any:
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
    context.add_draws(NAME, "unrelated_drift", context.draws(drift, unrelated), 0.0, bounds=(0.0, 1.0))
    shows = _positive_gain(context)
    if shows is None:
        return _miss(context, "leak", "no reference pictures; name pictures of the concept")
    if not shows.any():
        return _miss(context, "leak", "the concept does not surely show, so there is nothing to leak")
    clip_i = context.shared["clip_i"]
    movement = context.paired(clip_i) - context.paired_base(clip_i)
    context.columns["leak"] = np.where(
        np.isin(np.arange(len(context.data.cells)), grid.rows[:, unrelated]), context.columns["clip_i_gain"], np.nan
    )
    # over all prompts with the trigger: few plain ones leave the movement too unsure to divide by
    with_trigger = context.draws(movement, grid.prompts_of(OPEN_ROLES) or grid.core())
    ratio = context.draws(movement, unrelated).map(lambda a, b: a / b, with_trigger)
    ratio = ratio.map(lambda v: np.where(shows, v, np.nan))
    context.add_draws(NAME, "leak", ratio, 0.0)
    context.shared["leak"] = ratio
    if context.data.kind == "style":
        # a style is wanted on everything; its leak is reported and not judged
        return None
    low, high = ratio.interval(PART_LEVEL)
    return 1.0 - np.clip(ratio.estimate, 0, None), 1.0 - np.clip(high, 0, None), 1.0 - np.clip(low, 0, None), ratio.n


def _held_out_gap(context: Context) -> Any:
    references, training = context.data.references, context.data.training
    if references is None or training is None or not references.held_out:
        return _miss(context, "held_out_gap", "no held-out pictures; keep at least four pictures out of training")
    if len(references) < HELD_OUT_NEEDED:
        return _miss(
            context,
            "held_out_gap",
            f"{len(references)} held-out pictures; keep at least {HELD_OUT_NEEDED} out of training",
        )
    if context.shared.get("other_subject"):
        return _miss(
            context,
            "held_out_gap",
            "the training pictures show something else than the references, see fidelity",
        )
    room = context.shared["ceiling"] - context.shared["base_clip_i"].estimate
    gap = fidelity_metric._clip_i(context.data.features, training.features) - context.shared["clip_i"]
    core = context.grid.core()
    here, base = context.draws(context.paired(gap), core), context.draws(context.paired_base(gap), core)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = here.map(lambda w, zero: np.where(room > fidelity_metric.ROOM, (w - zero) / room, np.nan), base)
    context.columns["held_out_gap"] = gap
    context.add_draws(NAME, "held_out_gap", relative, 0.0)
    low, high = relative.interval(PART_LEVEL)
    return 1.0 - relative.estimate, 1.0 - high, 1.0 - low, relative.n


def _data_copying(context: Context) -> Any:
    references, training, grid = context.data.references, context.data.training, context.grid
    if references is None or training is None or not references.held_out or len(references) < HELD_OUT_NEEDED:
        # the held-out gap has said already what is missing
        return None
    if context.shared.get("other_subject"):
        return None
    prompts = grid.prompts_of(TRIGGERED_ROLES) or grid.core()
    _, honest = metric._nearest(references.features, training.features)
    limit = float(np.quantile(honest, metric.TRAIN_QUANTILE))
    _, cosine = metric._nearest(context.data.features, training.features)
    near = cosine > limit
    base = grid.base[prompts]
    chance = max(1.0 - metric.TRAIN_QUANTILE, float(near[base[base >= 0]].mean()) if (base >= 0).any() else 0.0)
    values = np.full((4, len(grid.conditions)), np.nan)
    for c, condition in enumerate(grid.conditions):
        rows = grid.rows[c][prompts]
        rows = rows[rows >= 0]
        if not len(rows) or chance >= 1.0:
            continue
        hits = int(near[rows].sum())
        low, high = wilson(hits, len(rows))
        context.add(condition, NAME, "data_copying", hits / len(rows), (low, high), len(rows), chance)
        wide = wilson(hits, len(rows), PART_LEVEL)
        kept = [1.0 - max(0.0, share - chance) / (1.0 - chance) for share in (hits / len(rows), wide[1], wide[0])]
        values[:, c] = *kept, len(rows)
    context.evidence[NAME]["nearest_training_limit"] = number(limit)
    return values


def find_copies(context: Context) -> None:
    """Copies by two witnesses; before alignment, which a copied picture would be blamed for a second time."""
    context.evidence.setdefault(NAME, {})
    _copies(context)


def _copies(context: Context) -> None:
    training, grid, data = context.data.training, context.grid, context.data
    if training is None or len(training) < 3:
        return _miss(context, "copies", "no training pictures; name the folder the LoRA was trained on")
    if data.thumbs.ndim != 3 or min(data.thumbs.shape[1:]) < metric.SSIM_WINDOW:
        return _miss(context, "copies", "no thumbnails of the drawn pictures; embed the run again")
    references = data.references
    unseen = references.features if references is not None and references.held_out else None
    limits = metric.copy_limits(training.features, training.thumbs, unseen)
    index, cosine, structure, copy = metric.find_copies(
        data.features, data.thumbs, training.features, training.thumbs, limits
    )
    # what the base model draws from the same prompt and seed cannot have been copied from the training set
    twins = np.full(len(copy), -1)
    found = grid.twins() >= 0
    twins[grid.rows[found]] = grid.twins()[found]
    own = (twins >= 0) & copy[np.maximum(twins, 0)] & (index == index[np.maximum(twins, 0)])
    by_chance = copy & own
    copy = copy & ~own
    context.columns.update(
        nn_train=cosine,
        nn_name=np.array([training.names[i] for i in index], dtype=object),
        nn_ssim=structure,
        copy=copy,
    )
    pairs: dict[str, list[dict[str, Any]]] = {}
    values = np.full((4, len(grid.conditions)), np.nan)
    base = grid.base[grid.base >= 0]
    chance = float(copy[base].mean()) if len(base) else 0.0
    for c, condition in enumerate(grid.conditions):
        rows = grid.rows[c][grid.rows[c] >= 0]
        hits = rows[copy[rows]]
        low, high = wilson(len(hits), len(rows))
        context.add(condition, NAME, "copies", len(hits) / len(rows), (low, high), len(rows), chance)
        wide = wilson(len(hits), len(rows), PART_LEVEL)
        values[:, c] = 1.0 - len(hits) / len(rows), 1.0 - wide[1], 1.0 - wide[0], len(rows)
        order = hits[np.argsort(-structure[hits], kind="stable")]
        pairs[condition.key] = [
            {"image": context.image(int(r)), "training": training.names[int(index[r])],
             "cosine": number(cosine[r]), "ssim": number(structure[r])} for r in order[:50]
        ]  # fmt: skip
    context.shared.update(copies=values, copied=copy)
    context.evidence[NAME].update(
        copies=pairs,
        copy_limits={"cosine": number(limits.feature), "ssim": number(limits.ssim)},
        alike_at_weight_0_too=int(by_chance.sum()),
    )
