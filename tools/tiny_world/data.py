"""Mixtures of drawings and arrays of them for the trainings."""

from __future__ import annotations

import numpy as np

from .drawings import SHAPES, STYLES, SUBJECTS, Drawing, render_array, sample

GLYPH_FAMILIES = 240
"""Random glyphs with a name of their own, seen by the CLIP only."""
STYLE_FAMILIES = 60


def stack(drawings: list[Drawing]) -> np.ndarray:
    """Render to uint8 (N, 3, 64, 64)."""
    out = np.empty((len(drawings), 3, 64, 64), np.uint8)
    for k, drawing in enumerate(drawings):
        out[k] = np.round(render_array(drawing)).astype(np.uint8).transpose(2, 0, 1)
    return out


def base(rng: np.random.Generator, count: int) -> list[Drawing]:
    """Base domain only: no held-out concept."""
    return [sample(rng) for _ in range(count)]


def wide(rng: np.random.Generator, count: int) -> list[Drawing]:
    """Wide domain for the VAE: base 45 %, subjects 12 %, random glyphs 18 %, styles 25 %."""
    drawings = []
    for _ in range(count):
        u = rng.random()
        glyph = f"glyph:{int(rng.integers(1 << 20))}"
        if u < 0.45:
            drawings.append(sample(rng))
        elif u < 0.57:
            drawings.append(sample(rng, SUBJECTS))
        elif u < 0.75:
            drawings.append(sample(rng, (glyph,)))
        else:
            style = STYLES[int(rng.integers(2))] if u < 0.86 else f"style:{int(rng.integers(1 << 20))}"
            shapes = SHAPES if rng.random() < 0.7 else (*SUBJECTS, glyph)
            drawings.append(sample(rng, shapes, style=style))
    return drawings


def made_up_name(seed: int) -> str:
    """A pronounceable two-syllable word, e.g. for a random glyph family."""
    rng = np.random.default_rng([seed, 31337])
    pick = lambda letters: letters[int(rng.integers(len(letters)))]  # noqa: E731
    return pick("bdfgklmnprstvwz") + pick("aeiou") + pick("bdgklmnprtvz") + pick("aeiou") + pick("bdgklmnrt")
