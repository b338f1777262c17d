"""Measuring a run: every dimension in turn fills the columns of the cells and the rows of the summary.

What each column and row is, and what it is compared with, is in the dimension's module and in ``docs/measures.md``.
Rows of the summary named ``score`` (curve: ``state``) hold a dimension's score at a checkpoint and weight; those of
strength and curve belong to the checkpoint and have no weight.
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
    """Measure a run. Deterministic: the same input gives the same bytes, in whatever order its rows are.

    Args:
        data: the run; see :class:`RunData`.
        resamples: bootstrap resamples per interval.
        seed: seed of the bootstrap.

    Returns:
        Measurement: ``cell_metrics`` row by row as ``data.cells``, the summary, and
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
