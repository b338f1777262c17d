"""What to change next time: a table from weak dimension and evidence to a remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lora_eval.scorecard.data import Advice, Dimension
from lora_eval.scorecard.dimensions.fidelity.formulas import SAME_SUBJECT

Seen = Callable[[Dimension], bool]

# draws of two kinds: one line holds this share of what seeds change, and that many times weight 0's
SPLIT_SHARE, SPLIT_RATIO = 0.4, 3.0
# the style varies more between seeds than the base model's: so much, and more at all in nine of ten resamples
SPREAD_RATIO = 1.6
_NINE_OF_TEN = 1.2816 / 1.96
FEW_PICTURES = 12


@dataclass(frozen=True)
class Rule:
    """One row of the table: when ``seen`` holds for a weak dimension, ``change`` is advised.

    ``otherwise`` rows fit always and speak only when no more exact row of their dimension does.
    """

    dimension: str
    seen: Seen
    what: str
    change: str
    otherwise: bool = False


def value_of(dimension: Dimension, measure: str, key: str = "value") -> float | None:
    """A number of the dimension's evidence, None where it was not measured."""
    found = dimension.evidence.get("measures", {}).get(measure)
    return found.get(key) if found else None


def _part(name: str) -> Seen:
    def seen(d: Dimension) -> bool:
        return name in ((d.evidence.get("weakest") or {}).get("part"), (d.evidence.get("curve") or {}).get("weakest"))

    return seen


def _state(name: str) -> Seen:
    return lambda d: (d.evidence.get("curve") or {}).get("state") == name


def two_kinds(dimension: Dimension) -> bool:
    """Whether draws of one prompt fall into two kinds, or vary more in style than the base model's."""
    ratio, share = value_of(dimension, "split_ratio"), value_of(dimension, "split_share")
    spread, low, n = (value_of(dimension, "style_spread_ratio", key) for key in ("value", "ci_low", "n"))
    return splits(ratio, share) or varies_more(spread, low, n)


def splits(ratio: float | None, share: float | None) -> bool:
    """Whether draws fall into two kinds: they vary along one line more than at weight 0, and mostly along it.

    Args:
        ratio: ``split_ratio``, ``share``: ``split_share``, see ``dimensions/consistency``.
    """
    return ratio is not None and share is not None and ratio > SPLIT_RATIO and share > SPLIT_SHARE


def varies_more(ratio: float | None, low: float | None, n: float | None, limit: float = SPREAD_RATIO) -> bool:
    """Whether a ratio of style spreads over ``n`` pictures is at least ``limit`` and above 1 in nine of ten resamples.

    ``low`` is the lower end of its 95 % interval, which four seeds make wide: a style that only some seeds bring out
    is a matter of few draws, so 19 of 20 are not asked for. Between them the interval is read as normal in the
    logarithm, as :meth:`Draws.positive` makes it. Resamples of a handful of pictures say too little of a spread: there
    the lower end itself must reach the limit.
    """
    if ratio is None or low is None or low <= 0:
        return False
    if (n or 0) < FEW_PICTURES:
        return low >= limit
    return ratio >= limit and ratio * (low / ratio) ** _NINE_OF_TEN > 1.0


def _early_onset(dimension: Dimension) -> bool:
    onset = (dimension.evidence.get("curve") or {}).get("onset")
    return onset is not None and onset <= 0.6


def _always(dimension: Dimension) -> bool:
    return True


