"""The sections of the page, each from the same three values: run, measurement, scorecard."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_eval.errors import LoraEvalError
from lora_eval.i18n.language import said, t
from lora_eval.report import charts
from lora_eval.report.markup import interval, number, pair, scroll_table, section, table, text, words
from lora_eval.report.thumbs import Thumbs, href
from lora_eval.report.words import COMPARED, QUESTIONS, TITLES
from lora_eval.scorecard.data import Dimension, Measure, Measurement, RunData, Scorecard
from lora_eval.scorecard.dimensions.registry import DIMENSIONS, NAMES

MOST_CURVES = 8


@dataclass
class Report:
    """What the sections are made from. ``paths``: shown name of a reference or training picture -> file."""

    data: RunData
    measurement: Measurement
    card: Scorecard
    thumbs: Thumbs
    paths: dict[str, Path] = field(default_factory=dict)

    def dimension(self, name: str) -> Dimension:
        """A dimension's answer, "not measured" where deciding left it out."""
        return self.card.dimensions.get(name) or Dimension(
            name, None, None, None, 0, "not measured", "was not looked at"
        )

    def rows(self, dimension: str, measure: str) -> list[Measure]:
        """Rows of the summary."""
        return [row for row in self.measurement.summary if (row.dimension, row.measure) == (dimension, measure)]


def verdict(report: Report) -> str:
    """The sentence on top, with what to paste into a prompt."""
    card = report.card
    use = ""
    if card.checkpoint is not None and card.weight is not None:
        tag = f"<lora:{card.checkpoint}:{card.weight:g}>"
        use = (
            f'<div class="use"><span>{words("In the prompt:")} <code>{text(tag)}</code></span>'
            f'<button class="noprint" data-copy="{text(tag)}" data-done="{words("copied")}">{words("copy")}</button>'
            "</div>"
        )
    gates = "".join(f"<li>{text(said(gate))}</li>" for gate in card.gates)
    ruled = words("{0} ruled out", len(card.gates))
    failed = f'<details class="small"><summary>{ruled}</summary><ul>{gates}</ul></details>' if gates else ""
    kind = "verdict" if card.checkpoint is not None else "verdict none"
    return f'<div class="{kind}"><p class="sentence">{text(said(card.verdict))}</p>{use}{failed}</div>'


def dimensions(report: Report) -> str:
    """Radar, what to change next time, and the six answers."""
    found = [report.dimension(name) for name in NAMES]
    radar = charts.radar([(t(TITLES[d.name]), d.score, d.ci_low, d.ci_high) for d in found])
    answers = "".join(_answer(d) for d in found)
    where = t("At the least bad checkpoint and weight.")
    if report.card.checkpoint is not None:
        where = t("At {0}, weight {1}.", report.card.checkpoint, f"{report.card.weight:g}")
    body = f'<div class="six"><div>{radar}{_advice(report)}</div><div class="dims">{answers}</div></div>'
    return section(t("Six dimensions"), body, f"{where} {t('Bands are 95 % intervals.')}")


def _answer(d: Dimension) -> str:
    word = d.verdict if d.verdict in ("good", "weak", "poor") else "none"
    value = (
        f'<span class="num">{interval(d.score, d.ci_low, d.ci_high)}</span> <span class="quiet small">n = {d.n}</span>'
    )
    if d.score is None:
        value = f'<span class="quiet">{words("no number")}</span>'
    return (
        f'<article class="dim" id="{text(d.name)}"><header><h3>{words(TITLES[d.name])}</h3>'
        f'<span class="word {word}">{text(said(d.verdict))}</span>'
        f'<span class="ask">{words(QUESTIONS[d.name])}</span></header>'
        f'<div class="row">{charts.score_bar(d.score, d.ci_low, d.ci_high)}<div>{value}</div></div>'
        f'<p class="small">{text(_sentence(said(d.reason)))}</p>'
        f'<p class="small quiet">{words(COMPARED[d.name])}</p></article>'
    )


