"""Generalisation of a run: the score from its parts."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_eval.scorecard.dimensions.context import Context, Estimate, number
from lora_eval.scorecard.dimensions.generalisation.copies import NAME
from lora_eval.scorecard.dimensions.generalisation.parts import PARTS, PartValues, concept_shows


def measure(context: Context) -> None:
    """Score: the smallest of the parts, each 1 where nothing is lost and 0 where everything is.

    Each part counts with the upper end of its interval: a loss counts only as far as the interval excludes less of it,
    so that the smallest of seven noisy numbers does not make a good LoRA look bad. The interval of the score runs from
    the smallest of the parts' lower ends to the upper end of the smallest part.
    """
    context.evidence.setdefault(NAME, {})
    measured = {part.name: part.measure(context) for part in PARTS}
    _score(context, {name: found for name, found in measured.items() if found is not None})


def _score(context: Context, parts: dict[str, PartValues]) -> None:
    """Rows of the score: the part whose upper end is lowest."""
    grid = context.grid
    weakest: dict[str, dict[str, Any]] = {}
    judged = [part.name for part in PARTS if part.decides and part.name in parts]
    shows = concept_shows(context)
    for c, condition in enumerate(grid.conditions):
        rows = {}
        for name, part in parts.items():
            value, low, high, n = (float(x[c]) for x in part)
            if np.isfinite(value):
                rows[name] = (value, low, high, int(n))
        copied = "copies" in rows and rows["copies"][0] < 1.0
        if shows is not None and not shows[c] and not copied:
            reason = "the concept does not surely show, so there is nothing to generalise"
            context.add(condition, NAME, "score", Estimate(None, verdict=f"not measured: {reason}"))
            continue
        if not any(name in rows for name in judged):
            found = [v for k, v in sorted(context.notes.items()) if k.startswith("generalisation.")]
            reason = "; ".join(dict.fromkeys(found)) or "add challenge prompts, the training pictures and references"
            context.add(condition, NAME, "score", Estimate(None, verdict=f"not measured: {reason}"))
            continue
        ends = {name: (value if not np.isfinite(high) else high) for name, (value, _, high, _) in rows.items()}
        name = min(ends, key=lambda key: (min(1.0, ends[key]), key))
        value, _, high, n = rows[name]
        low = min((r[1] for r in rows.values() if np.isfinite(r[1])), default=np.nan)
        # a ratio with a small denominator can be of any size; below -1 nothing more is lost
        value, low, high = (float(x) for x in np.clip((value, low, high), -1.0, 1.0))
        context.add(condition, NAME, "score", Estimate(value, (low, high), n, 0.0, 1.0, value))
        weakest[condition.key] = {
            "part": name,
            "parts": {
                key: {"value": number(r[0]), "ci_low": number(r[1]), "ci_high": number(r[2])} for key, r in rows.items()
            },
        }
    context.evidence[NAME]["weakest"] = weakest
