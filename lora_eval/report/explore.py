"""The map of the pictures: two axes, coloured by a number; each place opens its pictures."""

from __future__ import annotations

import numpy as np

from lora_eval.i18n.language import t
from lora_eval.report.cells import SCRIPT_WORDS, CellTable
from lora_eval.report.markup import number, section, text, words
from lora_eval.report.words import AXIS_TITLES, CELL_FACTS, COLOURS
from lora_eval.scorecard.plan.plan import AXES

FIRST = ("clip_i_gain", "effect", "clip_t_delta", "clip_t")


def explore(table: CellTable) -> str:
    """Section of the map: drawn here for the run's own axes, redrawn by the page's script for any other two."""
    known = [name for name in table.metrics if name in COLOURS]
    if not known:
        return ""
    metric = next((name for name in FIRST if name in known), known[0])
    x, y = table.chosen
    selects = [_select("x", t("X axis"), [(axis, t(AXIS_TITLES[axis])) for axis in AXES], x)]
    selects.append(_select("y", t("Y axis"), [(axis, t(AXIS_TITLES[axis])) for axis in AXES], y))
    selects.append(_select("metric", t("Colour"), [(name, t(CELL_FACTS[name][0])) for name in known], metric))
    for axis in AXES:
        values = [(str(i), value or t("without LoRA")) for i, value in enumerate(table.axes[axis])]
        chosen = str(fixed(table, axis))
        select = _select(axis, t(AXIS_TITLES[axis]), [("-1", t(SCRIPT_WORDS["all"])), *values], chosen)
        selects.append(select.replace("<label", "<label hidden", 1) if axis in (x, y) else select)
    body = (
        f'<div class="choose noprint">{"".join(selects)}</div>'
        f'<p class="quiet small" id="map-about">{words(CELL_FACTS[metric][2])}</p>'
        f'<div class="scroll"><table class="heat map" id="map">{drawn(table, x, y, metric)}</table></div>'
    )
    lead = t("Means over the pictures of each place; choose the axes. Click a place to see its pictures.")
    return section(t("Map of the pictures"), body, lead)


def _select(name: str, words: str, options: list[tuple[str, str]], chosen: str) -> str:
    made = "".join(
        f'<option value="{text(value)}"{" selected" if value == chosen else ""}>{text(shown[:80])}</option>'
        for value, shown in options
    )
    return f'<label>{text(words)} <select data-map="{name}">{made}</select></label>'


def fixed(table: CellTable, axis: str) -> int:
    """Where an axis that is not shown stands at first: at the recommendation, over everything where there is none."""
    return table.pick.get(axis, -1)


def places(table: CellTable, x: str, y: str, held: dict[str, int]) -> dict[tuple[int, int], list[int]]:
    """(row, column) -> its pictures.

    Weight 0 is drawn once for all checkpoints, so it stands in every checkpoint's row; where the weight is no axis it
    is left out unless it was asked for.
    """
    found: dict[tuple[int, int], list[int]] = {}
    base = [name == "" for name in table.axes["checkpoint"]]
    rows, columns = range(len(table.axes[y])), range(len(table.axes[x]))
    for i in range(len(table.images)):
        at = {axis: int(index[i]) for axis, index in table.at.items()}
        bare = base[at["checkpoint"]]
        if any(at[axis] != value and not (axis == "checkpoint" and bare) for axis, value in held.items() if value >= 0):
            continue
        if bare and "weight" not in (x, y) and held.get("weight", -1) != at["weight"]:
            continue
        spread = bare and "checkpoint" in (x, y) and len(table.axes["checkpoint"]) > 1
        for row in rows if spread and y == "checkpoint" else (at[y],):
            for column in columns if spread and x == "checkpoint" else (at[x],):
                if spread and base[row if y == "checkpoint" else column]:
                    continue
                found.setdefault((row, column), []).append(i)
    return found


def drawn(table: CellTable, x: str, y: str, metric: str) -> str:
    """Head and body of the map."""
    held = {axis: fixed(table, axis) for axis in AXES if axis not in (x, y)}
    found = places(table, x, y, held)
    values = table.metrics[metric]
    means = {key: _mean(values[cells]) for key, cells in found.items()}
    known = [value for value in means.values() if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    columns = [c for c in range(len(table.axes[x])) if any(key[1] == c for key in found)]
    rows = [r for r in range(len(table.axes[y])) if any(key[0] == r for key in found)]
    head = "".join(f"<th>{text(_value(table, x, c))}</th>" for c in columns)
    lines = []
    digits, sign = CELL_FACTS[metric][1], metric.endswith(("_gain", "_delta"))
    for r in rows:
        cells = []
        for c in columns:
            mine = found.get((r, c), [])
            mean = means.get((r, c))
            at = {x: c, y: r}
            pick = all(at.get(axis, held.get(axis)) == table.pick.get(axis, -1) for axis in ("checkpoint", "weight"))
            recommended = pick and table.pick.get("weight", -1) >= 0 and bool({x, y} & {"weight", "checkpoint"})
            css = ' class="pick"' if recommended else ""
            count = f"{len(mine)} {t(SCRIPT_WORDS['pictures'])}"
            button = f'<button type="button" data-cells="{",".join(map(str, mine))}" title="{text(count)}">'
            inner = f"{button}{number(mean, digits, sign)}</button>" if mine else "–"
            cells.append(f'<td{css} style="{style(mean, low, high, COLOURS[metric])}">{inner}</td>')
        lines.append(f"<tr><th scope=row>{text(_value(table, y, r))}</th>{''.join(cells)}</tr>")
    corner = f"{t(AXIS_TITLES[y])} ↓ {t(AXIS_TITLES[x])} →"
    return f'<thead><tr><th class="quiet">{text(corner)}</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody>'


def _value(table: CellTable, axis: str, index: int) -> str:
    return table.axes[axis][index] or t("without LoRA")


def _mean(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def style(value: float | None, low: float, high: float, colour: str) -> str:
    """CSS of a place: strength by how far the value lies in what the map has, hue by what that means."""
    if value is None:
        return ""
    if colour == "gain":
        reach = max(abs(low), abs(high)) or 1.0
        share, hue = min(1.0, abs(value) / reach), "0,114,178" if value >= 0 else "213,94,0"
    else:
        share = (value - low) / (high - low) if high > low else 0.5
        hue = "213,94,0" if colour == "fault" else "0,114,178"
    ink = ";color:#fff" if share > 0.62 else ""
    return f"background:rgba({hue},{0.06 + 0.84 * share:.2f}){ink}"
