"""What can be measured on one picture, or on two, without a model. Arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.filters import laplace

from lora_eval.dataset.images import read_picture, to_grey
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
        edge_width: pixels that the sharpest edges take, see :func:`edge_width`.
        shadows, highlights: 1st and 99th percentile of grey, in [0, 1].
        contrast: standard deviation of grey or of the colour channel where it is largest, in [0, 0.5].
        hash: (64,) bool, :func:`perceptual_hash`.
        thumb: (32, 32, 3) float32 in [0, 1].
        notes: what the file says of its colours and could not be followed, see :mod:`lora_eval.dataset.colour`.
    """

    path: Path
    sha256: str
    size: tuple[int, int]
    sharpness: float
    edge_width: float
    shadows: float
    highlights: float
    contrast: float
    hash: np.ndarray
    thumb: np.ndarray
    notes: tuple[str, ...] = ()


def look(path: Path) -> Look:
    """Open and measure one picture. Raises DatasetError when it cannot be read."""
    image, notes = read_picture(path)
    small = _shrink(image)
    grey = np.asarray(small.convert("L"), dtype=np.float32) / 255.0
    low, high = np.percentile(grey, (1, 99))
    # a red shape on a green ground of equal brightness has no contrast in grey, but plenty in its channels
    channels = [grey, *(np.asarray(small, dtype=np.float32) / 255.0).transpose(2, 0, 1)]
    clearest = max(channels, key=lambda channel: float(channel.std()))
    thumb = np.asarray(image.resize((_THUMB, _THUMB), Image.Resampling.BOX), dtype=np.float32) / 255.0
    return Look(
        path,
        file_sha256(path),
        image.size,
        sharpness(clearest),
        edge_width(clearest),
        float(low),
        float(high),
        float(clearest.std()),
        perceptual_hash(to_grey(image, _HASH_SIDE)),
        thumb,
        tuple(notes),
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


def edge_width(grey: np.ndarray) -> float:
    """Pixels that the sharpest edges take: range of the picture over its steepest slope.

    A step of the full range gives 1, after a Gaussian blur of s pixels about 1.25 s. Unlike the Laplacian's
    variance it does not ask how many edges there are, so a calm drawing is not taken for a blurred one. ``grey``
    is (H, W) in [0, 1]; a blank picture gives inf.
    """
    low, high = np.percentile(grey, (0.5, 99.5))
    down, across = np.gradient(np.asarray(grey, dtype=np.float64))
    # central differences see half of a one-pixel step
    steepest = 2 * float(np.percentile(np.hypot(down, across), 99.7))
    return float((high - low) / steepest) if steepest > 1e-6 else np.inf


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


def near_duplicates(
    looks: list[Look], bits: int = 8, difference: float = 0.04, changed: float = 0.05
) -> list[tuple[int, int]]:
    """Pairs (i < j) that show the same picture.

    Two witnesses are asked for, because drawings on like grounds share their low frequencies: the hashes differ in at
    most ``bits`` of 64, **and** the 32x32 colour thumbs differ by at most ``difference`` on average and clearly (by
    0.15) in at most a share ``changed`` of their cells. Another file format, size or brightness passes; another
    subject on the same ground does not.
    """
    if len(looks) < 2:
        return []
    distances = hash_distances(np.stack([one.hash for one in looks]))
    first, second = np.nonzero(np.triu(distances <= bits, 1))
    return [
        (int(i), int(j))
        for i, j in zip(first, second, strict=True)
        if _alike(looks[i].thumb, looks[j].thumb, difference, changed)
    ]


def _alike(first: np.ndarray, second: np.ndarray, difference: float, changed: float) -> bool:
    apart = np.abs(first - second)
    return float(apart.mean()) <= difference and float((apart.max(axis=2) > 0.15).mean()) <= changed


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
