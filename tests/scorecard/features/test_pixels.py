"""Pixel statistics against known answers and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lora_eval.scorecard.features.pixels import (
    DISTORTION_NAMES,
    STYLE_NAMES,
    describe,
    high_band,
    lab,
    noise_sigma,
    style_statistics,
    thumb,
)


def flat(colour=(120, 60, 200), side=64) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def soft(seed=0, side=64) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def distortion(image: Image.Image) -> dict[str, float]:
    return dict(zip(DISTORTION_NAMES, describe(image).distortion.tolist(), strict=True))


def style(image: Image.Image) -> dict[str, float]:
    return dict(zip(STYLE_NAMES, describe(image).style.tolist(), strict=True))


def test_shapes_and_types():
    stats = describe(soft())
    assert (stats.style.shape, stats.distortion.shape, stats.thumb.shape) == ((12,), (6,), (32, 32))
    assert {stats.style.dtype, stats.distortion.dtype, stats.thumb.dtype} == {np.dtype("float32")}


def test_lab_is_scikit_images_lab():
    color = pytest.importorskip("skimage.color")
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 17, dtype=np.uint8)] * 3, indexing="ij"), axis=-1)
    assert np.abs(lab(grid) - color.rgb2lab(grid)).max() < 0.02


def test_lab_knows_black_white_and_red():
    values = lab(np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]], np.uint8))
    np.testing.assert_allclose(values, [[0, 0, 0], [100, 0, 0], [53.24, 80.09, 67.2]], atol=0.05)


def test_moments_of_two_halves_are_those_of_a_coin():
    image = flat((0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 16, 64))  # a quarter white: mean 25, sd 43.3, third moment by hand
    found = style(image)
    assert found["lab_l_mean"] == pytest.approx(25, abs=0.01)
    assert found["lab_l_sd"] == pytest.approx(100 * np.sqrt(0.25 * 0.75), abs=0.02)
    third = 0.25 * 75**3 + 0.75 * (-25) ** 3
    assert found["lab_l_skew"] == pytest.approx(np.cbrt(third), abs=0.02)
    assert found["lab_a_mean"] == pytest.approx(0, abs=0.02)


def test_a_flat_picture_has_no_texture_and_no_distortion_statistic_explodes():
    image = flat()
    assert [style(image)[f"texture_{k}"] for k in (1, 2, 4)] == pytest.approx([-4, -4, -4])
    found = distortion(image)
    assert found["saturation"] == pytest.approx(140 / 200, abs=1e-6)
    assert [found[key] for key in ("clipped", "high_band", "laplacian", "noise")] == pytest.approx([0] * 4, abs=1e-9)
    assert found["blur"] == 1


def test_style_hardly_depends_on_the_size_in_pixels():
    large = soft(side=512)
    small = large.resize((256, 256), Image.Resampling.BOX)
    np.testing.assert_allclose(style_statistics(large), style_statistics(small), atol=1e-3)


def test_clipped_counts_pixels_with_a_channel_at_either_end():
    image = flat()
    image.putpixel((0, 0), (255, 10, 10))
    image.putpixel((1, 0), (10, 0, 10))
    assert distortion(image)["clipped"] == pytest.approx(2 / 4096)


def test_saturation_is_that_of_hsv():
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    skimage_color = pytest.importorskip("skimage.color")
    expected = skimage_color.rgb2hsv(np.asarray(image))[..., 1].mean()
    assert distortion(image)["saturation"] == pytest.approx(expected, abs=1e-5)


def test_high_band_tells_slow_waves_from_fast_ones():
    x = np.arange(64)
    slow, fast = np.sin(2 * np.pi * x * 4 / 64), np.sin(2 * np.pi * x * 24 / 64)
    wave = lambda values: np.broadcast_to(values, (64, 64))  # noqa: E731
    assert high_band(wave(slow)) < 0.001
    assert high_band(wave(fast)) > 0.999
    assert high_band(wave(slow + fast)) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("shape", [(64, 64), (63, 65), (65, 64)])
def test_high_band_of_white_noise_is_the_share_of_the_frequency_square_outside_the_disc(shape):
    noise = np.random.default_rng(0).standard_normal((20, *shape))
    found = np.mean([high_band(one) for one in noise])
    assert found == pytest.approx(1 - np.pi * 0.25**2, abs=0.02)


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.1])
def test_noise_is_estimated_on_a_soft_picture(sigma):
    grey = np.asarray(soft(side=256).convert("L"), np.float32) / 255
    noisy = grey + np.random.default_rng(0).normal(0, sigma, grey.shape).astype(np.float32)
    assert noise_sigma(noisy) == pytest.approx(sigma, rel=0.06)


def test_noise_is_scikit_images_estimate_where_wavelets_are_installed():
    pytest.importorskip("pywt")
    from skimage.restoration import estimate_sigma

    noisy = np.random.default_rng(0).normal(0.5, 0.05, (128, 128)).astype(np.float32)
    assert noise_sigma(noisy) == pytest.approx(estimate_sigma(noisy), rel=0.03)


def test_blurring_and_noise_move_the_statistics_the_way_they_are_named():
    image = soft(side=128)
    blurred = distortion(image.filter(ImageFilter.GaussianBlur(4)))
    plain = distortion(image)
    noisy = distortion(
        Image.fromarray(
            np.clip(np.asarray(image) + np.random.default_rng(0).normal(0, 20, (128, 128, 3)), 0, 255).astype(np.uint8)
        )
    )
    assert blurred["blur"] > plain["blur"] > noisy["blur"]
    assert blurred["laplacian"] < plain["laplacian"] < noisy["laplacian"]
    assert plain["noise"] < noisy["noise"] and plain["high_band"] < noisy["high_band"]


def test_a_thumb_is_the_grey_picture_in_blocks():
    image = Image.fromarray(np.kron(np.arange(0, 256, 64, dtype=np.uint8).reshape(2, 2), np.ones((32, 32), np.uint8)))
    small = thumb(image.convert("RGB"))
    assert small.shape == (32, 32)
    np.testing.assert_allclose(small[[0, 0, -1, -1], [0, -1, 0, -1]], np.array([0, 64, 128, 192]) / 255, atol=1e-6)
