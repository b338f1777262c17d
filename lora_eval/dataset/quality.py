"""What can be measured on one picture, or on two, without a model. Arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.filters import laplace

from lora_eval.dataset.images import open_picture, to_grey
from lora_eval.files import file_sha256

_SIDE = 256
_HASH_SIDE = 32
_THUMB = 32


@dataclass(frozen=True)
class Look:
    """Measurements of one picture.

    Attributes:
        path, sha256: the file and its content hash.
        size: (width, height) in pixels, as seen (EXIF turned).
        sharpness: log10 of the variance of the Laplacian, see :func:`sharpness`.
        shadows, highlights: 1st and 99th percentile of grey, in [0, 1].
        contrast: standard deviation of grey, in [0, 0.5].
        hash: (64,) bool, :func:`perceptual_hash`.
        thumb: (32, 32) float32 grey.
    """

    path: Path
    sha256: str
    size: tuple[int, int]
    sharpness: float
    shadows: float
    highlights: float
    contrast: float
    hash: np.ndarray
    thumb: np.ndarray


def look(path: Path) -> Look:
    """Open and measure one picture. Raises DatasetError when it cannot be read."""
    image = open_picture(path)
    grey = np.asarray(_shrink(image).convert("L"), dtype=np.float32) / 255.0
    low, high = np.percentile(grey, (1, 99))
    thumb = to_grey(image, _THUMB)
    return Look(
        path,
        file_sha256(path),
        image.size,
        sharpness(grey),
        float(low),
        float(high),
        float(grey.std()),
        perceptual_hash(to_grey(image, _HASH_SIDE)),
        thumb,
    )


def _shrink(image: Image.Image) -> Image.Image:
    """At most 256 px on the short side, so that sharpness compares pictures of different size."""
    scale = _SIDE / min(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX)


def sharpness(grey: np.ndarray) -> float:
    """log10 of the variance of the Laplacian, relative to the variance of the picture itself.

    Pech-Pacheco et al. 2000 ("Diatom autofocusing in brightfield microscopy") use the plain variance; dividing
    by the picture's own variance makes a low-contrast picture comparable with a contrasty one. ``grey`` is
    (H, W) in [0, 1]. A blank picture gives -inf.
    """
    spread = float(np.var(grey))
    edges = float(np.var(laplace(np.asarray(grey, dtype=np.float64))))
    return float(np.log10(edges / spread)) if spread > 1e-8 and edges > 0 else -np.inf


def perceptual_hash(grey: np.ndarray) -> np.ndarray:
    """(64,) bool: signs of the 8x8 lowest DCT-II coefficients about their median, the mean term left out.

    The common "pHash" (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions").
    ``grey`` is (S, S) in [0, 1], S at least 8.
    """
    side = grey.shape[0]
    steps = np.arange(side)
    basis = np.cos(np.pi * (2 * steps[None, :] + 1) * np.arange(9)[:, None] / (2 * side))
    low = (basis @ grey.astype(np.float64) @ basis.T)[:8, 1:9].ravel()
    return np.asarray(low > np.median(low))


def hash_distances(hashes: np.ndarray) -> np.ndarray:
    """(N, 64) bool -> (N, N) Hamming distances, 0 to 64."""
    signs = np.where(hashes, 1.0, -1.0)
    return np.rint((signs.shape[1] - signs @ signs.T) / 2).astype(int)


def near_duplicates(looks: list[Look], bits: int = 8, difference: float = 0.04) -> list[tuple[int, int]]:
    """Pairs (i < j) that show the same picture.

    Two witnesses are asked for: the hashes differ in at most ``bits`` of 64 **and** the 32x32 grey thumbs differ
    by at most ``difference`` on average, because drawings on plain ground share their low frequencies.
    """
    if len(looks) < 2:
        return []
    distances = hash_distances(np.stack([one.hash for one in looks]))
    first, second = np.nonzero(np.triu(distances <= bits, 1))
    return [
        (int(i), int(j))
        for i, j in zip(first, second, strict=True)
        if float(np.abs(looks[i].thumb - looks[j].thumb).mean()) <= difference
    ]


def duplicate_groups(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Group number of each of ``count`` pictures; pictures joined by a pair share one (the smallest index)."""
    group = list(range(count))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for i, j in pairs:
        low, high = sorted((root(i), root(j)))
        group[high] = low
    return [root(i) for i in range(count)]
