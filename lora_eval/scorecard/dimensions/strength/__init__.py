"""Strength control: is the weight a dial or a switch?"""

from __future__ import annotations

from lora_eval.scorecard.dimensions.spec import CellColumn, Check, DimensionSpec, Remedy
from lora_eval.scorecard.dimensions.strength import judgement, rows
from lora_eval.scorecard.dimensions.strength.judgement import Result, read

__all__ = ["SPEC", "Result", "read"]

SPEC = DimensionSpec(
    name=rows.NAME,
    title="Strength control",
    question="Is the weight a knob or a switch?",
    compared="0: no orderly response to the weight; 1: even and unbroken up to weight 1",
    limits=judgement.LIMITS,
    add="draw at least 3 weights, weight 0 among them",
    measure=rows.measure,
    after=("fidelity", "alignment", "consistency"),
    by_weight=False,
    weakest_part=True,
    read=read,
    explain=judgement.explain,
    by_checkpoint="curves",
    checks=(
        Check("blank pictures", 20, judgement.blank, spoils=True),
        Check("distortion", 50, judgement.distorted, lambda advised: rows.NAME, spoils=True),
    ),
    remedies=(
        Remedy(
            lambda result, answer: result.onset is not None and result.onset <= judgement.EARLY_ONSET,
            "pictures break at weights of everyday use",
            "overtrained, or the base model does not fit: an earlier checkpoint, a lower learning rate or alpha, or "
            "another base model",
        ),
        Remedy(
            lambda result, answer: result.weakest == "unbroken",
            "pictures break before weight 1",
            "fewer epochs, a lower alpha or learning rate",
        ),
        Remedy(
            lambda result, answer: result.weakest == "room",
            "the LoRA is too strong: small weights bring most of it already",
            "halve alpha (or resize the file's alpha), a lower learning rate or fewer epochs; until then use small "
            "weights",
        ),
        Remedy(
            lambda result, answer: result.weakest == "smoothness",
            "the weight acts like a switch",
            "fewer epochs and a lower learning rate; more varied captions",
        ),
        Remedy(
            lambda result, answer: True,
            "the response does not follow the weight",
            "draw more seeds; if it stays so, train longer with clearer captions",
            otherwise=True,
        ),
    ),
    columns=(
        CellColumn(
            "distortion_z",
            "distortion (above 3 it left weight 0's spread)",
            1,
            "How far clipping, saturation, sharpness and noise lie outside of what the base model draws.",
            rank=90,
            colour="fault",
        ),
    ),
)
