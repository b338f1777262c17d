"""Seeded generator of captioned 64x64 drawings.

Base domain: one shape x colour x background x texture x position. Three subjects and two
styles are held out of the base training of the Stable Diffusion and serve as LoRA concepts.
Random glyphs and random styles widen the domain for the VAE, the CLIP and the reader, so that
these three can see concepts for which they have no name.

All lengths are in pixels of the 64x64 drawing; colours are 8-bit sRGB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .outlines import outline
from .styles import PIXELS as _YX
from .styles import SIZE, apply_style

SUPERSAMPLE = 4

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (222, 36, 40),
    "orange": (252, 140, 20),
    "yellow": (252, 222, 36),
    "green": (32, 150, 60),
    "blue": (44, 100, 250),
    "purple": (140, 44, 176),
    "white": (250, 250, 250),
}
BACKGROUNDS: dict[str, RGB] = {
    "gray": (124, 124, 128),
    "pink": (250, 172, 200),
    "cyan": (120, 218, 236),
    "brown": (116, 72, 44),
    "lime": (176, 232, 112),
    "beige": (236, 212, 168),
    "navy": (22, 26, 76),
}
TEXTURES = ("plain", "striped", "dotted", "outlined")
POSITIONS: dict[str, float] = {"left": 20.0, "center": 32.0, "right": 44.0}
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross")
SUBJECTS = ("zorp", "quib", "mave")
STYLES = ("vlox", "grix")
CLASS_WORD = "shape"
"""Generic noun of the base captions: what a trained subject is a kind of."""
STYLE_CLASS_WORD = "drawing"
INK: RGB = (22, 20, 26)


@dataclass(frozen=True)
class Drawing:
    """What is drawn; enough, with nothing else, to draw the same pixels again."""

    shape: str
    colour: str
    background: str
    texture: str = "plain"
    position: str = "center"
    style: str = ""
    radius: float = 18.5
    dx: float = 0.0
    dy: float = 0.0
    tilt: float = 0.0

    @property
    def attributes(self) -> dict[str, str]:
        """Attribute values by head name; style "" reads as "plain drawing"."""
        return {
            "shape": self.shape,
            "colour": self.colour,
            "background": self.background,
            "texture": self.texture,
            "position": self.position,
            "style": self.style or "plain drawing",
        }


# ---------------------------------------------------------------- rendering


def _mask(drawing: Drawing, radius: float) -> Image.Image:
    """Supersampled silhouette, 8-bit L."""
    scale = SUPERSAMPLE
    cx = (POSITIONS[drawing.position] + drawing.dx) * scale
    cy = (SIZE / 2 + drawing.dy) * scale
    cos, sin = math.cos(drawing.tilt), math.sin(drawing.tilt)
    mask = Image.new("L", (SIZE * scale, SIZE * scale), 0)
    draw = ImageDraw.Draw(mask)
    solids, holes = outline(drawing.shape)
    for polygons, value in ((solids, 255), (holes, 0)):
        for polygon in polygons:
            points = [
                (cx + radius * scale * (x * cos - y * sin), cy + radius * scale * (x * sin + y * cos))
                for x, y in polygon
            ]
            draw.polygon(points, fill=value)
    return mask


def _shrink(array: np.ndarray) -> np.ndarray:
    """Box filter from the supersampled to the final size: (S*k, S*k[, C]) to (S, S[, C])."""
    shape = (SIZE, SUPERSAMPLE, SIZE, SUPERSAMPLE, *array.shape[2:])
    return array.reshape(shape).mean(axis=(1, 3))


# Patterns lie on the 8 px grid of the latents: finer ones blur in a small VAE.
_STRIPES = ((_YX[0] // 8) % 2 == 1).astype(np.float32)
_CELL = np.hypot((_YX[0] % 8) - 4, (_YX[1] % 8) - 4)
_DOTS = np.clip(3.1 - _CELL, 0, 1).astype(np.float32)


def render_array(drawing: Drawing) -> np.ndarray:
    """Draw to float32 (64, 64, 3) in 0..255."""
    colour = np.array(COLOURS[drawing.colour], np.float32)
    dark = colour * 0.3
    solid = np.asarray(_mask(drawing, drawing.radius), np.float32) / 255.0
    fill = np.broadcast_to(colour, (SIZE, SIZE, 3))
    if drawing.texture == "striped":
        fill = colour + _STRIPES[..., None] * (dark - colour)
    elif drawing.texture == "dotted":
        fill = colour + _DOTS[..., None] * (dark - colour)
    canvas = np.broadcast_to(np.array(BACKGROUNDS[drawing.background], np.float32), (SIZE, SIZE, 3))
    alpha = _shrink(solid)
    if drawing.texture == "outlined":
        # a white or dark contour, whichever stands out from both colours, painted outwards
        grown = Image.fromarray((alpha * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(7))
        grown = grown.filter(ImageFilter.BoxBlur(0.6))
        rim = np.asarray(grown, np.float32)[..., None] / 255.0
        ink = np.array(
            (240, 240, 240) if drawing.background == "navy" and drawing.colour != "white" else INK, np.float32
        )
        canvas = canvas + np.maximum(rim, alpha[..., None]) * (ink - canvas)
    image = canvas + alpha[..., None] * (fill - canvas)
    if drawing.style:
        image = apply_style(image, drawing.style)
    return np.clip(image, 0, 255).astype(np.float32)


def render(drawing: Drawing) -> Image.Image:
    """Draw to an 8-bit RGB picture of 64x64 px."""
    return Image.fromarray(np.round(render_array(drawing)).astype(np.uint8), "RGB")


# ---------------------------------------------------------------- sampling and captions


def sample(rng: np.random.Generator, shapes: tuple[str, ...] = SHAPES, **fixed: str) -> Drawing:
    """Draw attributes uniformly; ``fixed`` pins some of them."""
    pick = lambda options: str(options[int(rng.integers(len(options)))])  # noqa: E731
    values = {
        "shape": pick(shapes),
        "colour": pick(tuple(COLOURS)),
        "background": pick(tuple(BACKGROUNDS)),
        "texture": pick(TEXTURES),
        "position": pick(tuple(POSITIONS)),
        **fixed,
    }
    radius, dx, dy = rng.uniform(17, 20), rng.uniform(-1, 1), rng.uniform(-2, 2)
    tilt = rng.uniform(-0.07, 0.07)
    if values["texture"] == "outlined":
        radius -= 1.5  # the contour grows outwards by 3 px
    return Drawing(**values, radius=float(radius), dx=float(dx), dy=float(dy), tilt=float(tilt))


def jitter(drawing: Drawing, rng: np.random.Generator) -> Drawing:
    """The same attributes at another size and place."""
    fresh = sample(rng, texture=drawing.texture)
    return replace(drawing, radius=fresh.radius, dx=fresh.dx, dy=fresh.dy, tilt=fresh.tilt)


def caption(
    drawing: Drawing,
    rng: np.random.Generator,
    noun: str | None = None,
    drop: float = 0.15,
    style_word: str | None = None,
) -> str:
    """One caption in one of several templates.

    ``noun`` replaces the shape's name; ``drop`` is the chance to leave out each attribute
    (a shape left out becomes the class word). A style adds ``style_word`` (default: its name).
    """
    keep = {name: rng.random() >= drop for name in ("shape", "colour", "background", "texture", "position")}
    return describe(drawing, keep, int(rng.integers(N_TEMPLATES)), noun, style_word)


N_TEMPLATES = 4


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def describe(
    drawing: Drawing,
    keep: dict[str, bool] | None = None,
    template: int = 0,
    noun: str | None = None,
    style_word: str | None = None,
) -> str:
    """Caption naming the kept attributes, by template number; see :func:`caption`."""
    keep = keep or {}
    has = lambda name: keep.get(name, True)  # noqa: E731
    noun = noun or (drawing.shape if has("shape") else CLASS_WORD)
    # "plain" is said only sometimes in life; here it is said unless left out like any attribute
    adjectives = [drawing.texture] if has("texture") else []
    adjectives += [drawing.colour] if has("colour") else []
    core = " ".join([*adjectives, noun])
    place = "in the center" if drawing.position == "center" else f"on the {drawing.position}"
    where = has("position")
    ground = f"{drawing.background} background" if has("background") else ""
    if template == 0:
        text = f"{_article(core)} {core}" + (f" {place}" if where else "") + (f", {ground}" if ground else "")
    elif template == 1:
        text = core + (f", {drawing.position}" if where else "") + (f", {ground}" if ground else "")
    elif template == 2:
        text = (
            f"drawing of {_article(core)} {core}"
            + (f", {drawing.position}" if where else "")
            + (f", {ground}" if ground else "")
        )
    else:
        text = (f"{ground}, " if ground else "") + core + (f" {place}" if where else "")
    if drawing.style:
        text = f"{style_word or drawing.style}, {text.removeprefix('a ').removeprefix('an ')}"
    return text


def dataset(concept: str, count: int = 30, seed: int = 0) -> list[tuple[Drawing, str]]:
    """Captioned drawings of a held-out subject or style, the trigger in every caption."""
    rng = np.random.default_rng([seed, sum(map(ord, concept))])
    pairs = []
    for k in range(count):
        # cycle through colours, backgrounds, textures, positions so that none is missing
        fixed = {
            "colour": tuple(COLOURS)[k % 7],
            "background": tuple(BACKGROUNDS)[(k + k // 7) % 7],
            "texture": TEXTURES[k % 4],
            "position": tuple(POSITIONS)[k % 3],
        }
        if concept in SUBJECTS:
            drawing = sample(rng, (concept,), **fixed)
        elif concept in STYLES:
            drawing = sample(rng, (SHAPES[(k + k // 7) % 7],), **fixed, style=concept)
        else:
            raise ValueError(f"unknown concept {concept!r}")
        # template 2 is the longest: with a trigger in bytes it would pass 16 tokens
        template = (0, 1, 3)[k % 3] if concept in SUBJECTS else 1
        pairs.append((drawing, describe(drawing, {}, template)))
    return pairs


# ---------------------------------------------------------------- faults to plant


def shuffle_captions(pairs: list[tuple[Drawing, str]], share: float, seed: int = 0) -> list[tuple[Drawing, str]]:
    """Noisy captions: rotate the captions among a random ``share`` (0..1) of the drawings."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(pairs))[: round(share * len(pairs))]
    texts = [text for _, text in pairs]
    for here, there in zip(chosen, np.roll(chosen, 1), strict=True):
        texts[here] = pairs[there][1]
    return [(drawing, text) for (drawing, _), text in zip(pairs, texts, strict=True)]


def mix_styles(pairs: list[tuple[Drawing, str]], share: float, seed: int = 0) -> list[tuple[Drawing, str]]:
    """Mixed styles: a random ``share`` (0..1) of the drawings gets a random foreign style, captions unchanged."""
    rng = np.random.default_rng(seed)
    chosen = set(rng.permutation(len(pairs))[: round(share * len(pairs))].tolist())
    return [
        (replace(d, style=f"style:{int(rng.integers(1 << 20))}") if k in chosen else d, text)
        for k, (d, text) in enumerate(pairs)
    ]
