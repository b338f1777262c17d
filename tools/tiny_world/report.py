"""Measured quality of the tiny world: what the generated pictures show, read by the attribute reader."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from . import data
from .drawings import (
    BACKGROUNDS,
    COLOURS,
    N_TEMPLATES,
    POSITIONS,
    SHAPES,
    SUBJECTS,
    TEXTURES,
    Drawing,
    describe,
    sample,
)
from .export import CLIP, DATASETS, READER, SD, folder_size
from .reader import Reader

HEADS = ("shape", "colour", "background", "texture", "position")


def prompts(count: int = 84, seed: int = 7) -> tuple[list[Drawing], list[str]]:
    """Full prompts that cycle through every attribute value, and what they ask for."""
    rng = np.random.default_rng(seed)
    wanted, texts = [], []
    for k in range(count):
        drawing = sample(
            rng,
            (SHAPES[k % 7],),
            colour=tuple(COLOURS)[(k + k // 7) % 7],
            background=tuple(BACKGROUNDS)[(2 * k + k // 7) % 7],
            texture=TEXTURES[k % 4],
            position=tuple(POSITIONS)[k % 3],
        )
        wanted.append(drawing)
        texts.append(describe(drawing, template=k % N_TEMPLATES))
    return wanted, texts


def drawn_accuracy(painter: object, reader: Reader, count: int = 84, **draw: object) -> tuple[dict[str, float], float]:
    """Accuracy per head of generated pictures and pictures per second."""
    wanted, texts = prompts(count)
    start = time.time()
    pictures = painter.draw(texts, **draw)  # type: ignore[attr-defined]
    speed = count / (time.time() - start)
    scores = reader.accuracy(pictures, wanted)
    return {name: scores[name] for name in HEADS}, speed


def _row(title: str, scores: dict[str, float], extra: str = "") -> None:
    print(f"{title:<34}" + "".join(f"{scores[h]:>11.3f}" for h in HEADS) + extra, flush=True)


def run(count: int = 84) -> None:
    """Print every table."""
    from . import clip, vae
    from .diffusion import Painter

    painter, reader = Painter(), Reader.load()
    rng = np.random.default_rng(1234)
    print(f"{'attribute accuracy':<34}" + "".join(f"{h:>11}" for h in HEADS))
    for steps, kind in ((20, "ddim"), (15, "ddim"), (12, "dpm++"), (15, "dpm++")):
        scores, speed = drawn_accuracy(painter, reader, count, steps=steps, kind=kind)
        _row(f"drawn, {kind} {steps} steps, CFG 4", scores, f"  {speed:.1f} pictures/s")
    for title, shapes, style in (
        ("true, base", SHAPES, ""),
        ("true, held-out subjects", SUBJECTS, ""),
        ("true, vlox", SHAPES, "vlox"),
        ("true, grix", SHAPES, "grix"),
    ):
        drawings = [replace(sample(rng, shapes), style=style) for _ in range(400)]
        scores = reader.accuracy(data.stack(drawings), drawings)
        _row(title, scores, f"  style {scores['style']:.3f}")
    glyphs = [sample(rng, (f"glyph:{10**7 + k}",)) for k in range(300)]
    print(f"true, random glyphs read as other: {reader.accuracy(data.stack(glyphs), glyphs)['shape']:.3f}")
    for title, drawings in (
        ("base", data.base(rng, 100)),
        ("subjects", [sample(rng, SUBJECTS) for _ in range(100)]),
        ("vlox", [sample(rng, style="vlox") for _ in range(100)]),
        ("grix", [sample(rng, style="grix") for _ in range(100)]),
    ):
        print(f"VAE PSNR, {title}: {vae.psnr(painter.vae, data.stack(drawings)).mean():.2f} dB")
    model = clip.load()
    print("CLIP attribute swaps:", clip.swap_accuracy(model))
    print("CLIP image cosines:", clip.cosines(model))
    sizes = {part: folder_size(part) / 1e6 for part in (SD, CLIP, READER, DATASETS)}
    print(
        *(f"{part.name} {size:.2f} MB" for part, size in sizes.items()),
        f"together {sum(sizes.values()):.2f} MB",
        sep=", ",
    )
