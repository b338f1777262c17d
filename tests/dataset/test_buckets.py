"""Aspect-ratio buckets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lora_eval.dataset.buckets import Placement, bucket_step, fit, make_buckets, place

SIDES = st.integers(4, 16).map(lambda n: n * 64)
SIZES = st.tuples(st.integers(16, 4000), st.integers(16, 4000))


def test_known_buckets_at_512() -> None:
    upright = [(320, 704), (320, 768), (384, 640), (448, 576)]
    assert make_buckets((512, 512)) == [*upright, (512, 512), *sorted((h, w) for w, h in upright)]


def test_steps_are_64_and_8_for_small_models() -> None:
    assert bucket_step((512, 512)) == bucket_step((256, 256)) == 64
    assert bucket_step((64, 64)) == bucket_step((248, 1024)) == 8


@given(SIDES, SIDES)
def test_every_bucket_is_a_multiple_of_the_step_and_within_the_area(width: int, height: int) -> None:
    found = make_buckets((width, height))
    assert (width, height) in found
    for w, h in found:
        assert w % 64 == h % 64 == 0
        assert w * h <= width * height


@given(SIZES, SIDES)
def test_pictures_cover_their_bucket_and_no_ratio_is_nearer(size: tuple[int, int], side: int) -> None:
    buckets = make_buckets((side, side))
    placed = place(size, buckets, 64)
    assert placed.scaled[0] >= placed.bucket[0] and placed.scaled[1] >= placed.bucket[1]
    assert placed.scaled[0] == placed.bucket[0] or placed.scaled[1] == placed.bucket[1]

    def distance(bucket: tuple[int, int]) -> float:
        return abs(np.log(bucket[0] / bucket[1]) - np.log(size[0] / size[1]))

    assert distance(placed.bucket) <= min(map(distance, buckets)) + 1e-6


@given(SIZES)
def test_without_upscaling_nothing_of_a_step_or_more_is_enlarged(size: tuple[int, int]) -> None:
    placed = place(size, make_buckets((512, 512)), 64, no_upscale=True)
    if min(size) >= 64:
        assert placed.scale <= 1.0
        assert placed.bucket[0] % 64 == placed.bucket[1] % 64 == 0


def test_the_crop_takes_the_place_asked_for() -> None:
    ramp = np.tile(np.arange(96, dtype=np.uint8), (64, 1))
    image = Image.fromarray(np.stack([ramp] * 3, -1))
    placed = Placement((64, 64), (96, 64), 1.0)
    for share, first in ((0.0, 0), (0.5, 16), (1.0, 32)):
        pixels = fit(image, placed, (share, 0.5))
        assert pixels.shape == (3, 64, 64) and pixels.dtype == np.float32
        assert np.allclose(pixels[0, 0] * 255, np.arange(first, first + 64), atol=1e-4)


def test_scaling_keeps_a_flat_colour_flat() -> None:
    image = Image.new("RGB", (700, 300), (10, 200, 30))
    pixels = fit(image, place(image.size, make_buckets((512, 512)), 64))
    assert np.allclose(pixels, np.array([10, 200, 30]).reshape(3, 1, 1) / 255, atol=1e-6)
