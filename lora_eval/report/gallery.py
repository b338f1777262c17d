"""All pictures: a table for each prompt, seeds by checkpoint down, weights across."""

from __future__ import annotations

import numpy as np

from lora_eval.i18n.language import t
from lora_eval.report.cells import CellTable
from lora_eval.report.markup import scroll_table, section, text, words
from lora_eval.report.sections import Report
from lora_eval.report.words import ROLE_WORDS


def gallery(report: Report, found: CellTable) -> str:
    """The section of all pictures; each opens beside its weight-0 twin and its nearest reference with its numbers."""
    cells = report.data.cells.reset_index(drop=True)
    metrics = report.measurement.cell_metrics.reset_index(drop=True)
    small = bool((cells["width"].astype(float) <= 128).all()) if "width" in cells else False
    copied = np.array([str(value) == "True" for value in metrics.get("copy", [False] * len(cells))])
    report.thumbs.prepare(found.images)
    blocks = []
    for place in range(len(found.axes["prompt"])):
        mine = np.flatnonzero(found.at["prompt"] == place)
        first = cells.loc[mine[0]]
        role = str(first.get("role", ""))
        negative = str(first.get("negative_prompt", "") or "")
        without = f" <span class=quiet>({words('negative')}: {text(negative)})</span>" if negative else ""
        about = words(ROLE_WORDS[role]) if role in ROLE_WORDS else ""
        head = (
            f"<summary>{text(first['prompt'])}{without}"
            f'<span class="tag" title="{about}">{text(t(role) if role else "")}</span></summary>'
        )
        made = _table(report, found, mine, copied, small)
        blocks.append(f"<details{' open' if place == 0 else ''}>{head}{made}</details>")
    linked = report.thumbs.linked
    lead = t(
        "Rows: seeds and checkpoints; columns: weights. Click a picture to see it beside weight 0 and its nearest "
        "reference, with its numbers; arrow keys go on."
    )
    if linked:
        lead += " " + t("{0} pictures are shown from the folder thumbs, which must lie beside this page.", linked)
    return section(t("All pictures"), "".join(blocks), lead)


def _table(report: Report, found: CellTable, mine: np.ndarray, copied: np.ndarray, small: bool) -> str:
    at = {axis: index[mine] for axis, index in found.at.items()}
    weights = sorted(set(at["weight"].tolist()))
    checkpoints = [c for c in sorted(set(at["checkpoint"].tolist())) if found.axes["checkpoint"][c]]
    cell = {
        (s, c, w): int(i)
        for s, c, w, i in zip(
            at["seed"].tolist(), at["checkpoint"].tolist(), at["weight"].tolist(), mine.tolist(), strict=True
        )
    }
    zero = next((w for w in weights if float(found.axes["weight"][w]) == 0), -1)
    head = "".join(f"<th>{found.axes['weight'][w]}</th>" for w in weights)
    lines = []
    for seed in sorted(set(at["seed"].tolist())):
        for position, checkpoint in enumerate(checkpoints or [0]):
            shown = f"{t('seed')} {found.axes['seed'][seed]}"
            label = shown if len(checkpoints) <= 1 else f"{found.axes['checkpoint'][checkpoint]} · {shown}"
            row = [f'<th scope="row" title="{text(label)}">{text(label)}</th>']
            for weight in weights:
                if weight == zero:
                    if position == 0:
                        thumb = _thumb(report, found, cell.get((seed, 0, zero)), small)
                        row.append(f"<td rowspan={max(1, len(checkpoints))}>{thumb}</td>")
                    continue
                index = cell.get((seed, checkpoint, weight))
                marked = _mark(found, copied, index, checkpoint, weight)
                row.append(f"<td{marked}>{_thumb(report, found, index, small)}</td>")
            lines.append(f"<tr{' class=first' if position == 0 else ''}>{''.join(row)}</tr>")
    return scroll_table("grid", head, "".join(lines))


def _mark(found: CellTable, copied: np.ndarray, index: int | None, checkpoint: int, weight: int) -> str:
    classes = []
    if (checkpoint, weight) == (found.pick["checkpoint"], found.pick["weight"]):
        classes.append("pick")
    if index is not None and copied[index]:
        classes.append("odd")
    return f' class="{" ".join(classes)}"' if classes else ""


def _thumb(report: Report, found: CellTable, index: int | None, small: bool) -> str:
    if index is None:
        return '<span class="quiet">–</span>'
    image = found.images[index]
    src = report.thumbs.src(image)
    width, height = report.thumbs.size(image)
    title = cell_title(found, index)
    return (
        f'<button type="button" class="thumb{" small-pixels" if small else ""}" id="c{index}" data-cell="{index}" '
        f'title="{text(title)}"><img src="{src}" alt="{text(title)}" loading="lazy" decoding="async" '
        f'width="{width}" height="{height}"></button>'
    )


def cell_title(found: CellTable, index: int) -> str:
    """Checkpoint, weight and seed of a picture in words."""
    weight = found.axes["weight"][found.at["weight"][index]]
    checkpoint = found.axes["checkpoint"][found.at["checkpoint"][index]]
    seed = found.axes["seed"][found.at["seed"][index]]
    if not checkpoint:
        return t("without LoRA, seed {0}", seed)
    return t("{0} at {1}, seed {2}", checkpoint, weight, seed)
