"""What was measured at one checkpoint and weight, as the rules of a dimension look at it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lora_eval.scorecard.data import Measure, Measurement
from lora_eval.scorecard.grid import Condition


class SummaryIndex:
    """A measurement whose summary can be looked up by checkpoint, weight, dimension and measure."""

    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement
        self._rows = {(m.checkpoint, m.weight, m.dimension, m.measure): m for m in measurement.summary}
        self._top: dict[str, Condition] = {}
        for m in measurement.summary:
            if m.weight is not None and m.weight > 0 and m.weight > self._weight_of_top(m.checkpoint):
                self._top[m.checkpoint] = Condition(m.checkpoint, m.step, m.weight)

    def _weight_of_top(self, checkpoint: str) -> float:
        return self._top[checkpoint].weight if checkpoint in self._top else -math.inf

    def row(self, where: Condition, dimension: str, measure: str) -> Measure | None:
        """The row of the condition or, where the number belongs to the checkpoint, of that; also without a value."""
        found = self._rows.get((where.checkpoint, where.weight, dimension, measure))
        return found or self._rows.get((where.checkpoint, None, dimension, measure))

    def measured(self, where: Condition, dimension: str, measure: str) -> Measure | None:
        """The same, None where nothing was measured."""
        found = self.row(where, dimension, measure)
        return found if found is not None and found.value is not None else None

    def of(self, checkpoint: str, dimension: str) -> list[Measure]:
        """All rows of a dimension at a checkpoint, in the order of the summary."""
        return [m for m in self._rows.values() if m.dimension == dimension and m.checkpoint == checkpoint]

    def largest_weight(self, checkpoint: str) -> Condition | None:
        """The checkpoint's condition of largest weight, None where no weight is above 0."""
        return self._top.get(checkpoint)


@dataclass(frozen=True)
class Place:
    """One checkpoint and weight of a measured run.

    Attributes:
        where: the checkpoint and weight.
        index: the measured run.
    """

    where: Condition
    index: SummaryIndex

    @property
    def weight(self) -> float:
        """The weight."""
        return self.where.weight

    def at(self, where: Condition) -> Place:
        """Another checkpoint and weight of the same run."""
        return Place(where, self.index)

    def rows_of(self, dimension: str) -> Callable[[str], Measure | None]:
        """Name of a measure -> its row here, None where nothing was measured."""
        return lambda measure: self.index.measured(self.where, dimension, measure)

    def evidence(self, dimension: str) -> dict[str, Any]:
        """Evidence of the dimension, of all conditions; empty where there is none."""
        return self.index.measurement.evidence.get(dimension, {})

    def here(self, table: dict[str, Any] | None) -> Any:
        """A value of a table of evidence that is keyed by condition, None where it has none."""
        return (table or {}).get(self.where.key)


def interval_text(row: Measure, digits: int = 2) -> str:
    """``0.72 (0.61 to 0.80)``, or the value alone where there is no interval."""
    value = math.nan if row.value is None else row.value
    if row.ci_low is None or row.ci_high is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({row.ci_low:.{digits}f} to {row.ci_high:.{digits}f})"


def upper_end(row: Measure) -> float:
    """Upper end of the 95 % interval, the value itself where there is no interval; NaN without a value."""
    value = math.nan if row.value is None else row.value
    return value if row.ci_high is None else row.ci_high


def below(row: Measure | None, limit: float) -> bool:
    """Whether even the upper end of the interval is below the limit; False where nothing was measured."""
    return row is not None and row.value is not None and upper_end(row) < limit
