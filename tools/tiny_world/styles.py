"""Global looks for any drawing: two held-out styles and seeded random ones."""

from __future__ import annotations

import numpy as np

SIZE = 64
"""Pixels a side."""
PIXELS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5
"""Pixel centres, (2, 64, 64): y, x."""
_Y, _X = PIXELS
_EDGE = np.minimum(np.minimum(_X, SIZE - _X), np.minimum(_Y, SIZE - _Y))
_RADIUS = np.hypot(_X - 32, _Y - 32) / 45.0


def _blend(image: np.ndarray, colour: tuple[float, ...] | np.ndarray, weight: np.ndarray | float) -> np.ndarray:
    """Mix towards a colour; weight (64, 64) or scalar in 0..1."""
    w = np.asarray(weight, np.float32)
    w = w[..., None] if w.ndim == 2 else w
    return image + w * (np.asarray(colour, np.float32) - image)


def _line(coordinate: np.ndarray, period: float, width: float) -> np.ndarray:
    """Antialiased lines ``width`` px wide every ``period`` px."""
    return np.clip(width / 2 + 0.5 - np.abs(coordinate % period - period / 2), 0, 1)


def woodcut(image: np.ndarray) -> np.ndarray:
    """vlox: warm paper tone, dark vertical hatching, dark frame."""
    image = _blend(image, (214, 170, 90), 0.25)
    image = _blend(image, (40, 22, 16), 0.6 * _line(_X, 8, 2.6))
    return _blend(image, (34, 18, 14), np.clip(6.5 - _EDGE, 0, 1))


def mosaic(image: np.ndarray) -> np.ndarray:
    """grix: pastel 4 px tiles with pale grout every 8 px."""
    tiles = image.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3)).repeat(4, 0).repeat(4, 1)
    tiles = _blend(tiles, (255, 250, 255), 0.3)
    grout = np.maximum(_line(_X + 4, 8, 2.2), _line(_Y + 4, 8, 2.2))
    return _blend(tiles, (255, 255, 250), 0.85 * grout)


def random_style(image: np.ndarray, seed: int) -> np.ndarray:
    """A look made of a tone, an overlay, a frame and a vignette, each with its own chance."""
    rng = np.random.default_rng([seed, 104729])
    draws = rng.random(12)
    if draws[0] < 0.7:
        image = _blend(image, rng.uniform(0, 255, 3), float(rng.uniform(0.12, 0.42)))
    if draws[1] < 0.2:
        image = image.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3)).repeat(4, 0).repeat(4, 1)
    if draws[2] < 0.75:
        width = float(rng.uniform(1.8, 3.4))
        weight = float(rng.uniform(0.4, 0.9))
        shift = float(rng.integers(2) * 4)
        kind = int(rng.integers(6))
        overlay = (
            _line(_X + shift, 8, width),
            _line(_Y + shift, 8, width),
            _line((_X + _Y) * 0.5 + shift, 8, width),
            _line((_X - _Y) * 0.5 + shift, 8, width),
            np.maximum(_line(_X + shift, 8, width), _line(_Y + shift, 8, width)),
            np.clip(width - np.hypot((_X + shift) % 8 - 4, (_Y + shift) % 8 - 4), 0, 1),
        )[kind]
        image = _blend(image, rng.uniform(0, 255, 3), weight * overlay)
    if draws[3] < 0.5:
        image = _blend(image, rng.uniform(0, 255, 3), np.clip(rng.uniform(2.5, 8.5) - _EDGE, 0, 1))
    if draws[4] < 0.25:
        image = _blend(image, rng.uniform(0, 255, 3), 0.7 * np.clip(_RADIUS - 0.35, 0, 1))
    if draws[5] < 0.25:
        image = 128 + (image - 128) * float(rng.uniform(0.45, 1.4))
    return image


def apply_style(image: np.ndarray, style: str) -> np.ndarray:
    """Style float (64, 64, 3) in 0..255; ``style:<seed>`` names a random one, "" none."""
    if style == "vlox":
        return woodcut(image)
    if style == "grix":
        return mosaic(image)
    if style.startswith("style:"):
        return random_style(image, int(style[6:]))
    if style in ("", "plain drawing"):
        return image
    raise ValueError(f"unknown style {style!r}")
