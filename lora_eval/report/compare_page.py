"""``compare.html``: who is ahead in what, and the same prompt and seed side by side. One file, no network."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_eval.files import write_text
from lora_eval.i18n.language import said, t
from lora_eval.report import charts
from lora_eval.report.markup import interval, number, scroll_table, section, table, text, words
from lora_eval.report.page import document
from lora_eval.report.thumbs import BUDGET, Thumbs, href
from lora_eval.report.words import CELL_FACTS, QUESTIONS, ROLE_WORDS, TITLES

if TYPE_CHECKING:
    from lora_eval.scorecard.comparison.compare import Comparison
    from lora_eval.scorecard.comparison.runs import Key, Side
    from lora_eval.scorecard.comparison.verdict import Row

DIGITS = 3


def write_page(path: Path, comparison: Comparison, budget: int = BUDGET) -> None:
    """Write the page. Raises RunError. ``budget``: bytes of pictures embedded; the rest is linked."""
    write_text(path, render(comparison, path.parent, budget))


def render(comparison: Comparison, root: Path, budget: int = BUDGET) -> str:
    """The page as text; ``root`` is the folder it will lie in."""
    title = t("LoRA comparison: {0}", " / ".join(side.label for side in comparison.sides))
    body = "".join(
        (
            f"<header><h1>{text(title)}</h1>{_verdict(comparison)}</header>",
            _sides(comparison),
            *(_pair(comparison, a.label, b.label) for a, b in combinations(comparison.sides, 2)),
            _notes(comparison),
            _gallery(comparison, Thumbs(root, budget)),
            _provenance(comparison),
        )
    )
    program = comparison.provenance.get("program", "lora-eval")
    return document(title, body, f"{text(program)}. {words('The same numbers are in compare.csv and compare.json.')}")


def _verdict(comparison: Comparison) -> str:
    won = comparison.verdict.startswith("Take ")
    sentence = text(said(comparison.verdict))
    return f'<div class="verdict{"" if won else " none"}"><p class="sentence">{sentence}</p></div>'


def _sides(comparison: Comparison) -> str:
    rows = [
        [side.label, side.run.name, side.checkpoint, "–" if side.step is None else side.step, f"{side.weight:g}",
         len(side.pictures)]
        for side in comparison.sides
    ]  # fmt: skip
    heads = [t(word) for word in ("name", "run", "checkpoint", "step", "weight", "pictures")]
    return section(t("What is compared"), table(heads, rows, (3, 4, 5)))


def _pair(comparison: Comparison, first: str, second: str) -> str:
    """One table: a line for each measure with its difference as a band about 0."""
    mine = [row for row in comparison.rows if (row.first, row.second) == (first, second)]
    right = " class=n"
    heads = ((t("measure"), ""), (first, right), (second, right), (t("difference"), right), ("", ""),
             (t("ahead"), ""), (t("pairs"), right), (t("p (Holm)"), right))  # fmt: skip
    head = "".join(f"<th{css}>{text(name)}</th>" for name, css in heads)
    lines, before = [], ""
    for row in mine:
        shown = "" if row.dimension == before else t(TITLES[row.dimension])
        hint = f' title="{words(QUESTIONS[row.dimension])}"'
        lines.append(f"<tr><th scope=row{hint}>{text(shown)}</th>{_line(row)}</tr>")
        before = row.dimension
    lead = t(
        "Difference: the first less the second over pictures of the same prompt and seed, with its 95 % interval; a "
        "band across the middle is a tie. Bands have scales of their own. p: sign-flip test, Holm over all "
        "rows that have pairs enough for a test."
    )
    if any(row.pairing in ("prompt", "none") for row in mine):
        lead += " " + t(
            "Where prompt or seed are not shared, the row says so: it has the pictures of the smaller side in place of "
            "pairs, and a wider interval."
        )
    return section(t("{0} against {1}", first, second), scroll_table("", head, "".join(lines)), lead)


def _line(row: Row) -> str:
    note = f' <span class="quiet small">{text(said(row.note))}</span>' if row.note else ""
    measure = f"<td>{text(said(row.measure))}, {words(f'{row.better} is better')}{note}</td>"
    if row.first_value is None or row.second_value is None:
        return (
            measure
            + f"<td class=n>–</td><td class=n>–</td><td class=n>{words('not measured')}</td>"
            + "<td></td><td></td><td></td><td></td>"
        )
    ends = [abs(value) for value in (row.difference, row.ci_low, row.ci_high) if value is not None]
    word = "good" if row.ahead and row.ahead != "tie" else "none"
    ahead = (
        f'<span class="word {word}">{words(row.ahead)}</span>'
        if row.ahead
        else f'<span class="quiet">{words("not tested")}</span>'
    )
    value = interval(row.difference, row.ci_low, row.ci_high, DIGITS)
    return (
        f"{measure}<td class=n>{number(row.first_value, DIGITS)}</td>"
        f"<td class=n>{number(row.second_value, DIGITS)}</td>"
        f"<td class=n>{text(value)}</td>"
        f"<td>{charts.difference_bar(row.difference, row.ci_low, row.ci_high, 1.15 * max(ends))}</td><td>{ahead}</td>"
        f"<td class=n>{row.n or '–'}</td><td class=n>{number(row.p_holm, DIGITS)}</td>"
    )


def _gallery(comparison: Comparison, thumbs: Thumbs) -> str:
    """A table for each prompt: seeds down; without LoRA and every side across."""
    if not comparison.keys:
        return _apart(comparison, thumbs)
    sides, first = comparison.sides, comparison.sides[0]
    heads = [t("without LoRA"), *(side.label for side in sides)]
    blocks = []
    for position, prompt in enumerate(dict.fromkeys(key[:2] for key in comparison.keys)):
        lines = []
        for at, key in enumerate(key for key in comparison.keys if key[:2] == prompt):
            ident = f"p{position}s{at}"
            cells = [_bare(thumbs, first, key, ident)]
            for n, side in enumerate(sides):
                # weight 0 of another trigger is another picture: no twin to show
                same = key in first.base and side.pictures[key]["prompt"] == first.base[key]["prompt"]
                cells.append(_drawn(thumbs, side, key, f"{ident}x{n}", f"{ident}base" if same else ""))
            lines.append(_row(key, cells))
        blocks.append(_block(first, prompt, heads, lines, position == 0))
    lead = t("Rows: the same prompt and seed. Click a picture to see it beside weight 0 with its numbers.")
    return section(t("Side by side"), "".join(blocks), lead + _linked(thumbs))


def _apart(comparison: Comparison, thumbs: Thumbs) -> str:
    """No prompt and seed that all have: the pictures of each side by themselves."""
    blocks = []
    for n, side in enumerate(comparison.sides):
        heads = [t("without LoRA"), side.label]
        for position, prompt in enumerate(dict.fromkeys(key[:2] for key in sorted(side.pictures))):
            lines = []
            for at, key in enumerate(key for key in sorted(side.pictures) if key[:2] == prompt):
                ident = f"o{n}p{position}s{at}"
                twin = f"{ident}base" if key in side.base else ""
                cells = [_bare(thumbs, side, key, ident), _drawn(thumbs, side, key, f"{ident}x", twin)]
                lines.append(_row(key, cells))
            blocks.append(_block(side, prompt, heads, lines, position == 0))
    lead = t("No prompt and seed is in all of them, so each is shown by itself. Click a picture to see its numbers.")
    return section(t("Pictures"), "".join(blocks), lead + _linked(thumbs))


def _bare(thumbs: Thumbs, side: Side, key: Key, ident: str) -> str:
    return _thumb(thumbs, side, side.base.get(key), f"{ident}base", "", t("without LoRA, seed {0}", key.seed))


def _drawn(thumbs: Thumbs, side: Side, key: Key, ident: str, twin: str) -> str:
    return _thumb(thumbs, side, side.pictures[key], ident, twin, t("{0}, seed {1}", side.label, key.seed))


def _row(key: Key, cells: Sequence[str]) -> str:
    line = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr><th scope=row>{words('seed')} {key.seed}</th>{line}</tr>"


def _block(side: Side, prompt: tuple[str, str], heads: Sequence[str], lines: Sequence[str], shown: bool) -> str:
    asked = side.run.prompts[prompt]
    without = f"{words('negative')}: {text(asked.negative)}"
    negative = f" <span class=quiet>({without})</span>" if asked.negative else ""
    about = words(ROLE_WORDS.get(asked.role, ""))
    head = (
        f'<summary>{text(asked.text)}{negative}<span class="tag" title="{about}">{words(asked.role)}</span></summary>'
    )
    made = scroll_table("grid", "".join(f"<th>{text(name)}</th>" for name in heads), "".join(lines))
    return f"<details{' open' if shown else ''}>{head}{made}</details>"


def _linked(thumbs: Thumbs) -> str:
    if not thumbs.linked:
        return ""
    return " " + t("{0} pictures are shown from the folder thumbs, which must lie beside this page.", thumbs.linked)


def _thumb(thumbs: Thumbs, side: Side, row: Mapping[str, str] | None, ident: str, twin: str, title: str) -> str:
    image = "" if row is None else _relative(side.run.folder.root / row["image"], thumbs.root)
    src = thumbs.src(image) if image else ""
    if row is None or not src:
        return '<span class="quiet">–</span>'
    small = " small-pixels" if int(row.get("width") or 0) <= 128 else ""
    twin = f' data-twin="{twin}"' if twin else ""
    facts = text(json.dumps(_facts(row, _metrics(row)), ensure_ascii=False))
    width, height = thumbs.size(image)
    return (
        f'<button type="button" class="thumb{small}" id="{ident}" title="{text(title)}" data-full="{href(image)}"{twin}'
        f' data-facts="{facts}"><img src="{src}" alt="{text(title)}" loading="lazy" decoding="async"'
        f' width="{width}" height="{height}"></button>'
    )


def _facts(cell: Mapping[str, Any], metric: Mapping[str, Any]) -> list[list[str]]:
    """What is said under a picture: words, value, and what the number is."""
    found = [[t("prompt"), str(cell["prompt"]), ""]]
    for name, (label, digits, about) in CELL_FACTS.items():
        value = metric.get(name)
        if isinstance(value, float) and math.isfinite(value):
            found.append([t(label), number(value, digits, sign=name.endswith(("_gain", "_delta"))), t(about)])
    if metric.get("nn_name"):
        found.append([t("nearest training picture"), str(metric["nn_name"]), ""])
    found.append([t("file"), str(cell["image"]), ""])
    return found


def _metrics(row: Mapping[str, str]) -> dict[str, Any]:
    """The row's metric columns as numbers, for the facts under a picture."""
    found: dict[str, Any] = {"nn_name": row.get("nn_name", "")}
    for name in CELL_FACTS:
        try:
            found[name] = float(row.get(name, ""))
        except ValueError:
            found[name] = math.nan
    return found


def _relative(path: Path, root: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), root.resolve())).as_posix()
    except ValueError:  # another drive on Windows
        return str(path.resolve())


def _notes(comparison: Comparison) -> str:
    rows = "".join(f"<li>{text(said(note))}</li>" for note in comparison.notes)
    return section(t("Good to know"), f"<ul>{rows}</ul>" if rows else "")


def _provenance(comparison: Comparison) -> str:
    rows: list[Sequence[Any]] = [[t(name), _flat(value)] for name, value in comparison.provenance.items()]
    made = table([t("what"), t("value")], rows)
    head = words("Model, settings and encoder")
    return section(t("Where this comes from"), f"<details><summary>{head}</summary>{made}</details>")


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_flat(one)}" for name, one in value.items())
    return ", ".join(map(_flat, value)) if isinstance(value, (list, tuple)) else str(value)
