"""Alignment metrics against loops and hand-made features."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.scorecard.dimensions.alignment import formulas as metric


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_clip_t_is_the_raw_cosine_with_the_own_text() -> None:
    pictures, texts = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[0.0, 1.0], [0.6, 0.8]])
    assert metric.clip_t(pictures, texts) == pytest.approx([0.0, 1.0])
    with pytest.raises(ValueError, match="same shape"):
        metric.clip_t(pictures, texts[:1])


def test_rank_is_one_when_the_own_prompt_is_nearest() -> None:
    texts = np.eye(4)
    pictures = unit(np.array([[0.9, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.9]]))
    assert metric.retrieval_rank(pictures, texts, np.array([0, 0])) == pytest.approx([1.0, 4.0])
    with pytest.raises(ValueError, match="index below 4"):
        metric.retrieval_rank(pictures, texts, np.array([0, 4]))


@given(st.integers(0, 300))
def test_rank_agrees_with_sorting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures, texts = unit(rng.normal(size=(4, 6))), unit(rng.normal(size=(5, 6)))
    own = rng.integers(0, 5, size=4)
    expected = [1 + sorted(-(texts @ p)).index(-(texts @ p)[o]) for p, o in zip(pictures, own, strict=True)]
    assert metric.retrieval_rank(pictures, texts, own) == pytest.approx(expected)


def test_rank_of_pictures_that_know_nothing_is_chance() -> None:
    rng = np.random.default_rng(0)
    ranks = metric.retrieval_rank(
        unit(rng.normal(size=(4000, 32))), unit(rng.normal(size=(9, 32))), rng.integers(0, 9, 4000)
    )
    assert ranks.mean() == pytest.approx(5.0, abs=0.15)


def test_foil_wins_are_the_share_of_foils_beaten() -> None:
    text, foils = np.eye(4)[0], np.eye(4)[1:3]
    pictures = unit(np.array([[3.0, 1, 1, 0], [2.0, 3, 1, 0], [0.0, 1, 1, 0]]))
    assert metric.foil_wins(pictures, text, foils) == pytest.approx([1.0, 0.5, 0.0])
    assert metric.foil_wins(np.eye(4)[3:], text, foils) == pytest.approx([0.5])


def test_directional_is_the_cosine_of_both_changes_and_undefined_without_change() -> None:
    change = np.array([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    found = metric.directional(change, np.array([0.0, 1.0]))
    assert found[:2] == pytest.approx([1.0, 0.0]) and np.isnan(found[2])
