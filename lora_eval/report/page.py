"""``report.html``: one file that opens from disk, without network, and says what the tab says."""

from __future__ import annotations

from pathlib import Path

from lora_eval.files import ASSETS, write_text
from lora_eval.i18n.language import html_code, t
from lora_eval.report import sections
from lora_eval.report.cells import cell_table, script_data
from lora_eval.report.explore import explore
from lora_eval.report.gallery import gallery
from lora_eval.report.markup import text, words
from lora_eval.report.sections import Report
from lora_eval.report.thumbs import BUDGET, Thumbs
from lora_eval.scorecard.data import Measurement, RunData, Scorecard

PAGE_ASSETS = ASSETS / "report"


def write_page(
    path: Path,
    data: RunData,
    measurement: Measurement,
    card: Scorecard,
    root: Path,
    paths: dict[str, Path] | None = None,
    budget: int = BUDGET,
) -> None:
    """Write the page. Raises RunError.

    Args:
        root: the folder that relative images are relative to: the page's own.
        paths: shown name of a reference or training picture -> its file.
        budget: bytes of pictures embedded; the rest is linked.
    """
    write_text(path, render(data, measurement, card, root, paths, budget))


def render(
    data: RunData,
    measurement: Measurement,
    card: Scorecard,
    root: Path,
    paths: dict[str, Path] | None = None,
    budget: int = BUDGET,
) -> str:
    """The page as text."""
    report = Report(data, measurement, card, Thumbs(root, budget), dict(paths or {}))
    title = t("LoRA scorecard: {0}", card.provenance.get("run") or _series(data))
    # findings first: their pictures must be inside the page even when the gallery's do not all fit
    found = sections.findings(report)
    table = cell_table(report)
    for_script = script_data(report, table)
    every = gallery(report, table)
    body = "".join(
        (
            f"<header><h1>{text(title)}</h1>{sections.verdict(report)}</header>",
            sections.dimensions(report),
            sections.strength(report),
            sections.leaderboard(report),
            explore(table),
            sections.heat_maps(report),
            sections.loss(report),
            found,
            sections.elements(report),
            every,
            sections.notes(report),
            sections.provenance(report),
        )
    )
    made = card.provenance.get("created")
    footer = f"{text(card.provenance.get('program', 'lora-eval'))}{' · ' + text(made) if made else ''}. " + words(
        "The same numbers are in cells.csv, summary.csv and scorecard.json."
    )
    return document(title, body, footer, for_script)


def document(title: str, body: str, footer: str, data: str = "") -> str:
    """A whole page from its parts; ``body`` and ``footer`` are markup, ``data`` is JSON for the script.

    It asks nothing of the network. Pictures beside it may be loaded: from the disk, or from the tab's own server.
    """
    style, script = ((PAGE_ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        f'<!doctype html>\n<html lang="{html_code()}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data: file: 'self'; "
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{style}</style></head><body><main>{body}"
        f"<footer>{footer}</footer></main>"
        f'<dialog aria-label="{words("picture")}"><div class="bar"><span class="where"></span>'
        f'<button type="button" class="back" aria-label="{words("previous")}">‹</button>'
        f'<button type="button" class="next" aria-label="{words("next")}">›</button>'
        f'<button type="button" class="close" aria-label="{words("close")}">×</button></div>'
        '<div class="big"></div><dl class="facts"></dl></dialog>'
        f'<script type="application/json" id="cells">{data}</script><script>{script}</script></body></html>\n'
    )


def _series(data: RunData) -> str:
    names = [str(name) for name in data.cells.get("lora", []) if str(name)]
    return names[0] if names else "run"
