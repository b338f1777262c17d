"""What a dimension works with while a run is measured: the run, its grid, and the tables that it fills."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lora_eval.scorecard.data import Measure, RunData
from lora_eval.scorecard.dimensions.shared import Shared
from lora_eval.scorecard.grid import Condition, Grid
from lora_eval.statistics.bootstrap import Draws, resample
from lora_eval.statistics.intervals import wilson

DIGITS = 6


@dataclass(frozen=True)
class Estimate:
    """One number of the summary with what it is read against.

    Attributes:
        value: the number; None or NaN where it was not measured.
        interval: lower and upper end of its 95 % interval; None where none can be given.
        n: number of pictures (curve: loss values) behind it.
        baseline: the same at weight 0.
        ceiling: what the references reach.
        score: the value on the scale of the dimension, 0 to 1.
        verdict: what the report says beside it, for example why it was not measured.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    n: int = 0
    baseline: float | None = None
    ceiling: float | None = None
    score: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Series:
    """A measure over all conditions: one value with its interval for each.

    Attributes:
        draws: bootstrap draws of shape (C,).
        baseline: the same at weight 0, one number or (C,).
        ceiling: what the references reach.
        score: (C,) values on the scale of the dimension.
        verdicts: C texts for the column ``verdict``; empty for none.
        bounds: range of the statistic, to which the interval is clipped.
        interval: how the interval is made. ``percentile``: from the draws. ``widened``: the same, but for values of 0
            and 1, or differences of them: where all agree, resampling says nothing about the error, and the interval
            is as wide as Wilson's for that many successes. ``wilson``: :meth:`Draws.share_interval`, for a share of
            pictures.
    """

    draws: Draws
    baseline: np.ndarray | float | None = None
    ceiling: float | None = None
    score: np.ndarray | None = None
    verdicts: Sequence[str] = ()
    bounds: tuple[float, float] = (-math.inf, math.inf)
    interval: Literal["percentile", "widened", "wilson"] = "percentile"

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of the intervals, (C,) each; NaN where none can be given."""
        if self.interval == "wilson":
            return self.draws.share_interval()
        low, high = self.draws.interval(low=self.bounds[0], high=self.bounds[1])
        return _never_a_point(self.draws, low, high, self.bounds) if self.interval == "widened" else (low, high)


@dataclass
class Context:
    """The run, its grid, and what has been measured so far.

    Attributes:
        data, grid: the run and where each of its pictures belongs.
        resamples, seed: of the bootstrap.
        columns: become ``cell_metrics``: name -> (N,) values.
        summary: rows of ``summary.csv`` so far.
        evidence: by dimension, details that are safe for JSON.
        notes: what could not be measured and why, by topic.
        shared: what one dimension leaves for the next; it never leaves measuring.
    """

    data: RunData
    grid: Grid
    resamples: int
    seed: int
    columns: dict[str, Any] = field(default_factory=dict)
    summary: list[Measure] = field(default_factory=list)
    evidence: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    shared: Shared = field(default_factory=Shared)

    @property
    def has_base(self) -> bool:
        """Whether there is any picture at weight 0."""
        return bool((self.grid.base >= 0).any())

    def image(self, row: int) -> str:
        """Name of the picture in a row of the cells, as the report shows it."""
        cells = self.data.cells
        return str(cells["image"].iloc[row]) if "image" in cells else f"row {row + 1}"

    def draws(self, cube: np.ndarray, prompts: list[int]) -> Draws:
        """Bootstrap draws of the mean over some prompts.

        Args:
            cube: (..., P, M) values, NaN where there is no picture.
            prompts: indices of the prompts. The same prompts give paired draws, others independent ones.

        Returns:
            Draws of shape ``cube.shape[:-2]``.
        """
        return resample(cube[..., prompts, :], self.resamples, [self.seed, *prompts])

    def paired_base(self, values: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
        """Values of the twins at weight 0.

        Args:
            values: (N,) one value a picture.
            like: (C, P, M); where it has no number, the result has none either.

        Returns:
            (C, P, M), NaN where the condition has no picture.
        """
        plane = np.where(self.grid.rows >= 0, self.grid.base_plane(values), np.nan)
        return plane if like is None else np.where(np.isfinite(like), plane, np.nan)

    def paired(self, values: np.ndarray) -> np.ndarray:
        """(N,) values -> (C, P, M), NaN unless both the picture and its twin at weight 0 exist."""
        return np.where(self.grid.base >= 0, self.grid.cube(values), np.nan)

    def difference_column(self, values: np.ndarray) -> np.ndarray:
        """(N,) values -> (N,) values less those of the twin: 0 at weight 0, NaN without a twin."""
        values = np.asarray(values, dtype=float)
        result = np.full(len(self.data.cells), np.nan)
        rows, twins = self.grid.rows, self.grid.twins()
        found = twins >= 0
        result[rows[found]] = values[rows[found]] - values[twins[found]]
        base = self.grid.base[self.grid.base >= 0]
        result[base] = np.where(np.isfinite(values[base]), 0.0, np.nan)
        return result

    def add(
        self, where: Condition, dimension: str, measure: str, found: Estimate, whole_checkpoint: bool = False
    ) -> None:
        """Append a row to the summary. Numbers are rounded; those that are not finite become None.

        Args:
            where: checkpoint and weight.
            dimension, measure: what was measured.
            found: the number.
            whole_checkpoint: the number belongs to the checkpoint, and the row gets no weight.
        """
        low, high = found.interval if found.interval is not None else (math.nan, math.nan)
        self.summary.append(
            Measure(
                checkpoint=where.checkpoint,
                step=where.step,
                weight=None if whole_checkpoint else where.weight,
                dimension=dimension,
                measure=measure,
                value=number(found.value),
                ci_low=number(low),
                ci_high=number(high),
                n=int(found.n),
                baseline=number(found.baseline),
                ceiling=number(found.ceiling),
                score=number(found.score),
                verdict=found.verdict,
            )
        )

    def add_series(self, dimension: str, measure: str, series: Series) -> None:
        """Append a row for each condition to the summary."""
        draws = series.draws
        low, high = series.ends()
        base = np.broadcast_to(np.nan if series.baseline is None else series.baseline, draws.estimate.shape)
        for i, condition in enumerate(self.grid.conditions):
            found = Estimate(
                draws.estimate[i],
                (low[i], high[i]),
                int(draws.n[i]),
                base[i],
                series.ceiling,
                None if series.score is None else series.score[i],
                series.verdicts[i] if series.verdicts else "",
            )
            self.add(condition, dimension, measure, found)

    def not_measured(self, dimension: str, measure: str, reason: str) -> None:
        """Append a row without a value for each condition, which says why."""
        for condition in self.grid.conditions:
            self.add(condition, dimension, measure, Estimate(None, verdict=f"not measured: {reason}"))


def _never_a_point(
    draws: Draws, low: np.ndarray, high: np.ndarray, bounds: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The intervals, those of no width made as wide as Wilson's for as many successes as there are pictures."""
    point = np.isfinite(low) & (high - low < 1e-9)
    for i in np.flatnonzero(point & (draws.n > 0)):
        n = int(draws.n[i])
        unseen = 1.0 - wilson(n, n)[0]
        low[i], high[i] = max(bounds[0], low[i] - unseen), min(bounds[1], high[i] + unseen)
    return low, high


def number(value: Any) -> float | None:
    """A plain float rounded to 6 digits, None when missing or not finite.

    Rounding hides differences in the last bit between machines; ``+ 0.0`` turns minus zero into zero.
    """
    if value is None:
        return None
    value = float(value)
    return round(value, DIGITS) + 0.0 if math.isfinite(value) else None
