"""Prompt alignment: does it still follow the prompt?"""

from __future__ import annotations

from lora_eval.scorecard.dimensions.alignment import judgement, rows
from lora_eval.scorecard.dimensions.alignment.judgement import Result, read
from lora_eval.scorecard.dimensions.spec import CellColumn, Check, DimensionSpec, Remedy

__all__ = ["SPEC", "Result", "read"]

SPEC = DimensionSpec(
    name=rows.NAME,
    title="Prompt alignment",
    question="Does it still listen to the prompt?",
    compared="0: the picture could belong to any prompt; 1: as close to its prompt as without LoRA",
    limits=judgement.LIMITS,
    add="draw at least two different prompts, weight 0 too",
    measure=rows.measure,
    read=read,
    explain=judgement.explain,
    found_above=judgement.found_above,
    by_condition=("elements", "negative", "by_prompt"),
    checks=(Check(judgement.PROMPT_IGNORED, 60, judgement.ignores_prompt, judgement.counts_against, spoils=True),),
    remedies=(
        Remedy(
            lambda result, answer: True,
            "the LoRA costs listening to the prompt",
            "specific captions that name everything but the concept, hard negatives late in training, fewer epochs, a "
            "lower weight; negative prompts help meanwhile",
            otherwise=True,
        ),
    ),
    columns=(
        CellColumn(
            "clip_t",
            "fit to the prompt (CLIP-T)",
            3,
            "Cosine between the picture's and the prompt's features; compare it with other pictures, not with 1.",
            rank=30,
            colour="level",
        ),
        CellColumn(
            "clip_t_delta",
            "fit against weight 0",
            3,
            "What the LoRA did to the fit to the prompt for this seed; below 0 it listens less than the base model.",
            rank=40,
            colour="gain",
        ),
        CellColumn(
            "retrieval_rank",
            "rank of its own prompt",
            1,
            "Place of its own prompt when all prompts of the suite are sorted by their fit to the picture; 1 is best.",
            rank=50,
        ),
        CellColumn(
            "elements_won",
            "share of elements seen",
            2,
            "Share of the things asked for that fit the picture better than every swapped one.",
            rank=60,
            colour="level",
        ),
    ),
)
