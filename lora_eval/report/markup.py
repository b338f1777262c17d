"""Small pieces of HTML. Everything that comes from outside goes through :func:`text`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from lora_eval.i18n.language import t


def text(value: Any) -> str:
    """Escaped for element content and for attributes in double quotes."""
    return escape(str(value), quote=True)


def words(template: str, *values: Any) -> str:
    """A text of the page in the reader's language, escaped."""
    return text(t(template, *values))


def number(value: Any, digits: int = 2, sign: bool = False) -> str:
    """A number for people; an en dash when there is none."""
    if value is None or not math.isfinite(float(value)):
        return "–"
    return f"{float(value):{'+' if sign else ''}.{digits}f}".replace("-", "−")


def interval(value: Any, low: Any, high: Any, digits: int = 2) -> str:
    """``0.72 (0.61 to 0.80)``; the value alone where there is no interval."""
    if low is None or high is None or value is None:
        return number(value, digits)
    return f"{number(value, digits)} {t('({0} to {1})', number(low, digits), number(high, digits))}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Iterable[int] = ()) -> str:
    """A table of escaped cells that scrolls on a narrow page; ``numeric`` columns are right-aligned."""
    right = set(numeric)

    def row(tag: str, cells: Sequence[Any]) -> str:
        made = (f"<{tag}{' class=n' if at in right else ''}>{text(cell)}</{tag}>" for at, cell in enumerate(cells))
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return f'<div class="scroll"><table><thead>{row("th", head)}</thead><tbody>{body}</tbody></table></div>'


def scroll_table(css: str, head: str, rows: str) -> str:
    """A table from ready-made cells of the head (after an empty corner) and rows."""
    made = f"<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll"><table class="{css}">{made}</table></div>'


def pair(pictures: str, words: str) -> str:
    """Pictures (markup) side by side over a line of escaped ``words``."""
    return f'<div class="pair"><div class="two">{pictures}</div>{text(words)}</div>'


def section(title: str, body: str, lead: str = "") -> str:
    """A headed section; "" when there is nothing in it."""
    if not body:
        return ""
    return f"<section><h2>{text(title)}</h2>{f'<p class=quiet>{text(lead)}</p>' if lead else ''}{body}</section>"
