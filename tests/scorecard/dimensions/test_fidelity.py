"""Likeness between the base model (0) and the references themselves (1)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lora_eval.scorecard.dimensions import fidelity as metric


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_clip_i_is_the_mean_cosine_to_every_reference() -> None:
    rng = np.random.default_rng(0)
    pictures, references = unit(rng.normal(size=(5, 16))), unit(rng.normal(size=(7, 16)))
    expected = [[float(p @ r) for r in references] for p in pictures]
    assert metric.clip_i(pictures, references) == pytest.approx(np.mean(expected, axis=1))


def test_leave_one_out_agrees_with_a_loop_and_does_not_count_a_picture_with_itself() -> None:
    references = unit(np.random.default_rng(1).normal(size=(6, 8)))
    expected = [np.mean([references[i] @ references[j] for j in range(6) if j != i]) for i in range(6)]
    assert metric.leave_one_out(references) == pytest.approx(expected)
    assert metric.leave_one_out(np.eye(4)) == pytest.approx([0, 0, 0, 0])


def test_relative_is_0_for_the_base_model_and_1_for_the_references_level() -> None:
    assert metric.relative(0.6, 0.6, 0.9) == 0
    assert metric.relative(0.9, 0.6, 0.9) == 1
    assert metric.relative(0.75, 0.6, 0.9) == pytest.approx(0.5)
    assert metric.relative(0.5, 0.6, 0.9) < 0


def test_relative_is_not_measured_when_there_is_no_room() -> None:
    assert math.isnan(metric.relative(0.7, 0.895, 0.9))
    assert math.isnan(metric.relative(0.7, 0.95, 0.9))
    assert math.isnan(metric.relative(0.7, 0.6, math.nan))


def test_bad_features_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="references"):
        metric.leave_one_out(np.eye(3)[:1])
    with pytest.raises(ValueError, match="pictures"):
        metric.clip_i(np.zeros((0, 3)), np.eye(3))
