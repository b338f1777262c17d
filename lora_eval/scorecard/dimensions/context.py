"""What the six dimensions share while a run is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_eval.scorecard.data import Measure, RunData
from lora_eval.scorecard.grid import Condition, Grid
from lora_eval.statistics.bootstrap import Draws, resample
from lora_eval.statistics.intervals import wilson

DIGITS = 6


@dataclass
class Context:
    """The run, its grid, and what has been measured so far.

    ``columns`` become ``cell_metrics``; ``shared`` carries arrays from one dimension to the next
    (for example fidelity's draws to strength) and never leaves measuring.
    """

    data: RunData
    grid: Grid
    resamples: int
    seed: int
    columns: dict[str, Any] = field(default_factory=dict)
    summary: list[Measure] = field(default_factory=list)
    evidence: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def has_base(self) -> bool:
        """Whether there is any picture at weight 0."""
        return bool((self.grid.base >= 0).any())

    def image(self, row: int) -> str:
        """Name of a picture, as the report shows it."""
        cells = self.data.cells
        return str(cells["image"].iloc[row]) if "image" in cells else f"row {row + 1}"

    def draws(self, cube: np.ndarray, prompts: list[int]) -> Draws:
        """Bootstrap the (..., P, M) values of some prompts; the same prompts give paired draws, others independent."""
        return resample(cube[..., prompts, :], self.resamples, [self.seed, *prompts])

    def paired_base(self, values: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
        """(N,) -> (C, P, M): weight 0's value where the condition has the twin (and ``like`` a number), else NaN."""
        plane = np.where(self.grid.rows >= 0, self.grid.base_plane(values), np.nan)
        return plane if like is None else np.where(np.isfinite(like), plane, np.nan)

    def paired(self, values: np.ndarray) -> np.ndarray:
        """(N,) -> (C, P, M): the value where both the picture and its weight-0 twin exist, else NaN."""
        return np.where(self.grid.base >= 0, self.grid.cube(values), np.nan)

    def difference_column(self, values: np.ndarray) -> np.ndarray:
        """(N,) -> (N,): value less the weight-0 twin's; 0 at weight 0; NaN without a twin."""
        result = np.full(len(self.data.cells), np.nan)
        rows, twins = self.grid.rows, self.grid.twins()
        found = twins >= 0
        result[rows[found]] = (
            np.asarray(values, dtype=float)[rows[found]] - np.asarray(values, dtype=float)[twins[found]]
        )
        base = self.grid.base[self.grid.base >= 0]
        result[base] = np.where(np.isfinite(np.asarray(values, dtype=float)[base]), 0.0, np.nan)
        return result

    def add(
        self,
        where: Condition,
        dimension: str,
        measure: str,
        value: float | None,
        interval: tuple[float, float] | None = None,
        n: int = 0,
        baseline: float | None = None,
        ceiling: float | None = None,
        score: float | None = None,
        verdict: str = "",
        whole_checkpoint: bool = False,
    ) -> None:
        """Append a row of the summary; numbers that are not finite become None."""
        low, high = interval if interval is not None else (math.nan, math.nan)
        self.summary.append(
            Measure(
                checkpoint=where.checkpoint,
                step=where.step,
                weight=None if whole_checkpoint else where.weight,
                dimension=dimension,
                measure=measure,
                value=number(value),
                ci_low=number(low),
                ci_high=number(high),
                n=int(n),
                baseline=number(baseline),
                ceiling=number(ceiling),
                score=number(score),
                verdict=verdict,
            )
        )

    def add_draws(
        self,
        dimension: str,
        measure: str,
        draws: Draws,
        baseline: np.ndarray | float | None = None,
        ceiling: float | None = None,
        score: np.ndarray | None = None,
        verdicts: list[str] | None = None,
        bounds: tuple[float, float] = (-math.inf, math.inf),
        of_shares: bool = False,
    ) -> None:
        """One row per condition from draws of shape (C,).

        ``of_shares``: values of 0 and 1, or differences of them. When all agree, resampling them says nothing of
        how sure that is; the interval is then as wide as Wilson's for as many successes.
        """
        low, high = draws.interval(low=bounds[0], high=bounds[1])
        if of_shares:
            low, high = _never_a_point(draws, low, high, bounds)
        base = np.broadcast_to(np.nan if baseline is None else baseline, draws.estimate.shape)
        for i, condition in enumerate(self.grid.conditions):
            self.add(
                condition,
                dimension,
                measure,
                draws.estimate[i],
                (low[i], high[i]),
                int(draws.n[i]),
                base[i],
                ceiling,
                None if score is None else score[i],
                verdicts[i] if verdicts else "",
            )

    def add_shares(
        self,
        dimension: str,
        measure: str,
        draws: Draws,
        baseline: np.ndarray | float | None = None,
        verdicts: list[str] | None = None,
    ) -> None:
        """One row per condition from draws (C,) of a share of pictures; see :meth:`Draws.share_interval`."""
        low, high = draws.share_interval()
        base = np.broadcast_to(np.nan if baseline is None else baseline, draws.estimate.shape)
        for i, condition in enumerate(self.grid.conditions):
            self.add(
                condition, dimension, measure, draws.estimate[i], (low[i], high[i]), int(draws.n[i]), base[i],
                verdict=verdicts[i] if verdicts else "",
            )  # fmt: skip

    def not_measured(self, dimension: str, measure: str, reason: str, per_checkpoint: bool = False) -> None:
        """Rows without a value, one per condition or checkpoint, that say why."""
        seen: set[str] = set()
        for condition in self.grid.conditions:
            if per_checkpoint:
                if condition.checkpoint in seen:
                    continue
                seen.add(condition.checkpoint)
            self.add(
                condition, dimension, measure, None, verdict=f"not measured: {reason}", whole_checkpoint=per_checkpoint
            )


def _never_a_point(
    draws: Draws, low: np.ndarray, high: np.ndarray, bounds: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    point = np.isfinite(low) & (high - low < 1e-9)
    for i in np.flatnonzero(point & (draws.n > 0)):
        n = int(draws.n[i])
        unseen = 1.0 - wilson(n, n)[0]
        low[i], high[i] = max(bounds[0], low[i] - unseen), min(bounds[1], high[i] + unseen)
    return low, high


def number(value: Any) -> float | None:
    """A plain rounded float, None when missing or not finite. Rounding hides differences of the last bit."""
    if value is None:
        return None
    value = float(value)
    return round(value, DIGITS) + 0.0 if math.isfinite(value) else None