def _advice(report: Report) -> str:
    rows = "".join(
        f'<li><strong>{text(_sentence(said(a.change)))}</strong><span class="small quiet">'
        f"{words(TITLES.get(a.dimension, a.dimension))}: {text(said(a.seen))}</span></li>"
        for a in report.card.advice
    )
    return f'<h2>{words("What to change next time")}</h2><ul class="advice">{rows}</ul>' if rows else ""


def strength(report: Report) -> str:
    """Response over weight, one chart a checkpoint; the recommended one first."""
    curves = report.measurement.evidence.get("strength", {}).get("curves") or {}
    chosen = report.card.checkpoint
    names = sorted(curves, key=lambda name: (name != chosen, list(curves).index(name)))
    figures = []
    for name in names[:MOST_CURVES]:
        mine = name == chosen
        advised = report.card.weight if mine else None
        mark = ' class="chosen"' if mine else ""
        also = f" · {words('recommended')}" if mine else ""
        figures.append(
            f"<figure{mark}><figcaption><strong>{text(name)}</strong>{also}</figcaption>"
            f"{charts.response_curve(curves[name], name, advised)}</figure>"
        )
    left = words("{0} more in summary.csv", len(names) - MOST_CURVES)
    more = f'<p class="quiet small">{left}</p>' if len(names) > MOST_CURVES else ""
    meaning = next((str(curve.get("response")) for curve in curves.values() if curve.get("response")), "")
    lead = (
        t("Gain over weight 0: {0}. Band: 95 % interval. Ring: the weight to use. Cross: distorted.", said(meaning))
        if meaning
        else ""
    )
    body = f'<div class="cards">{"".join(figures)}</div>{more}' if figures else ""
    return section(t("Is the weight a knob or a switch?"), body, lead)


def heat_maps(report: Report) -> str:
    """Checkpoint by weight, a map for each dimension that is measured at both."""
    names = [spec.name for spec in DIMENSIONS if spec.by_weight]
    # likeness first: it is what checkpoints and weights are ranked by
    maps = [_heat(report, name) for name in sorted(names, key=lambda name: name != "fidelity")]
    return section(
        t("Checkpoint by weight"),
        f'<div class="cards">{"".join(maps)}</div>' if any(maps) else "",
        t("Scores as above, blue from 0 up, orange below; the outlined cell is recommended."),
    )


def _heat(report: Report, dimension: str) -> str:
    rows = [row for row in report.rows(dimension, "score") if row.weight is not None]
    if not any(row.value is not None for row in rows):
        return ""
    weights = sorted({row.weight for row in rows if row.weight is not None})
    checkpoints = list(dict.fromkeys(row.checkpoint for row in rows))
    by = {(row.checkpoint, row.weight): row for row in rows}
    values = [row.value for row in rows if row.value is not None]
    low, high = min(values), max(*values, 1.0)
    lines = []
    for name in checkpoints:
        cells = []
        for weight in weights:
            row = by.get((name, weight))
            value = row.value if row is not None else None
            pick = ' class="pick"' if (name, weight) == (report.card.checkpoint, report.card.weight) else ""
            hint = "" if row is None else text(said(row.verdict))
            if row is not None and value is not None:
                hint = text(interval(value, row.ci_low, row.ci_high))
            cells.append(f'<td{pick} style="{charts.heat_style(value, low, high)}" title="{hint}">{number(value)}</td>')
        lines.append(f"<tr><th scope=row>{text(name)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{weight:g}</th>" for weight in weights)
    return (
        f"<figure><figcaption><strong>{words(TITLES[dimension])}</strong></figcaption>"
        f"{scroll_table('heat', head, ''.join(lines))}</figure>"
    )


