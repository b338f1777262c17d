"""All pictures: a table for each prompt, seeds by checkpoint down, weights across."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from lora_eval.report.markup import number, scroll_table, section, text
from lora_eval.report.sections import Report
from lora_eval.report.thumbs import href
from lora_eval.report.words import CELL_FACTS, ROLE_WORDS


def gallery(report: Report) -> str:
    """The section of all pictures; each opens beside its weight-0 twin with its numbers."""
    cells = report.data.cells.reset_index(drop=True)
    metrics = report.measurement.cell_metrics.reset_index(drop=True)
    small = bool((cells["width"].astype(float) <= 128).all()) if "width" in cells else False
    blocks = []
    for number_, prompt_id in enumerate(dict.fromkeys(cells["prompt_id"].astype(str))):
        mine = cells.index[cells["prompt_id"].astype(str) == prompt_id]
        first = cells.loc[mine[0]]
        role = str(first.get("role", ""))
        negative = str(first.get("negative_prompt", "") or "")
        without = f" <span class=quiet>(negative: {text(negative)})</span>" if negative else ""
        head = (
            f"<summary>{text(first['prompt'])}{without}"
            f'<span class="tag" title="{text(ROLE_WORDS.get(role, ""))}">{text(role)}</span></summary>'
        )
        blocks.append(
            f"<details{' open' if number_ == 0 else ''}>{head}{_table(report, cells, metrics, mine, small)}</details>"
        )
    linked = report.thumbs.linked
    lead = "Rows: seeds and checkpoints; columns: weights. Click a picture to see it beside weight 0 with its numbers."
    if linked:
        lead += f" {linked} pictures are shown from the images folder, which must lie beside this page."
    return section("All pictures", "".join(blocks), lead)


def _table(report: Report, cells: pd.DataFrame, metrics: pd.DataFrame, mine: pd.Index, small: bool) -> str:
    part = cells.loc[mine]
    weights = sorted({float(w) for w in part["weight"]})
    checkpoints = list(
        dict.fromkeys(str(c) for c, w in zip(part["checkpoint"], part["weight"], strict=True) if float(w) != 0)
    )
    at = {
        (int(row.seed), "" if float(row.weight) == 0 else str(row.checkpoint), float(row.weight)): int(index)
        for index, row in zip(part.index, part.itertuples(), strict=True)
    }
    head = "".join(f"<th>{weight:g}</th>" for weight in weights)
    lines = []
    for seed in sorted({int(value) for value in part["seed"]}):
        base = at.get((seed, "", 0.0))
        for position, checkpoint in enumerate(checkpoints):
            label = f"seed {seed}" if len(checkpoints) == 1 else f"{checkpoint} · seed {seed}"
            row = [f'<th scope="row" title="{text(label)}">{text(label)}</th>']
            for weight in weights:
                if weight == 0:
                    if position == 0:
                        row.append(
                            f"<td rowspan={len(checkpoints)}>{_thumb(report, cells, metrics, base, None, small)}</td>"
                        )
                    continue
                index = at.get((seed, checkpoint, weight))
                thumb = _thumb(report, cells, metrics, index, base, small)
                row.append(f"<td{_mark(report, metrics, index, checkpoint, weight)}>{thumb}</td>")
            lines.append(f"<tr{' class=first' if position == 0 else ''}>{''.join(row)}</tr>")
    return scroll_table("grid", head, "".join(lines))


def _mark(report: Report, metrics: pd.DataFrame, index: int | None, checkpoint: str, weight: float) -> str:
    classes = []
    if (checkpoint, weight) == (report.card.checkpoint, report.card.weight):
        classes.append("pick")
    if index is not None and "copy" in metrics and str(metrics["copy"].iloc[index]) == "True":
        classes.append("odd")
    return f' class="{" ".join(classes)}"' if classes else ""


def _thumb(
    report: Report, cells: pd.DataFrame, metrics: pd.DataFrame, index: int | None, base: int | None, small: bool
) -> str:
    if index is None:
        return '<span class="quiet">–</span>'
    cell = cells.loc[index]
    image = str(cell["image"])
    src = report.thumbs.src(image)
    where = f"{cell['checkpoint']} at {float(cell['weight']):g}" if float(cell["weight"]) else "without LoRA"
    title = f"{where}, seed {int(cell['seed'])}"
    twin = f' data-twin="c{base}"' if base is not None else ""
    return (
        f'<button type="button" class="thumb{" small-pixels" if small else ""}" id="c{index}" title="{text(title)}"'
        f' data-full="{href(image)}"{twin} data-facts="{text(json.dumps(facts(cell, metrics.loc[index])))}">'
        f'<img src="{src}" alt="{text(title)}" loading="lazy"></button>'
    )


def facts(cell: Any, metric: Any) -> list[list[str]]:
    """What is said under a picture: pairs of words and value."""
    found = [["prompt", str(cell["prompt"])]]
    for name, (words, digits) in CELL_FACTS.items():
        value = metric.get(name)
        if isinstance(value, (int, float, np.number)) and not np.isnan(float(value)):
            found.append([words, number(float(value), digits, sign=name.endswith(("_gain", "_delta")))])
    nearest = metric.get("nn_name")
    if isinstance(nearest, str) and nearest:
        found.append(["nearest training picture", nearest])
    found.append(["file", str(cell["image"])])
    return found
