"""Outlines of shapes, held-out subjects and random glyphs in unit coordinates."""

from __future__ import annotations

import math

import numpy as np

Point = tuple[float, float]


def _regular(n: int, radius: float = 1.0, start: float = -90.0) -> list[Point]:
    steps = (math.radians(start + 360.0 * k / n) for k in range(n))
    return [(radius * math.cos(a), radius * math.sin(a)) for a in steps]


def _bar(x0: float, y0: float, x1: float, y1: float, width: float) -> list[Point]:
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    nx, ny = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)]


def _disc(x: float, y: float, r: float) -> list[Point]:
    return [(x + px, y + py) for px, py in _regular(24, r)]


def _heart() -> list[Point]:
    angles = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    x = 16 * np.sin(angles) ** 3
    y = -(13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles))
    return [(float(a) / 16.5, float(b) / 16.0) for a, b in zip(x, y, strict=True)]


def _star() -> list[Point]:
    outer, inner = _regular(5), _regular(5, 0.42, -54.0)
    return [p for pair in zip(outer, inner, strict=True) for p in pair]


def _random_glyph(seed: int) -> tuple[list[list[Point]], list[list[Point]]]:
    """Two to five bars or discs on a 4x4 lattice, sometimes with a hole."""
    rng = np.random.default_rng([seed, 7919])
    lattice = [-0.8, -0.27, 0.27, 0.8]
    parts: list[list[Point]] = []
    kind = rng.integers(4)
    if kind == 0:  # an irregular polygon around the centre
        n = int(rng.integers(5, 10))
        angles = np.sort(rng.uniform(0, 2 * math.pi, n))
        radii = rng.uniform(0.45, 1.05, n)
        parts.append([(float(r * math.cos(a)), float(r * math.sin(a))) for a, r in zip(angles, radii, strict=True)])
    else:
        for _ in range(int(rng.integers(2, 5))):
            a, b, c, d = (lattice[i] for i in rng.integers(0, 4, 4))
            if (a, b) == (c, d):
                c = -c
            if rng.random() < 0.6:  # upright strokes look like letters
                c = a if rng.random() < 0.5 else c
                d = b if c != a else -b
            parts.append(_bar(a, b, c, d, float(rng.uniform(0.34, 0.5))))
    if rng.random() < 0.4:
        x, y = (lattice[i] for i in rng.integers(0, 4, 2))
        parts.append(_disc(x, y, float(rng.uniform(0.22, 0.34))))
    # stretch to the unit box so that no glyph is a speck
    points = np.array([p for part in parts for p in part])
    low, high = points.min(0), points.max(0)
    span = np.maximum(high - low, 0.45 * (high - low).max())
    scale = 1.9 / np.maximum(span, 1e-6)
    scale = np.minimum(scale, scale.min() * 1.5)
    middle = (low + high) / 2
    parts = [[tuple((np.array(p) - middle) * scale) for p in part] for part in parts]
    holes = [_disc(*rng.uniform(-0.3, 0.3, 2), 0.26)] if rng.random() < 0.15 else []
    return parts, holes


def outline(shape: str) -> tuple[list[list[Point]], list[list[Point]]]:
    """Filled polygons and holes of a shape in unit coordinates (y down, radius about 1).

    ``glyph:<seed>`` names a random glyph.
    """
    if shape.startswith("glyph:"):
        return _random_glyph(int(shape[6:]))
    if shape == "circle":
        return [_regular(48)], []
    if shape == "square":
        return [[(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]], []
    if shape == "triangle":
        return [[(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)]], []
    if shape == "star":
        return [_star()], []
    if shape == "heart":
        return [_heart()], []
    if shape == "ring":
        return [_regular(48)], [_regular(48, 0.48)]
    if shape == "cross":
        return [_bar(-1, 0, 1, 0, 0.62), _bar(0, -1, 0, 1, 0.62)], []
    if shape == "zorp":  # an F with a dot
        return [
            _bar(-0.62, -1, -0.62, 1, 0.46),
            _bar(-0.8, -0.78, 0.95, -0.78, 0.44),
            _bar(-0.8, 0.06, 0.4, 0.06, 0.42),
            _disc(0.55, 0.72, 0.3),
        ], []
    if shape == "quib":  # an hourglass with caps
        return [
            [
                (-0.92, -1),
                (0.92, -1),
                (0.92, -0.72),
                (0.18, 0),
                (0.92, 0.72),
                (0.92, 1),
                (-0.92, 1),
                (-0.92, 0.72),
                (-0.18, 0),
                (-0.92, -0.72),
            ],
        ], []
    if shape == "mave":  # a trident
        return [
            _bar(-0.8, -1, -0.8, 0.2, 0.38),
            _bar(0, -1, 0, 1, 0.38),
            _bar(0.8, -1, 0.8, 0.2, 0.38),
            _bar(-0.99, 0.12, 0.99, 0.12, 0.38),
        ], []
    raise ValueError(f"unknown shape {shape!r}")
