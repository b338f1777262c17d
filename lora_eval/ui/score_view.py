"""What the Scorecard tab shows as HTML. Everything that comes from outside is escaped here.

Sentences of the scorecard are translated here; single texts of the tab are translated by the WebUI's own script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_eval.i18n.language import said, t
from lora_eval.scorecard.dimensions.registry import NAMES
from lora_eval.service import library
from lora_eval.service import live_map as sweep
from lora_eval.service import served_files as served
from lora_eval.service.estimate import Estimate
from lora_eval.ui import text
from lora_eval.ui.controller import LIVE_IMAGES
from lora_eval.ui.pictures import served_thumb
from lora_eval.ui.render import _button, _e, _word, job
from lora_eval.ui.views import Finished, ScoreView

MOST_PLACES = 600


def presets(found: Mapping[str, Estimate], chosen: str) -> str:
    """Pictures and minutes of each preset, before Run is pressed."""
    rows = []
    for name, one in found.items():
        css = ' class="chosen"' if name == chosen else ""
        of = f' <span class="lora-eval-quiet">/ {one.of:,}</span>' if one.of is not None and one.of > one.images else ""
        numbers = f"<td><b>{one.images:,}</b>{of}</td><td>{_minutes(one.seconds)}</td>"
        rows.append(f"<tr{css}><th scope=row>{_e(name)}</th>{numbers}</tr>")
    heads = "".join(f"<th>{_word(name)}</th>" for name in ("preset", "pictures", "minutes"))
    note = ""
    if all(one.seconds is None for one in found.values()):
        note = f'<p class="lora-eval-quiet">{_e(text.WORDS["minutes_unknown"])}</p>'
    return (
        f'<table class="lora-eval-estimate"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>{note}'
    )


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes = seconds / 60
    if minutes < 0.1:
        return "<b>&lt; 0.1</b>"
    return f"<b>{minutes:.1f}</b>" if minutes < 9.95 else f"<b>{minutes:,.0f}</b>"


def score_job(view: ScoreView) -> str:
    return job(view.job, view.folder, text.SCORE_EMPTY)


def live(folder: Path | None) -> str:
    """The map filling in while it is drawn; the pictures drawn last where there is no plan to be read."""
    found = None if folder is None else sweep.live_map(folder)
    if found is None or len(found.columns) * len(found.rows) > MOST_PLACES:
        return _last(folder)
    head = "".join(f"<th>{_e(column)}</th>" for column in found.columns)
    lines = []
    for r, row in enumerate(found.rows):
        cells = "".join(_place(found.places.get((r, c)), f"{row} · {one}") for c, one in enumerate(found.columns))
        lines.append(f"<tr><th scope=row>{_e(row)}</th>{cells}</tr>")
    corner = f"<span>{_e(found.y)}</span> ↓ <span>{_e(found.x)}</span> →"
    return (
        f'<section class="lora-eval-section"><h4>{_word("fills")} <b>{found.done:,} / {found.total:,}</b></h4>'
        f'<div class="lora-eval-scroll"><table class="lora-eval-map"><thead><tr><th>{corner}</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _place(place: sweep.Place | None, words: str) -> str:
    if place is None or not place.total:
        return "<td>–</td>"
    inner = '<span class="lora-eval-blank"></span>' if place.picture is None else served_thumb(place.picture, words)
    share = 100 * place.done / place.total
    return (
        f'<td>{inner}<div class="lora-eval-share"><div style="width:{share:.0f}%"></div></div>'
        f"<small>{place.done}/{place.total}</small></td>"
    )


def _last(folder: Path | None) -> str:
    paths = [] if folder is None else library.last_images(folder, LIVE_IMAGES)
    if not paths:
        return ""
    pictures = "".join(f"<figure>{served_thumb(path, path.stem)}</figure>" for path in paths)
    return (
        f'<section class="lora-eval-section"><h4>{_word("drawn")}</h4>'
        f'<div class="lora-eval-film">{pictures}</div></section>'
    )


def verdict(card: Mapping[str, Any]) -> str:
    """The sentence on top, what to use, the radar, and the six dimensions in one line each."""
    from lora_eval.report.charts import radar, score_bar
    from lora_eval.report.words import COMPARED, QUESTIONS, TITLES

    recommended = card.get("recommended") or {}
    use = ""
    if recommended.get("checkpoint"):
        tag = f"<lora:{recommended['checkpoint']}:{recommended['weight']:g}>"
        use = (
            f'<div class="lora-eval-use">{_word("recommended")} <code>{_e(tag)}</code>'
            f"{_button('copy', tag, text.WORDS['copy'])}{_button('send', tag, text.WORDS['send'])}</div>"
        )
    rows, spokes = [], []
    for name in NAMES:
        found = card["dimensions"].get(name) or {}
        score, low, high = found.get("score"), found.get("ci_low"), found.get("ci_high")
        spokes.append((t(TITLES[name]), score, low, high))
        value = _word("not_measured", "lora-eval-quiet")
        if score is not None:
            span = "" if low is None or high is None else f'<span class="lora-eval-quiet">{low:.2f}–{high:.2f}</span>'
            value = f"<b>{score:.2f}</b> {span}"
        word = str(found.get("verdict", ""))
        css = word if word in text.VERDICTS else "none"
        rows.append(
            f'<li title="{_e(t(COMPARED[name]))}"><div><strong>{_e(t(TITLES[name]))}</strong>'
            f'<span class="lora-eval-quiet">{_e(t(QUESTIONS[name]))}</span></div>'
            f'<div class="lora-eval-chart">{score_bar(score, low, high)}</div>'
            f'<div class="lora-eval-value">{value}</div>'
            f'<div class="lora-eval-reason"><b class="lora-eval-word {css}">{_e(said(word))}</b> '
            f"<span>{_e(said(str(found.get('reason', ''))))}</span></div></li>"
        )
    advice = "".join(
        f"<li><span>{_e(said(str(one.get('change', ''))))}</span> "
        f'<span class="lora-eval-quiet">{_e(said(str(one.get("seen", ""))))}</span></li>'
        for one in card.get("advice") or []
    )
    if advice:
        advice = f'<h4>{_e(text.WORDS["advice"])}</h4><ul class="lora-eval-advice">{advice}</ul>'
    return (
        '<section class="lora-eval-verdict">'
        f'<p class="lora-eval-sentence">{_e(said(str(card.get("verdict", ""))))}</p>{use}'
        f'<div class="lora-eval-chart lora-eval-radar">{radar(spokes)}</div>'
        f'<ul class="lora-eval-dimensions">{"".join(rows)}</ul>{advice}</section>'
    )


def report(folder: Path, name: str = "report.html", title: str = "full_report") -> str:
    """A run's page in a frame of its own: its style and script stay apart from the WebUI's.

    The page's script adds the theme to the address before it is loaded.
    """
    if not (folder / name).is_file():
        return ""
    words = text.WORDS[title]
    address = _e(served.page(folder, name))
    # on its own it can be printed
    alone = f'<a class="lora-eval-small" href="{address}" target="_blank" rel="noopener">{_word("own_page")}</a>'
    return (
        f'<section class="lora-eval-section"><h4>{_e(words)} {alone}</h4>'
        f'<iframe class="lora-eval-report" title="{_e(words)}" data-le-src="{address}" '
        f'sandbox="allow-scripts allow-popups allow-modals"></iframe></section>'
    )


def history(runs: Sequence[Finished], shown: str) -> str:
    """Runs on disk, the latest first: when, what came out; a click shows one."""
    rows = []
    for one in runs:
        css = ' class="chosen"' if one.folder.name == shown else ""
        weight = "–" if one.weight is None else f"{one.weight:g}"
        verdict = said(one.verdict) if one.verdict else text.WORDS["unfinished"]
        rows.append(
            f"<tr{css}><td>{_button('run', one.folder.name, one.folder.name)}</td><td>{_e(one.when)}</td>"
            f"<td>{_e(one.checkpoint or '–')}</td><td>{weight}</td><td>{_e(verdict)}</td></tr>"
        )
    if not rows:
        return ""
    heads = "".join(f"<th>{_word(name)}</th>" for name in ("run", "when", "recommended", "weight", "said"))
    return (
        f'<div class="lora-eval-scroll"><table class="lora-eval-history"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
