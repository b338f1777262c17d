"""Whether pictures of two runs may be set side by side: model, settings, encoder, references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lora_eval.errors import RunError
from lora_eval.reading.generation import read_generation
from lora_eval.scorecard.comparison.runs import Run, Side, number
from lora_eval.scorecard.tables import cell_text

SETTINGS = ("sampler", "scheduler", "steps", "cfg_scale", "width", "height", "clip_skip")
# without these two pictures of one seed need not have anything to do with each other
NEEDED = ("model", "sampler", "steps", "cfg_scale")
# what it is, its column in a table of pictures, its name in an infotext
_SAID = (
    ("model", "", "Model"),
    ("sha256", "", "Model hash"),
    ("sampler", "sampler", "Sampler"),
    ("scheduler", "", "Schedule type"),
    ("steps", "steps", "Steps"),
    ("cfg_scale", "cfg", "CFG scale"),
    ("width", "width", ""),
    ("height", "height", ""),
    ("clip_skip", "", "Clip skip"),
)
# hosts and GPUs round differently; a picture drawn again elsewhere stays this close to itself
SAME_PICTURE = 0.995


@dataclass(frozen=True)
class Drawing:
    """How the pictures of a side were drawn; "" and missing settings are not known.

    ``settings``: names of SETTINGS to the value as text, several joined by commas where pictures differ.
    """

    host: str = ""
    model: str = ""
    sha256: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def unknown(self) -> list[str]:
        """What of NEEDED is not known."""
        known = {*self.settings, *(("model",) if self.model or self.sha256 else ())}
        return [name for name in NEEDED if name not in known]


def drawing_of(side: Side) -> Drawing:
    """From the run's plan; where there is none from the table, and what it leaves open from the pictures' infotexts."""
    plan = side.run.plan
    if plan is not None:
        return Drawing(
            f"{plan.host.name} on {plan.host.device}",
            str(plan.model.get("name") or ""),
            str(plan.model.get("sha256") or ""),
            {name: cell_text(getattr(plan.sampling, name)) for name in SETTINGS},
        )
    found: dict[str, set[str]] = {}
    for row in (*side.pictures.values(), *side.base.values()):
        facts = _infotext(side.run.folder.root / row.get("image", ""))
        for name, column, label in _SAID:
            if value := (row.get(column) or facts.get(label)):
                found.setdefault(name, set()).add(value)
    known = {name: ", ".join(sorted(values)) for name, values in found.items()}
    return Drawing("", known.pop("model", ""), known.pop("sha256", ""), known)


def _infotext(path: Path) -> Mapping[str, str]:
    """The settings in a picture of any kind; none where it has no infotext or is gone."""
    said = read_generation(path)
    return said.parameters if said is not None else {}


def require_alike(sides: Sequence[Side], drawings: Sequence[Drawing]) -> None:
    """Raise RunError naming the first thing that is known of two sides and differs, and how to mend it."""
    for (one, mine), (two, theirs) in combinations(zip(sides, drawings, strict=True), 2):
        first, other = one.run, two.run
        drawn = first.plan is not None and other.plan is not None
        again = (
            "score one of them again with the other's {0}" if drawn else "draw one of them again with the other's {0}"
        )

        def differ(what: str, one: Any, two: Any, mend: str, first: Run = first, other: Run = other) -> None:
            if one and two and str(one).lower() != str(two).lower():
                here, there = first.folder.root, other.folder.root
                raise RunError(f"cannot compare: {what} is {one} in {here} and {two} in {there}; {mend}")

        hashes = mine.sha256[:10], theirs.sha256[:10]
        # a file may be called otherwise elsewhere: where both hashes are known they decide
        if drawn or not all(hashes):
            differ("the model", mine.model, theirs.model, again.format("model"))
        differ(f"the hash of model {mine.model}", *hashes, again.format("model"))
        for name in SETTINGS:
            differ(name, mine.settings.get(name), theirs.settings.get(name), again.format(name))
        again = again if drawn else "measure one of them again with the other's {0}"
        differ("the encoder", first.encoder, other.encoder, again.format("--encoder"))


def doubts(sides: Sequence[Side], drawings: Sequence[Drawing]) -> Iterator[str]:
    """What is not known of how the pictures were drawn, and what the pictures of weight 0 say about it."""
    seen: set[int] = set()
    for side, drawing in zip(sides, drawings, strict=True):
        if drawing.unknown and id(side.run) not in seen:
            seen.add(id(side.run))
            yield (
                f"{side.run.name}: neither the table nor the pictures say which {', '.join(drawing.unknown)} they were "
                "drawn with; see to it that they are those of the other run"
            )
    for first, second in combinations(sides, 2):
        if first.run is second.run or (first.run.plan is not None and second.run.plan is not None):
            continue
        checked, other = _bases(first, second)
        if other:
            yield (
                f"{other} of {checked} pictures of weight 0 differ between {first.run.name} and {second.run.name} for "
                "the same prompt and seed: pairs help less, and another model or setting would count as the LoRA's"
            )


def _bases(first: Side, second: Side) -> tuple[int, int]:
    """Pictures of weight 0 that both have with the same words and seed: how many, and how many differ."""
    checked = other = 0
    for key in sorted(set(first.base) & set(second.base)):
        rows = first.base[key], second.base[key]
        if rows[0]["prompt"] != rows[1]["prompt"]:
            continue
        hashes = [side.run.hash_of(row) for side, row in zip((first, second), rows, strict=True)]
        features = [side.run.features.get(one) for side, one in zip((first, second), hashes, strict=True)]
        if not all(hashes) or (hashes[0] != hashes[1] and any(feature is None for feature in features)):
            continue
        checked += 1
        other += hashes[0] != hashes[1] and float(features[0] @ features[1]) < SAME_PICTURE  # type: ignore[operator]
    return checked, other


def same_references(first: Run, second: Run) -> bool:
    """Whether both runs measured likeness to the same reference pictures.

    A picture that both drew (weight 0 of a prompt without trigger, say) has the same CLIP-I in both
    only when the references are the same; where no picture is shared, their file names must be.
    """
    shared = sorted(set(first.rows.get(("", 0.0), {})) & set(second.rows.get(("", 0.0), {})))
    compared = 0
    for key in shared:
        rows = first.rows["", 0.0][key], second.rows["", 0.0][key]
        values = [number(row, "clip_i") for row in rows]
        hashes = [run.hash_of(row) for run, row in zip((first, second), rows, strict=True)]
        if hashes[0] and hashes[0] == hashes[1] and np.isfinite(values).all():
            compared += 1
            # six digits are kept in the table
            if abs(values[0] - values[1]) > 2e-6:
                return False
    if compared:
        return True
    names = [sorted(run.references) for run in (first, second)]
    return bool(names[0]) and names[0] == names[1]