def leaderboard(report: Report) -> str:
    """Checkpoints at their best weight with their intervals on one scale; ties named."""
    board = getattr(report.card, "leaderboard", [])
    if len(board) < 2:
        return ""
    ends = [entry[key] for entry in board for key in ("value", "ci_low", "ci_high") if entry.get(key) is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    heads = ("checkpoint", "step", "weight", str(board[0].get("measure", "value")), "", "p", "")
    right = (1, 2, 3, 5)
    head = "".join(f"<th{' class=n' if at in right else ''}>{text(said(one))}</th>" for at, one in enumerate(heads))
    lines = []
    for entry in board:
        recommended = bool(entry.get("recommended"))
        state = "recommended" if recommended else "tie" if entry.get("tied") else ""
        state = ", ".join(t(word) for word in [*filter(None, [state]), *entry.get("gates", [])])
        bar = charts.interval_bar(entry["value"], entry["ci_low"], entry["ci_high"], low, high)
        step = "–" if entry.get("step") is None else entry["step"]
        lines.append(
            f"<tr{' class=chosen' if recommended else ''}><th scope=row>{text(entry['checkpoint'])}</th>"
            f"<td class=n>{text(step)}</td><td class=n>{entry['weight']:g}</td>"
            f"<td class=n>{text(interval(entry['value'], entry['ci_low'], entry['ci_high'], 3))}</td><td>{bar}</td>"
            f"<td class=n>{number(entry.get('p'), 3)}</td><td>{text(state)}</td></tr>"
        )
    lead = t("Each checkpoint at its best weight. p: sign-flip test against the winner, Holm over checkpoints.")
    made = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return section(t("Which checkpoint?"), f'<div class="scroll">{made}</div>', lead)


def loss(report: Report) -> str:
    """Loss charts, one for each history file, with the diagnosis in words."""
    from lora_eval.training.logs import read_history

    found = report.measurement.evidence.get("curve", {}).get("histories") or {}
    steps = {row.checkpoint: row.step for row in report.measurement.summary if row.step is not None}
    by_file: dict[Path, list[str]] = {}
    for name, path in report.data.histories.items():
        by_file.setdefault(Path(path), []).append(name)
    figures = []
    for path, names in by_file.items():
        try:
            history = read_history(path)
        except LoraEvalError as error:
            figures.append(f'<figure><p class="quiet">{text(said(f"not measured: {error}"))}</p></figure>')
            continue
        marks = [(float(step), name) for name, step in steps.items() if name in names and step is not None]
        chart = charts.loss_chart(
            history.step, history.loss, history.val_step, history.val_loss, marks, t("loss of {0}", ", ".join(names))
        )
        figures.append(
            f"<figure><figcaption>{_keys(len(history.step), len(history.val_step))} "
            f"<span class=quiet>({text(path.name)})</span></figcaption>"
            f"{chart}{_diagnosis(report, found, names)}</figure>"
        )
    return section(t("Training curve"), f'<div class="cards">{"".join(figures)}</div>' if figures else "")


def _keys(training: int, validation: int) -> str:
    first = f'<span class="key"></span>{words("training")}' if training else ""
    second = f' <span class="key second"></span>{words("validation (held-out pictures)")}' if validation else ""
    return first + second


def _diagnosis(report: Report, found: dict[str, dict[str, Any]], names: list[str]) -> str:
    """State and reason for the recommended checkpoint, else the last of this history."""
    known = [name for name in names if name in found]
    if not known:
        return ""
    name = report.card.checkpoint if report.card.checkpoint in known else known[-1]
    facts = found[str(name)]
    state = said(str(facts.get("state", "")))
    if facts.get("since_step") is not None:
        state = t("{0} since step {1}", state, facts["since_step"])
    return f"<p><strong>{text(state)}</strong> ({text(name)}): {text(said(str(facts.get('reason', ''))))}</p>"


def findings(report: Report) -> str:
    """Drifting pictures, copies beside what they copy, most and least like the references."""
    parts = []
    drifting = report.dimension("consistency").evidence.get("drifting") or []
    if drifting:
        shown = "".join(_single(report, item) for item in drifting[:24])
        title = words("Drifting from the other seeds of their prompt")
        parts.append(f'<h3>{title}</h3><div class="pairs">{shown}</div>')
    copies = report.dimension("generalisation").evidence.get("copies") or []
    if copies:
        shown = "".join(_copy(report, found) for found in copies[:24])
        parts.append(f'<h3>{words("Copies of training pictures")}</h3><div class="pairs">{shown}</div>')
    extremes = report.dimension("fidelity").evidence.get("best_and_worst") or {}
    if extremes:
        which = {"best": "most like the references", "worst": "least like the references"}
        shown = "".join(
            pair(_picture(report, extremes[key]), f"{t(word)}: {_name(extremes[key])}")
            for key, word in which.items()
            if extremes.get(key)
        )
        references = "".join(
            pair(_picture(report, report.paths[name]), t("reference: {0}", name))
            for name in (report.data.references.names[:2] if report.data.references else [])
            if name in report.paths
        )
        parts.append(f'<h3>{words("Beside the references")}</h3><div class="pairs">{shown}{references}</div>')
    return section(t("Pictures worth a look"), "".join(parts))


def _single(report: Report, item: Any) -> str:
    image = item.get("image") if isinstance(item, dict) else item
    z = (
        t(": {0} robust deviations out", number(item.get("z"), 1))
        if isinstance(item, dict) and item.get("z") is not None
        else ""
    )
    return pair(_picture(report, image), f"{_name(image)}{z}")


def _copy(report: Report, found: dict[str, Any]) -> str:
    source = report.paths.get(str(found.get("training")))
    pictures = _picture(report, found["image"]) + (_picture(report, source) if source is not None else "")
    likeness = t("cosine {0}, SSIM {1}", number(found.get("cosine"), 3), number(found.get("ssim"), 2))
    return pair(pictures, t("{0} is a copy of {1}: {2}", _name(found["image"]), found.get("training", ""), likeness))


def _picture(report: Report, image: Any) -> str:
    src = report.thumbs.src(image)
    shown = f'<img src="{src}" alt="{text(_name(image))}" loading="lazy">'
    return f'<a class="thumb" href="{href(image)}">{shown}</a>'


def elements(report: Report) -> str:
    """What was asked for, element by element, against the base model."""
    rows = []
    for item in report.dimension("alignment").evidence.get("elements") or []:
        with_lora, without = _share(item, "won", "of"), _share(item, "weight_0_won", "weight_0_of")
        name = t(str(item.get("element", "")))
        rows.append([item.get("prompt", ""), name, with_lora, without, _share(item, "chance", "")])
    if not rows:
        return ""
    lead = t("Pictures whose caption as asked beats every foil (one thing swapped). Place and number are read weakly.")
    heads = [t(word) for word in ("prompt", "element", "with LoRA", "without", "by chance")]
    return section(t("Does it still listen to the prompt?"), table(heads, rows, (2, 3, 4)), lead)


def _share(item: dict[str, Any], won: str, of: str) -> str:
    value, count = item.get(won), item.get(of) if of else None
    if value is None or (of and not count):
        return "–"
    return t("{0} of {1}", value, count) if of else f"{float(value):.0%}"


def notes(report: Report) -> str:
    """What was not measured, and what the references are."""
    merged = {**report.data.notes, **report.measurement.notes}
    rows = "".join(
        f"<li><strong>{text(_topic(key))}</strong>: {text(said(value))}</li>" for key, value in sorted(merged.items())
    )
    return section(t("Good to know"), f"<ul>{rows}</ul>" if rows else "")


def provenance(report: Report) -> str:
    """Everything needed to draw it again."""
    rows = [[t(key.replace("_", " ")), _flat(value)] for key, value in report.card.provenance.items()]
    head = words("Model, LoRAs, settings and versions")
    body = f"<details><summary>{head}</summary>{table([t('what'), t('value')], rows)}</details>"
    return section(t("Where this comes from"), body if rows else "")


def _topic(key: str) -> str:
    """``generalisation.fidelity_kept`` -> words, each part in the reader's language."""
    return ", ".join(t(part.replace("_", " ")) for part in key.split("."))


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_flat(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_flat(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _name(image: Any) -> str:
    return Path(str(image)).name


def _sentence(words: str) -> str:
    words = words.strip()
    end = "." if words[-1:].isascii() else "。"
    return words[:1].upper() + words[1:] + ("" if not words or words[-1] in ".!?。" else end)
