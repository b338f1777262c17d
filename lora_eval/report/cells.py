"""All pictures of a run as columns: what the page's script draws its map and its large pictures from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lora_eval.i18n.language import t
from lora_eval.report.sections import Report
from lora_eval.report.thumbs import LARGE, href
from lora_eval.report.words import AXIS_TITLES, CELL_FACTS, COLOURS
from lora_eval.scorecard.plan.plan import DEFAULT_AXES

MOST_REFERENCES = 60


@dataclass
class CellTable:
    """Cell by cell, in the order of ``cells.csv``.

    Attributes:
        axes: axis -> its values as they are shown; checkpoint "" is the base model.
        at: axis -> (N,) index into its values.
        twin: (N,) index of the picture of the same prompt and seed at weight 0, -1 without one.
        near, near_cosine: (N,) the nearest reference picture and its likeness, -1 without references.
        metrics: columns of ``cells.csv`` that were measured, (N,) with NaN.
        images: paths. names: nearest training picture.
        chosen: the two axes of the map; pick: index of the recommended checkpoint and weight, -1 without one.
    """

    axes: dict[str, list[str]]
    at: dict[str, np.ndarray]
    twin: np.ndarray
    near: np.ndarray
    near_cosine: np.ndarray
    metrics: dict[str, np.ndarray]
    images: list[str]
    names: list[str]
    chosen: tuple[str, str] = DEFAULT_AXES
    pick: dict[str, int] = field(default_factory=dict)


def cell_table(report: Report) -> CellTable:
    """The report's pictures as columns."""
    cells = report.data.cells.reset_index(drop=True)
    metrics = report.measurement.cell_metrics.reset_index(drop=True)
    weight = cells["weight"].astype(float).to_numpy()
    checkpoint = np.where(weight == 0, "", cells["checkpoint"].astype(str).to_numpy())
    # Python's own whole numbers: seeds go to 2**64 - 1, above what a signed integer of numpy holds
    seed = [int(value) for value in cells["seed"]]
    prompt = cells["prompt_id"].astype(str).to_numpy()
    weights, seeds = np.unique(weight), sorted(set(seed))
    place = {value: at for at, value in enumerate(seeds)}
    checkpoints = ["", *dict.fromkeys(name for name in checkpoint if name)]
    prompts = list(dict.fromkeys(prompt))
    at = {
        "weight": np.searchsorted(weights, weight),
        "checkpoint": np.array([checkpoints.index(name) for name in checkpoint], dtype=int),
        "prompt": np.array([prompts.index(name) for name in prompt], dtype=int),
        "seed": np.array([place[value] for value in seed], dtype=int),
    }
    base = {(p, s): i for i, (p, s, w) in enumerate(zip(prompt, seed, weight, strict=True)) if w == 0}
    twin = np.array([base.get((p, s), -1) for p, s in zip(prompt, seed, strict=True)], dtype=int)
    near, cosine = _nearest(report, len(cells))
    card = report.card
    pick = {"checkpoint": -1, "weight": -1}
    if card.checkpoint in checkpoints and card.weight is not None and (weights == card.weight).any():
        pick = {
            "checkpoint": checkpoints.index(str(card.checkpoint)),
            "weight": int(np.searchsorted(weights, card.weight)),
        }
    texts = {p: _asked(row) for p, (_, row) in zip(prompt, cells.iterrows(), strict=True)}
    asked = card.provenance.get("axes")
    return CellTable(
        axes={
            "weight": [f"{value:g}" for value in weights],
            "checkpoint": checkpoints,
            "prompt": [texts.get(p, p) for p in prompts],
            "seed": [str(value) for value in seeds],
        },
        at=at,
        twin=np.where(weight == 0, -1, twin),
        near=near,
        near_cosine=cosine,
        metrics=_numbers(metrics),
        images=[str(image) for image in cells["image"]],
        names=[str(name) if isinstance(name, str) else "" for name in metrics.get("nn_name", [""] * len(cells))],
        chosen=(str(asked[0]), str(asked[1])) if isinstance(asked, (list, tuple)) and len(asked) == 2 else DEFAULT_AXES,
        pick=pick,
    )


def _asked(row: Any) -> str:
    """A prompt as it was asked, with what it should not show."""
    negative = str(row.get("negative_prompt", "") or "")
    asked = str(row.get("prompt", row["prompt_id"]))
    return f"{asked} ({t('negative')}: {negative})" if negative else asked


def _nearest(report: Report, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The most alike reference of each picture, by the run's own image encoder."""
    references = report.data.references
    if references is None or not len(references) or len(report.data.features) != count:
        return np.full(count, -1), np.full(count, np.nan)
    likeness = np.nan_to_num(report.data.features @ references.features.T, nan=-2.0)
    index = likeness.argmax(axis=1)
    best = likeness[np.arange(count), index]
    return np.where(best > -2, index, -1), np.where(best > -2, best, np.nan)


def _numbers(metrics: pd.DataFrame) -> dict[str, np.ndarray]:
    found = {}
    for name in CELL_FACTS:
        if name in metrics:
            values = pd.to_numeric(metrics[name], errors="coerce").to_numpy(dtype=float)
            if np.isfinite(values).any():
                found[name] = values
    return found


def script_data(report: Report, table: CellTable) -> str:
    """The table as the text of a ``<script type="application/json">``; nothing in it can end the element."""
    data: dict[str, Any] = {
        "axes": {**table.axes, "checkpoint": [t("without LoRA"), *table.axes["checkpoint"][1:]]},
        "titles": {name: t(words) for name, words in AXIS_TITLES.items()},
        "at": {name: index.tolist() for name, index in table.at.items()},
        "chosen": list(table.chosen),
        "pick": table.pick,
        "twin": table.twin.tolist(),
        "near": table.near.tolist(),
        "nearCosine": _short(table.near_cosine, 3),
        "images": [href(image) for image in table.images],
        "files": table.images,
        "names": table.names,
        "references": _references(report, table),
        "metrics": [
            {
                "key": name,
                "label": t(CELL_FACTS[name][0]),
                "about": t(CELL_FACTS[name][2]),
                "digits": CELL_FACTS[name][1],
                "sign": name.endswith(("_gain", "_delta")),
                "colour": COLOURS.get(name, ""),
                "values": _short(values, max(3, CELL_FACTS[name][1])),
            }
            for name, values in table.metrics.items()
        ],
        "words": {name: t(words) for name, words in SCRIPT_WORDS.items()},
    }
    # as in HTML's own advice for JSON inside a script element
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


SCRIPT_WORDS = {
    "base": "without LoRA, same prompt and seed",
    "reference": "nearest reference",
    "cosine": "likeness to the nearest reference (cosine)",
    "prompt": "prompt",
    "training": "nearest training picture",
    "file": "file",
    "all": "all, mean",
    "pictures": "pictures",
    "copied": "copied",
    "seed": "seed",
}


def _short(values: np.ndarray, digits: int) -> list[float | None]:
    return [round(float(value), digits) if np.isfinite(value) else None for value in values]


def _references(report: Report, table: CellTable) -> list[dict[str, str] | None]:
    """Name and picture of each reference that is somebody's nearest; None for the others."""
    references = report.data.references
    if references is None:
        return []
    wanted = [int(i) for i in pd.Series(table.near[table.near >= 0]).value_counts().index[:MOST_REFERENCES]]
    found: list[dict[str, str] | None] = [None] * len(references)
    for index in wanted:
        name = references.names[index]
        path = report.paths.get(name)
        if path is not None:
            found[index] = {"name": name, "src": report.thumbs.src(path, LARGE), "full": href(path)}
    return found
