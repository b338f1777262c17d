"""Copies need two witnesses; SSIM is the one of scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.scorecard.dimensions.generalisation import formulas as metric


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@given(st.integers(0, 500), st.integers(7, 24), st.integers(7, 24))
def test_ssim_is_that_of_scikit_image(seed: int, height: int, width: int) -> None:
    skimage = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(seed)
    a = rng.random((2, height, width))
    b = np.clip(a + 0.3 * rng.normal(size=a.shape), 0, 1)
    expected = [skimage.structural_similarity(x, y, data_range=1.0) for x, y in zip(a, b, strict=True)]
    assert metric.ssim(a, b) == pytest.approx(expected, abs=1e-6)


def test_ssim_of_a_picture_with_itself_is_one() -> None:
    a = np.random.default_rng(0).random((70, 16, 16))
    assert metric.ssim(a, a) == pytest.approx(np.ones(70))
    with pytest.raises(ValueError, match="same shape"):
        metric.ssim(a, a[:3])
    with pytest.raises(ValueError, match="at least 7"):
        metric.ssim(a[:, :5], a[:, :5])


def world(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    concept = unit(rng.normal(size=32))
    return unit(concept + 0.8 * unit(rng.normal(size=(20, 32)))), rng.random((20, 16, 16)), rng


def test_a_copied_picture_is_found_with_its_source() -> None:
    features, thumbs, rng = world()
    limits = metric.copy_limits(features, thumbs)
    drawn = unit(features[[3, 8]] + 0.02 * rng.normal(size=(2, 32)))
    small = np.clip(thumbs[[3, 8]] + 0.02 * rng.normal(size=(2, 16, 16)), 0, 1)
    index, cosine, structure, copy = metric.find_copies(drawn, small, features, thumbs, limits)
    assert index.tolist() == [3, 8] and copy.all()
    assert (cosine > limits.feature).all() and (structure > limits.ssim).all()


def test_a_mirrored_copy_is_found() -> None:
    features, thumbs, _ = world()
    limits = metric.copy_limits(features, thumbs)
    assert metric.find_copies(features[:1], thumbs[:1, :, ::-1], features, thumbs, limits)[3].all()


def test_likeness_of_feature_alone_is_no_copy() -> None:
    """CLIP may find another picture of the same thing nearest: without structure it is not called a copy."""
    features, thumbs, rng = world()
    limits = metric.copy_limits(features, thumbs)
    index, _, _, copy = metric.find_copies(features[:4], rng.random((4, 16, 16)), features, thumbs, limits)
    assert index.tolist() == [0, 1, 2, 3] and not copy.any()


def test_likeness_of_structure_alone_is_no_copy() -> None:
    features, thumbs, rng = world()
    limits = metric.copy_limits(features, thumbs)
    other = unit(rng.normal(size=(4, 32)))
    assert not metric.find_copies(other, thumbs[:4], features, thumbs, limits)[3].any()


def test_new_pictures_of_the_concept_are_seldom_called_copies() -> None:
    features, thumbs, rng = world()
    concept = unit(features.mean(axis=0))
    limits = metric.copy_limits(features, thumbs)
    new = unit(concept + 0.8 * unit(rng.normal(size=(200, 32))))
    assert metric.find_copies(new, rng.random((200, 16, 16)), features, thumbs, limits)[3].mean() < 0.02


def test_doubles_in_the_training_set_do_not_excuse_copies() -> None:
    features, thumbs, _ = world()
    doubled = np.concatenate([features, features[:5]]), np.concatenate([thumbs, thumbs[:5]])
    limits, plain = metric.copy_limits(*doubled), metric.copy_limits(features, thumbs)
    assert limits.feature == pytest.approx(plain.feature, abs=0.03)
    assert limits.ssim < 0.95


def test_held_out_pictures_raise_the_limit_to_honest_likeness() -> None:
    features, thumbs, rng = world()
    near = unit(features[:6] + 0.05 * rng.normal(size=(6, 32)))
    assert metric.copy_limits(features, thumbs, near).feature > metric.copy_limits(features, thumbs).feature


def test_too_few_training_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="n >= 3"):
        metric.copy_limits(np.eye(4)[:2], np.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match="must match"):
        metric.copy_limits(np.eye(4), np.zeros((2, 8, 8)))


def test_nearest_agrees_with_a_loop() -> None:
    features, _, rng = world()
    drawn = unit(rng.normal(size=(5, 32)))
    index, cosine = metric.nearest(drawn, features)
    for x, i, c in zip(drawn, index, cosine, strict=True):
        values = [float(x @ t) for t in features]
        assert c == pytest.approx(max(values)) and values[i] == max(values)
