"""From features to numbers: the six dimensions of a run, with intervals.

Columns of ``cell_metrics`` (one row per picture, in the order of the cells; empty where not measured):

| column | what it is | compared with |
|---|---|---|
| ``effect`` | length of the feature's change, 0 to 2 | weight 0, same prompt and seed |
| ``carlos`` | mean cosine of that change to the other seeds' change | other seeds of the prompt; 0 is noise |
| ``drift_z`` | modified z of style and feature | other seeds of the prompt; above 4 it drifts |
| ``clip_i`` | mean cosine to the references | the row ``clip_i`` of the summary: weight 0 and leave-one-out |
| ``clip_i_gain`` | ``clip_i`` less that of weight 0 | weight 0, same prompt and seed |
| ``dino``, ``face``, ``*_gain`` | the same by another encoder | the same |
| ``clip_t`` | cosine to the prompt (class word for trigger) | weight 0 |
| ``clip_t_delta`` | ``clip_t`` less that of weight 0 | weight 0, same prompt and seed |
| ``clip_t_margin`` | ``clip_t`` less the mean cosine to the other prompts | 0 is chance |
| ``retrieval_rank`` | rank of the own prompt, 1 is best | the suite's prompts |
| ``elements_won`` | share of the prompt's elements that beat all their foils | 1 / (1 + foils) is chance |
| ``nn_train``, ``nn_name`` | cosine to and name of the nearest training picture | training pictures among themselves |
| ``nn_ssim`` | SSIM with it, where the cosine is suspicious | the same |
| ``copy`` | both witnesses say copy and weight 0 does not | |
| ``leak`` | ``clip_i_gain`` of pictures without trigger | 0 |
| ``held_out_gap`` | likeness to training pictures less that to held-out ones | weight 0 |
| ``distortion_z`` | second largest departure of pixel statistics | spread of weight 0, same prompt; above 3 it left |

Rows of ``summary`` named ``score`` hold each dimension's score at a checkpoint and weight (strength:
at a checkpoint; curve: the row ``state``).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lora_eval.errors import RunError
from lora_eval.scorecard.data import Measurement, RunData
from lora_eval.scorecard.dimensions.context import DIGITS, Context
from lora_eval.scorecard.dimensions.registry import measuring_order
from lora_eval.scorecard.grid import grid_of


def measure(data: RunData, resamples: int = 1000, seed: int = 0) -> Measurement:
    """Measure a run. Deterministic: the same input, in any row order, gives the same bytes.

    Args:
        data: the run; see :class:`RunData`.
        resamples: bootstrap resamples per interval.
        seed: seed of the bootstrap.

    Returns:
        Measurement: ``cell_metrics`` row by row as ``data.cells`` (columns above), the summary, and
        evidence per dimension that is safe for JSON.

    Raises:
        RunError: the table or the arrays do not fit together; one line that says where.
    """
    _check(data)
    if resamples < 1:
        raise ValueError("resamples must be at least 1")
    context = Context(data, grid_of(data), resamples, seed, notes=dict(data.notes))
    order = measuring_order()
    for spec in order:
        if spec.prepare is not None:
            spec.prepare(context)
    for spec in order:
        spec.measure(context)
    return Measurement(_table(context), context.summary, context.evidence, context.notes, resamples, seed)


def _table(context: Context) -> pd.DataFrame:
    columns = {}
    for name, values in context.columns.items():
        columns[name] = values if values.dtype.kind in "bO" else np.round(values.astype(float), DIGITS) + 0.0
    return pd.DataFrame(columns, index=context.data.cells.index)


def _check(data: RunData) -> None:
    n = len(data.cells)
    for name in ("features", "styles", "pixels", "thumbs"):
        array = getattr(data, name)
        if array.size and len(array) != n:
            raise RunError(f"the run has {n} cells but {len(array)} rows of {name}; embed the run again")
    if data.features.ndim != 2 or len(data.features) != n or not data.features.shape[1]:
        raise RunError("the run has no features; embed the pictures first")
    finite = np.isfinite(data.features).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise RunError(f"the features of row {row + 1} of the cells are not finite; embed the run again")
    if data.styles.ndim == 2 and data.styles.size and data.styles.shape[1] != len(data.style_names):
        raise RunError("style statistics and their names differ in number; embed the run again")
    if data.pixels.ndim == 2 and data.pixels.size and data.pixels.shape[1] != len(data.pixel_names):
        raise RunError("pixel statistics and their names differ in number; embed the run again")
    for name in ("references", "training"):
        pictures = getattr(data, name)
        if pictures is not None and len(pictures) and pictures.features.shape[1] != data.features.shape[1]:
            raise RunError(f"the {name} were embedded with another encoder than the pictures; embed the run again")
