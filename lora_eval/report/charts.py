"""Small SVG charts as text: no library, no script, readable in both colour schemes and by colour-blind people.

Colours are CSS classes of the page (Okabe & Ito's palette); shape and dash repeat what colour says.
Every text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from lora_eval.i18n.language import t

Numbers = Sequence[float] | np.ndarray


def radar(entries: Sequence[tuple[str, float | None, float | None, float | None]], side: int = 320) -> str:
    """Spokes from 0 (centre) to 1 (rim): (label, score, ci_low, ci_high); None is left open and says so."""
    middle, reach = side / 2, side / 2 - 58
    count = len(entries)

    def at(index: int, value: float) -> tuple[float, float]:
        angle = -math.pi / 2 + 2 * math.pi * index / count
        radius = reach * min(max(value, 0.0), 1.0)
        return middle + radius * math.cos(angle), middle + radius * math.sin(angle)

    label = escape(t("Six dimensions, 0 to 1"))
    parts = [f'<svg class="chart radar" viewBox="-64 0 {side + 128} {side}" role="img" aria-label="{label}">']
    for ring in (0.25, 0.5, 0.75, 1.0):
        points = " ".join(_point(at(i, ring)) for i in range(count))
        parts.append(f'<polygon class="{"rim" if ring == 1 else "grid"}" points="{points}"/>')
    corners = [at(i, score) for i, (_, score, _, _) in enumerate(entries) if score is not None]
    if len(corners) > 2:
        parts.append(f'<polygon class="area" points="{" ".join(map(_point, corners))}"/>')
    for index, (label, score, low, high) in enumerate(entries):
        x, y = at(index, 1.0)
        parts.append(f'<line class="grid" x1="{middle:g}" y1="{middle:g}" x2="{x:.1f}" y2="{y:.1f}"/>')
        if score is not None and low is not None and high is not None:
            (x1, y1), (x2, y2) = at(index, low), at(index, high)
            parts.append(f'<line class="interval" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
        if score is not None:
            x, y = at(index, score)
            parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        angle = -math.pi / 2 + 2 * math.pi * index / count
        x, y = middle + (reach + 14) * math.cos(angle), middle + (reach + 18) * math.sin(angle)
        anchor = "middle" if abs(math.cos(angle)) < 0.2 else "start" if math.cos(angle) > 0 else "end"
        value = t("not measured") if score is None else f"{score:.2f}"
        parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(label)}'
            f'<tspan class="quiet" x="{x:.1f}" dy="1.15em">{value}</tspan></text>'
        )
    return "".join(parts) + "</svg>"


_BAR = '<svg class="bar{}" viewBox="0 0 200 18" aria-hidden="true">'


def score_bar(score: float | None, low: float | None, high: float | None) -> str:
    """A track from 0 to 1 with the interval as a band and the score as a mark; empty when not measured."""
    if score is None:
        return f'{_BAR.format(" none")}<line class="track" x1="6" x2="194" y1="9" y2="9"/></svg>'

    def x(value: float) -> float:
        return 6 + 188 * min(max(value, 0.0), 1.0)

    band = ""
    if low is not None and high is not None:
        band = (
            f'<rect class="band" x="{x(low):.1f}" y="4" width="{max(2.0, x(high) - x(low)):.1f}" height="10" rx="3"/>'
        )
    return (
        f'{_BAR.format("")}<line class="track" x1="6" x2="194" y1="9" y2="9"/>'
        '<line class="tick" x1="6" x2="6" y1="4" y2="14"/><line class="tick" x1="194" x2="194" y1="4" y2="14"/>'
        f'{band}<circle class="dot" cx="{x(score):.1f}" cy="9" r="5"/></svg>'
    )


def difference_bar(value: float | None, low: float | None, high: float | None, reach: float) -> str:
    """A track from ``-reach`` to ``reach`` with 0 in its middle, the interval as a band, the value as a mark."""
    if value is None or not reach > 0:
        return f'{_BAR.format(" none")}<line class="track" x1="6" x2="194" y1="9" y2="9"/></svg>'

    def x(number: float) -> float:
        return 100 + 94 * min(max(number / reach, -1.0), 1.0)

    band = ""
    if low is not None and high is not None:
        left, width = x(low), max(2.0, x(high) - x(low))
        band = f'<rect class="band" x="{left:.1f}" y="4" width="{width:.1f}" height="10" rx="3"/>'
    return (
        f'{_BAR.format("")}<line class="track" x1="6" x2="194" y1="9" y2="9"/>'
        f'<line class="tick" x1="100" x2="100" y1="2" y2="16"/>{band}'
        f'<circle class="dot" cx="{x(value):.1f}" cy="9" r="5"/></svg>'
    )


def interval_bar(value: float | None, low: float | None, high: float | None, least: float, most: float) -> str:
    """A track from ``least`` to ``most`` with the interval as a band and the value as a mark; the tick is 0."""
    if value is None or not most > least:
        return f'{_BAR.format(" none")}<line class="track" x1="6" x2="194" y1="9" y2="9"/></svg>'

    def x(number: float) -> float:
        return 6 + 188 * (number - least) / (most - least)

    band = ""
    if low is not None and high is not None:
        left, width = x(low), max(2.0, x(high) - x(low))
        band = f'<rect class="band" x="{left:.1f}" y="4" width="{width:.1f}" height="10" rx="3"/>'
    zero = f'<line class="tick" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="2" y2="16"/>' if least <= 0 <= most else ""
    return (
        f'{_BAR.format("")}<line class="track" x1="6" x2="194" y1="9" y2="9"/>{zero}{band}'
        f'<circle class="dot" cx="{x(value):.1f}" cy="9" r="5"/></svg>'
    )


class Axes:
    """A plot area with ticks; ``x`` and ``y`` map data to SVG units."""

    def __init__(
        self, xs: tuple[float, float], ys: tuple[float, float], width: int = 460, height: int = 250, log: bool = False
    ) -> None:
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = 56, width - 14, 14, height - 38
        self.x0, self.x1 = xs if xs[1] > xs[0] else (xs[0], xs[0] + 1)
        self.y0, self.y1 = ys if ys[1] > ys[0] else (ys[0] - 0.5, ys[0] + 0.5)
        self.log = log

    def x(self, value: float) -> float:
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.y0) / (self.y1 - self.y0) * (self.bottom - self.top)

    def frame(self, x_label: str, y_label: str, x_ticks: Sequence[float] | None = None) -> str:
        parts = []
        for value in ticks(self.y0, self.y1):
            y = self.y(value)
            parts += [_line("grid", self.left, y, self.right, y)]
            parts += [_text("tick-text", self.left - 6, y + 4, "end", f"{value:.4g}")]
        for value in x_ticks if x_ticks is not None else ticks(self.x0, self.x1):
            x = self.x(value)
            parts += [_line("tick", x, self.bottom, x, self.bottom + 4)]
            parts += [_text("tick-text", x, self.bottom + 16, "middle", f"{value:.5g}")]
        parts += [_line("axis", self.left, self.bottom, self.right, self.bottom)]
        parts += [_text("label", (self.left + self.right) / 2, self.height - 4, "middle", x_label)]
        y = (self.top + self.bottom) / 2
        parts += [f'<g transform="rotate(-90 12 {y:g})">{_text("label", 12, y, "middle", y_label)}</g>']
        return "".join(parts)

    def path(self, xs: Numbers, ys: Numbers, css: str) -> str:
        points = [(self.x(a), self.y(b)) for a, b in zip(xs, ys, strict=True) if _finite(a) and _finite(b)]
        if not points:
            return ""
        return f'<polyline class="{css}" points="{" ".join(map(_point, points))}"/>'

    def open(self, label: str) -> str:
        return f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(label)}">'


def response_curve(curve: dict[str, Any], title: str, advised: float | None = None) -> str:
    """Gain over weight with its interval; usable range shaded, onset of distortion as a dashed line.

    ``curve`` is ``evidence["strength"]["curves"][checkpoint]`` of a measurement. Crosses mark weights
    whose pictures left weight 0's spread; the ring marks ``advised``.
    """
    weights, gain = list(curve.get("weights") or []), list(curve.get("gain") or [])
    pairs = [(w, g) for w, g in zip(weights, gain, strict=False) if _finite(w) and _finite(g)]
    if len(pairs) < 2:
        return f'<p class="quiet">{escape(t("not measured: no response over weight"))}</p>'
    low, high = list(curve.get("ci_low") or gain), list(curve.get("ci_high") or gain)
    band = [(w, a, b) for w, a, b in zip(weights, low, high, strict=False) if _finite(a) and _finite(b)]
    values = [g for _, g in pairs] + [v for _, a, b in band for v in (a, b)] + [0.0]
    span = max(values) - min(values) or 1.0
    axes = Axes((min(weights), max(weights)), (min(values) - 0.06 * span, max(values) + 0.1 * span))
    parts = [axes.open(t("Response of {0} over weight", title))]
    usable, onset = curve.get("usable") or [], curve.get("onset")
    if usable:
        x0, x1 = axes.x(min(usable)), axes.x(max(usable))
        x0, x1 = (x0, x1) if x1 - x0 > 8 else (x0 - 4, x1 + 4)
        parts += [_rect("usable", x0, axes.top, x1 - x0, axes.bottom - axes.top)]
        parts += [_text("usable-text", (x0 + x1) / 2, axes.top - 3, "middle", t("usable"))]
    parts.append(axes.frame(t("weight"), t("gain over weight 0"), weights if len(weights) <= 9 else None))
    if band:
        there = [_point((axes.x(w), axes.y(b))) for w, _, b in band]
        back = [_point((axes.x(w), axes.y(a))) for w, a, _ in reversed(band)]
        parts.append(f'<polygon class="ci" points="{" ".join(there + back)}"/>')
    parts.append(axes.path([w for w, _ in pairs], [g for _, g in pairs], "line"))
    distorted = dict(zip(weights, curve.get("distorted") or [], strict=False))
    for weight, value in pairs:
        x, y = axes.x(weight), axes.y(value)
        if distorted.get(weight):
            parts.append(f'<path class="cross" d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"/>')
        else:
            parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
        if advised is not None and abs(weight - advised) < 1e-9:
            parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="9"/>')
    if onset is not None and _finite(onset) and axes.x0 <= float(onset) <= axes.x1:
        x = axes.x(float(onset))
        anchor, shift = ("end", -5) if x > axes.width * 0.7 else ("start", 5)
        parts += [_line("onset", x, axes.top, x, axes.bottom)]
        parts += [_text("onset-text", x + shift, axes.top + 10, anchor, t("distortion from here"))]
    return "".join(parts) + "</svg>"


def loss_chart(
    step: np.ndarray,
    loss: np.ndarray,
    val_step: np.ndarray,
    val_loss: np.ndarray,
    marks: Sequence[tuple[float, str]] = (),
    title: str = "loss",
) -> str:
    """Training loss (thin: as logged; thick: running median) and validation loss, each over its first value.

    ``marks``: (step, name) of the checkpoints as ticks on top.
    """
    step, loss = np.asarray(step, float), np.asarray(loss, float)
    val_step, val_loss = np.asarray(val_step, float), np.asarray(val_loss, float)
    keep = np.isfinite(loss)
    step, loss = _blocks(step[keep], loss[keep])
    if len(step) < 2 and len(val_step) < 2:
        return f'<p class="quiet">{escape(t("not measured: fewer than two points"))}</p>'
    seen = _thin(len(loss))
    smooth = _running_median(loss, seen)
    start = smooth[0] if len(smooth) and smooth[0] > 0 else 1.0
    val_start = val_loss[0] if len(val_loss) and val_loss[0] > 0 else 1.0
    curves = [smooth / start, val_loss / val_start]
    values = np.concatenate(curves)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = 0.08 * (high - low or 1.0)
    everything = np.concatenate([step, val_step])
    axes = Axes((float(everything.min()), float(everything.max())), (low - room, high + 2 * room))
    parts = [axes.open(title), axes.frame(t("step"), t("loss / first loss"))]
    if len(step) > 1:
        parts.append(axes.path(step[seen], np.clip(loss[seen] / start, axes.y0, axes.y1), "raw"))
        parts.append(axes.path(step[seen], curves[0], "line"))
    if len(val_step):
        parts.append(axes.path(val_step, curves[1], "line second"))
        points = [(axes.x(a), axes.y(b)) for a, b in zip(val_step, curves[1], strict=True) if _finite(b)]
        parts += [_rect("square", x - 3, y - 3, 6, 6) for x, y in points]
    for at, name in marks:
        if axes.x0 <= at <= axes.x1:
            x = axes.x(at)
            parts += [f"<g><title>{escape(name)}</title>{_line('mark', x, axes.top, x, axes.top + 8)}</g>"]
    return "".join(parts) + "</svg>"


def heat_style(value: float | None, low: float, high: float) -> str:
    """CSS of a heat-map cell: blue above zero, vermillion below, stronger further from zero."""
    if value is None or not math.isfinite(value):
        return ""
    reach = max(abs(low), abs(high)) or 1.0
    share = min(1.0, abs(value) / reach)
    colour = "0,114,178" if value >= 0 else "213,94,0"
    ink = ";color:#fff" if share > 0.62 else ""
    return f"background:rgba({colour},{0.06 + 0.84 * share:.2f}){ink}"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) + 0.0 for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _blocks(step: np.ndarray, loss: np.ndarray, most: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """A long history as the medians of at most ``most`` blocks: what a running median costs grows with the square."""
    if len(loss) <= most:
        return step, loss
    size = -(-len(loss) // most)
    edges = range(0, len(loss), size)
    return step[::size], np.array([np.median(loss[at : at + size]) for at in edges])


def _running_median(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Median of about a twentieth of the curve around each of the places ``at`` (indices)."""
    width = max(1, len(values) // 20) | 1
    if width < 3:
        return values[at]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, width // 2, mode="edge"), width)
    return np.array([np.median(windows[i]) for i in at])


def _thin(count: int, most: int = 400) -> np.ndarray:
    """Indices of at most ``most`` evenly spaced points of ``count``: more cannot be seen and make the page large."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(float(value))


def _line(css: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _rect(css: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _text(css: str, x: float, y: float, anchor: str, words: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _point(xy: tuple[float, float]) -> str:
    return f"{xy[0]:.1f},{xy[1]:.1f}"
