"""Consistency metrics against planted edits and independent loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.scorecard.dimensions.consistency import formulas as metric


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def some_features(n: int, d: int = 32, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, d)))


def test_the_same_edit_at_every_seed_is_consistency_one() -> None:
    """Four orthogonal pictures that all move by the same vector within the span of two others."""
    eye = np.eye(8)
    base = unit(eye[:4] + eye[6])
    found = metric.carlos(unit(eye[:4] + eye[6] + 50 * eye[7]), base)
    assert found.consistency > 0.6
    same = metric.carlos(np.tile(eye[7], (4, 1)), np.tile(eye[0], (4, 1)))
    assert same.consistency == pytest.approx(1.0)
    assert same.strength == pytest.approx(np.sqrt(2))
    assert same.direction == pytest.approx(eye[7] - eye[0])


def test_unrelated_edits_have_consistency_about_zero() -> None:
    rng = np.random.default_rng(0)
    base = unit(rng.normal(size=(40, 512)))
    moved = unit(base + 0.5 * unit(rng.normal(size=(40, 512))))
    assert abs(metric.carlos(moved, base).consistency) < 0.02


def test_carlos_agrees_with_a_loop_over_pairs() -> None:
    a, b = some_features(6, seed=1), some_features(6, seed=2)
    d = a - b
    pairs = [d[i] @ d[j] / np.linalg.norm(d[i]) / np.linalg.norm(d[j]) for i, j in itertools.combinations(range(6), 2)]
    assert metric.carlos(a, b).consistency == pytest.approx(np.mean(pairs))


def test_a_lora_that_changes_nothing_has_no_consistency() -> None:
    a = some_features(4)
    found = metric.carlos(a, a)
    assert found.strength == 0 and np.isnan(found.consistency)


def test_carlos_refuses_pictures_that_do_not_pair() -> None:
    with pytest.raises(ValueError, match="same shape"):
        metric.carlos(some_features(3), some_features(4))
    with pytest.raises(ValueError, match="unit length"):
        metric.carlos(some_features(3) * 2, some_features(3))
    with pytest.raises(ValueError, match="not finite"):
        metric.carlos(np.full((2, 3), np.nan), some_features(2, 3))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_vendi_counts_pictures(n: int) -> None:
    """n orthogonal pictures count n, n equal ones count 1 (the two ends of arXiv 2210.02410)."""
    assert metric.vendi(np.eye(8)[:n]) == pytest.approx(n)
    assert metric.vendi(np.tile(np.eye(8)[0], (n, 1))) == pytest.approx(1.0)


def test_vendi_of_two_pictures_is_the_entropy_of_half_of_one_plus_and_minus_cosine() -> None:
    cosine = 0.6
    pictures = np.array([[1.0, 0.0], [cosine, np.sqrt(1 - cosine**2)]])
    p = np.array([(1 + cosine) / 2, (1 - cosine) / 2])
    assert metric.vendi(pictures) == pytest.approx(np.exp(-(p * np.log(p)).sum()))


@given(st.integers(2, 8), st.integers(0, 1000))
def test_vendi_is_between_one_and_n_and_ignores_order(n: int, seed: int) -> None:
    x = some_features(n, seed=seed)
    value = metric.vendi(x)
    assert 1.0 - 1e-9 <= value <= n + 1e-9
    assert metric.vendi(x[::-1]) == pytest.approx(value)


def test_vendi_of_sets_skips_the_missing_pictures() -> None:
    x = some_features(5)
    gram = (x @ x.T)[None]
    mask = np.array([[True, False, True, True, False]])
    assert metric.vendi_of_sets(gram, mask)[0] == pytest.approx(metric.vendi(x[[0, 2, 3]]))
    assert np.isnan(metric.vendi_of_sets(gram, np.array([[True, False, False, False, False]]))[0])


def test_expected_vendi_of_a_subset_is_the_mean_over_all_subsets() -> None:
    x = some_features(6, d=4)
    exact = np.mean([metric.vendi(x[list(c)]) for c in itertools.combinations(range(6), 3)])
    assert metric.expected_vendi(x, 3, draws=4000) == pytest.approx(exact, abs=0.01)
    assert np.isnan(metric.expected_vendi(x, 7))


def test_pairwise_similarity_known_value() -> None:
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert metric.pairwise_similarity(x) == pytest.approx(1 / 3)


def test_pseudo_values_are_those_of_the_jackknife_and_average_to_the_statistic() -> None:
    x = some_features(5, d=6)
    gram, mask = (x @ x.T)[None], np.ones((1, 5), dtype=bool)
    whole = metric.pairwise_similarity(x)
    found = metric.pseudo_values(gram, mask)[0]
    expected = [5 * whole - 4 * metric.pairwise_similarity(np.delete(x, i, axis=0)) for i in range(5)]
    assert found == pytest.approx(expected)
    assert found.mean() == pytest.approx(whole)


def test_drift_names_the_picture_that_falls_out_and_no_other() -> None:
    rng = np.random.default_rng(0)
    styles = rng.normal(size=(24, 6))
    styles[7] += 8
    z = metric.drift(styles, np.ones(24))
    assert int(np.argmax(z)) == 7 and z[7] > 4
    assert (np.delete(z, 7) < 4).all()


def test_drift_by_feature_alone_is_seen_as_well() -> None:
    rng = np.random.default_rng(1)
    distance = 1 + 0.1 * rng.random(20)
    distance[3] = 3.0
    z = metric.drift(np.zeros((20, 0)), distance)
    assert int(np.argmax(z)) == 3 and z[3] > 4


def test_drift_of_too_few_pictures_is_not_judged() -> None:
    assert np.isnan(metric.drift(np.zeros((4, 2)), np.ones(4))).all()
    with pytest.raises(ValueError, match="match"):
        metric.drift(np.zeros((4, 2)), np.ones(3))


def test_draws_of_two_kinds_lie_on_one_line() -> None:
    rng = np.random.default_rng(2)
    kinds = np.where(rng.random((4, 6)) < 0.5, 1.0, -1.0)
    pictures = 0.05 * rng.normal(size=(4, 6, 64)) + kinds[..., None] * np.eye(64)[0]
    mask = np.ones((4, 6), dtype=bool)
    along, share = metric.split(pictures, mask)
    along_0, share_0 = metric.split(0.05 * rng.normal(size=(4, 6, 64)), mask)
    assert share > 0.8 and share_0 < 0.3 and along > 10 * along_0
