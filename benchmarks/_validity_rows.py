"""Rates, numbers and Markdown for the tables of the validity bench."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks._validity_advice import Result


def of_kind(results: Iterable[Result], kind: str) -> list[Result]:
    """Results of one kind."""
    return [r for r in results if r["settings"]["kind"] == kind]


def rate(values: Iterable[bool | None]) -> tuple[int, int]:
    """(how many, of how many known)."""
    known = [bool(v) for v in values if v is not None]
    return sum(known), len(known)


def of(values: Iterable[bool | None]) -> str:
    """``found of known``."""
    found, known = rate(values)
    return f"{found} of {known}"


def mean(values: Sequence[float | None]) -> float:
    """Of the known ones; NaN without any."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else float("nan")


def number(value: float) -> str:
    """Two digits, nothing for NaN."""
    return f"{value:.2f}" if np.isfinite(value) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
