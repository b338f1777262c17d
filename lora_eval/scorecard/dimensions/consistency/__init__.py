"""Visual consistency: does every draw show the same change?"""

from __future__ import annotations

from lora_eval.scorecard.data import Advice
from lora_eval.scorecard.dimensions.consistency import judgement, rows
from lora_eval.scorecard.dimensions.consistency.judgement import Result, read
from lora_eval.scorecard.dimensions.spec import CellColumn, Check, DimensionSpec, Remedy

__all__ = ["SPEC", "Result", "read"]

SPEC = DimensionSpec(
    name=rows.NAME,
    title="Visual consistency",
    question="Does the style drift between draws?",
    compared="0: the change differs by seed like noise; 1: as alike as the references would be",
    limits=judgement.LIMITS,
    add="draw at least 4 seeds of every prompt, weight 0 too",
    measure=rows.measure,
    # nothing of alignment is read here; it fixes the order of rows in summary.csv
    after=("alignment",),
    read=read,
    explain=judgement.explain,
    found_above=judgement.found_above,
    by_condition=("drifting",),
    checks=(
        Check(
            "no effect",
            10,
            judgement.no_effect,
            verdict="The LoRA has no effect: at its largest weight the pictures differ from weight 0 by less than two "
            "seeds do.",
            advice=Advice(
                "fidelity",
                "the LoRA does not change the pictures",
                "check that it is loaded and made for this base model; else train longer or with a higher learning "
                "rate",
            ),
        ),
    ),
    remedies=(
        Remedy(
            lambda result, answer: result.drifting > 0,
            "some draws fall out of the row",
            "look at the drifting pictures by name; remove training pictures of another style or quality",
        ),
        Remedy(
            lambda result, answer: result.splits or result.style_varies_more(),
            "draws of one prompt differ more in kind than the base model's do",
            "the data are too mixed: train one style at a time, or give each its own trigger in the captions",
        ),
        Remedy(
            lambda result, answer: True,
            "the change differs from seed to seed",
            "sort out muddled captions and mixed pictures; caption exactly what is to be seen",
            otherwise=True,
        ),
    ),
    columns=(
        CellColumn(
            "effect",
            "change from weight 0",
            3,
            "Cosine distance between this picture and that of the same prompt and seed without LoRA.",
            rank=70,
            colour="level",
        ),
        CellColumn(
            "drift_z",
            "drift from the other seeds, robust deviations",
            1,
            "How far its style lies from the other seeds of its prompt; above 3 it stands out.",
            rank=80,
            colour="fault",
        ),
    ),
)
