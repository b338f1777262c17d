"""Aspect-ratio buckets: every picture keeps its shape as far as the model's step allows.

The sizes follow the idea of NovelAI's aspect-ratio bucketing (github.com/NovelAI/novelai-aspect-ratio-bucketing):
all multiples of a step whose area stays within the native one; a picture goes to the nearest ratio, is scaled
until it covers the bucket, and the rest is cropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

STEP = 64
SMALL_STEP = 8
MAX_RATIO = 2.5


@dataclass(frozen=True)
class Placement:
    """How a picture becomes a training picture.

    Attributes:
        bucket: (width, height) in pixels that the model sees.
        scaled: (width, height) after scaling, both at least the bucket's.
        scale: scaled / original; above 1 the picture is enlarged.
        kept: share of the scaled picture inside the crop, in (0, 1].
    """

    bucket: tuple[int, int]
    scaled: tuple[int, int]
    scale: float

    @property
    def kept(self) -> float:
        return self.bucket[0] * self.bucket[1] / (self.scaled[0] * self.scaled[1])


def bucket_step(resolution: tuple[int, int]) -> int:
    """64 px as SD's UNet likes it, 8 px for models whose native side is under 256."""
    return SMALL_STEP if min(resolution) < 256 else STEP


def make_buckets(resolution: tuple[int, int], step: int | None = None) -> list[tuple[int, int]]:
    """Sizes (width, height), each side a multiple of ``step``, area at most the resolution's, ratio at most 2.5.

    Sorted by width, then height; without duplicates; never empty.
    """
    step = step or bucket_step(resolution)
    area = resolution[0] * resolution[1]
    found = {(max(resolution[0] // step * step, step), max(resolution[1] // step * step, step))}
    for side in range(step, int(math.sqrt(area * MAX_RATIO)) + 1, step):
        other = area // side // step * step
        if other >= step and max(side, other) <= MAX_RATIO * min(side, other):
            found |= {(side, other), (other, side)}
    return sorted(found)


def place(size: tuple[int, int], buckets: list[tuple[int, int]], step: int, no_upscale: bool = False) -> Placement:
    """The bucket for a picture of ``size`` (width, height).

    Nearest ratio on a log scale; of equal ones the larger area, then the narrower. With ``no_upscale`` a
    picture smaller than its bucket gets the largest bucket of the same step that fits into it instead.
    """
    width, height = size
    ratio = math.log(width / height)
    best = min(buckets, key=lambda b: (round(abs(math.log(b[0] / b[1]) - ratio), 9), -b[0] * b[1], b))
    if no_upscale and (width < best[0] or height < best[1]):
        best = (max(min(best[0], width) // step * step, step), max(min(best[1], height) // step * step, step))
    scale = max(best[0] / width, best[1] / height)
    scaled = (max(best[0], round(width * scale)), max(best[1], round(height * scale)))
    return Placement(best, scaled, scale)


def fit(image: Image.Image, placement: Placement, crop: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """Scale and crop: (3, H, W) float32 in [0, 1]. ``crop`` is the crop's place, 0 left/top to 1 right/bottom."""
    if image.size != placement.scaled:
        image = image.resize(placement.scaled, Image.Resampling.LANCZOS)
    left = round((placement.scaled[0] - placement.bucket[0]) * crop[0])
    top = round((placement.scaled[1] - placement.bucket[1]) * crop[1])
    image = image.crop((left, top, left + placement.bucket[0], top + placement.bucket[1]))
    return np.ascontiguousarray(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255.0)