RULES = (
    Rule(
        "consistency",
        lambda d: bool(d.evidence.get("drifting")),
        "some draws fall out of the row",
        "look at the drifting pictures by name; remove training pictures of another style or quality",
    ),
    Rule(
        "consistency",
        two_kinds,
        "draws of one prompt differ more in kind than the base model's do",
        "the data are too mixed: train one style at a time, or give each its own trigger in the captions",
    ),
    Rule(
        "consistency",
        _always,
        "the change differs from seed to seed",
        "sort out muddled captions and mixed pictures; caption exactly what is to be seen",
        otherwise=True,
    ),
    Rule(
        "fidelity",
        lambda d: (value_of(d, "training_likeness", "ci_high") or SAME_SUBJECT) < SAME_SUBJECT,
        "the training pictures show something else than the references",
        "check both folders: the references must show what was trained; train on pictures of the subject that is "
        "wanted",
    ),
    Rule(
        "fidelity",
        lambda d: d.verdict == "poor",
        "the pictures hardly come nearer to the references",
        "train longer or with a higher learning rate; check that the trigger stands in every caption and in the "
        "prompt; rank 16 when 8 underfits",
    ),
    Rule(
        "fidelity",
        _always,
        "likeness stays well below what the references reach among themselves",
        "more and sharper pictures from more angles, none blurred or wrong; then a higher rank or a few more epochs",
        otherwise=True,
    ),
    Rule(
        "generalisation",
        lambda d: bool(d.evidence.get("copies")) or "copies" in d.reason,
        "training pictures are copied",
        "fewer epochs or an earlier checkpoint, more different pictures, a lower rank; remove doubles from the "
        "training set",
    ),
    Rule(
        "generalisation",
        _part("data_copying"),
        "pictures lie nearer to the training pictures than new ones of the concept do",
        "more pictures that differ in place, light and pose, captioned with what is to stay free; fewer epochs or an "
        "earlier checkpoint, a lower learning rate",
    ),
    Rule(
        "generalisation",
        _part("leak"),
        "the concept shows without its trigger",
        "add pictures of the class without the trigger (regularisation), caption backgrounds and class words, "
        "fewer epochs",
    ),
    Rule(
        "generalisation",
        _part("diversity"),
        "seeds give nearly the same picture",
        "fewer epochs or a lower weight; vary pose, place and framing in the training pictures",
    ),
    Rule(
        "generalisation",
        _part("held_out_gap"),
        "training pictures are met better than held-out ones",
        "fewer epochs, more different pictures",
    ),
    Rule(
        "generalisation",
        _always,
        "the concept weakens in new scenes",
        "vary the captions (action, place, mood) and the pictures; rank not too low; fewer epochs",
        otherwise=True,
    ),
    Rule(
        "curve",
        _state("oscillating"),
        "the loss oscillates strongly",
        "the learning rate is too high: halve it, or take a larger batch",
    ),
    Rule(
        "curve",
        _state("diverged"),
        "the loss runs away",
        "lower the learning rate to a third; check the precision for NaN",
    ),
    Rule(
        "curve",
        _state("flat"),
        "the loss does not fall",
        "captions wrong or batch too small; if the pictures do not change either, raise the learning rate",
    ),
    Rule(
        "curve",
        _state("overfit"),
        "validation rises and the pictures get worse",
        "stop and go back: take the checkpoint nearest the lowest validation, fewer epochs next time",
    ),
    Rule(
        "curve",
        _state("still falling"),
        "the loss still falls",
        "a few more epochs, as long as the test pictures get better",
    ),
    Rule(
        "strength",
        _early_onset,
        "pictures break at weights of everyday use",
        "overtrained, or the base model does not fit: an earlier checkpoint, a lower learning rate or alpha, or "
        "another base model",
    ),
    Rule(
        "strength",
        _part("unbroken"),
        "pictures break before weight 1",
        "fewer epochs, a lower alpha or learning rate",
    ),
    Rule(
        "strength",
        _part("room"),
        "the LoRA is too strong: small weights bring most of it already",
        "halve alpha (or resize the file's alpha), a lower learning rate or fewer epochs; until then use small weights",
    ),
    Rule(
        "strength",
        _part("smoothness"),
        "the weight acts like a switch",
        "fewer epochs and a lower learning rate; more varied captions",
    ),
    Rule(
        "strength",
        _always,
        "the response does not follow the weight",
        "draw more seeds; if it stays so, train longer with clearer captions",
        otherwise=True,
    ),
    Rule(
        "alignment",
        _always,
        "the LoRA costs listening to the prompt",
        "specific captions that name everything but the concept, hard negatives late in training, fewer epochs, a "
        "lower weight; negative prompts help meanwhile",
        otherwise=True,
    ),
)


def advise(dimensions: dict[str, Dimension], gates: list[str], checkpoint_count: int) -> list[Advice]:
    """Advice for every weak or poor dimension, the weakest first; what is missing comes last.

    Args:
        dimensions: by name, as :func:`lora_eval.scorecard.decision.verdicts.describe` gives them.
        gates: names of the gates that shut everything, for example ``no effect``.
        checkpoint_count: checkpoints measured; with one, going back to an earlier one is no option yet.
    """
    found: list[Advice] = []
    if "no effect" in gates:
        change = (
            "check that it is loaded and made for this base model; else train longer or with a higher learning rate"
        )
        found.append(Advice("fidelity", "the LoRA does not change the pictures", change))
    weak = [d for d in dimensions.values() if d.verdict in ("weak", "poor")]
    for dimension in sorted(weak, key=lambda d: (d.verdict != "poor", 9.0 if d.score is None else d.score, d.name)):
        rules = [rule for rule in RULES if rule.dimension == dimension.name and rule.seen(dimension)]
        exact = [rule for rule in rules if not rule.otherwise] or rules[:1]
        found += [Advice(rule.dimension, rule.what, rule.change) for rule in exact[:2]]
    if checkpoint_count == 1 and weak:
        change = "save a checkpoint every 100 to 200 steps and score them all"
        found.append(Advice("curve", "one checkpoint was judged", change))
    for dimension in dimensions.values():
        if dimension.score is None:
            found.append(Advice(dimension.name, "not measured", dimension.reason))
    return found
