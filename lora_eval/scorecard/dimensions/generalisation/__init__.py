"""Generalisation: did it learn the concept, or the pictures?"""

from __future__ import annotations

from lora_eval.scorecard.dimensions.generalisation import copies, judgement, parts, rows
from lora_eval.scorecard.dimensions.generalisation.judgement import Result, read
from lora_eval.scorecard.dimensions.place import below
from lora_eval.scorecard.dimensions.spec import CellColumn, Check, DimensionSpec, Remedy

__all__ = ["SPEC", "Result", "read"]

SPEC = DimensionSpec(
    name=copies.NAME,
    title="Generalisation",
    question="Did it learn the concept or the pictures?",
    compared="0: nothing left beyond plain prompts, or copies; 1: nothing lost",
    limits=judgement.LIMITS,
    add="add challenge prompts, references and the training pictures",
    prepare=copies.find_copies,
    measure=rows.measure,
    after=("fidelity", "alignment", "consistency"),
    weakest_part=True,
    read=read,
    read_at=judgement.read_at,
    explain=judgement.explain,
    found_above=judgement.found_above,
    by_condition=("weakest", "copies"),
    checks=(
        Check("copies", 30, judgement.copies, lambda advised: copies.NAME),
        Check(
            "collapse",
            40,
            lambda result, place: below(result.diversity_kept, judgement.COLLAPSED),
            lambda advised: copies.NAME,
        ),
    ),
    remedies=(
        Remedy(
            judgement.copies_seen,
            "training pictures are copied",
            "fewer epochs or an earlier checkpoint, more different pictures, a lower rank; remove doubles from the "
            "training set",
        ),
        *(Remedy(judgement.weakest_is(part.name), part.seen, part.change) for part in parts.PARTS if part.change),
        Remedy(
            lambda result, answer: True,
            "the concept weakens in new scenes",
            "vary the captions (action, place, mood) and the pictures; rank not too low; fewer epochs",
            otherwise=True,
        ),
    ),
    columns=(
        CellColumn(
            "nn_train",
            "nearest training picture, cosine",
            3,
            "Likeness to the most alike training picture; beside it stands what training pictures reach among "
            "themselves.",
            rank=100,
            colour="fault",
        ),
        CellColumn(
            "nn_ssim",
            "the same, SSIM",
            2,
            "Structural likeness to that training picture, pixel by pixel; 1 is a copy.",
            rank=110,
        ),
    ),
)
