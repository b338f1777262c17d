"""Held-out pictures, hashes and duplicates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn

from lora_eval.dataset.folder import Item
from lora_eval.dataset.quality import (
    duplicate_groups,
    edge_width,
    hash_distances,
    look,
    near_duplicates,
    perceptual_hash,
    sharpness,
)
from lora_eval.dataset.split import auto_fraction, split
from lora_eval.errors import ConfigError
from tests.fakes import drawing


def items(count: int) -> list[Item]:
    return [Item(Path(f"{i}.png"), "") for i in range(count)]


def test_a_tenth_is_held_out_from_twenty_pictures_up() -> None:
    assert [auto_fraction(n) for n in (1, 19, 20, 500)] == [0, 0, 0.1, 0.1]
    assert len(split(items(40))[1]) == 4


@given(st.integers(2, 80), st.floats(0.01, 0.5), st.integers(0, 99))
def test_a_split_is_a_partition_of_about_the_size_asked_for(count: int, fraction: float, seed: int) -> None:
    if round(count * fraction) >= count:
        return
    training, held = split(items(count), fraction, seed)
    assert sorted(training + held) == list(range(count))
    assert len(held) == max(round(count * fraction), 1)


@given(st.permutations(range(30)), st.integers(0, 9))
def test_the_choice_follows_the_pictures_not_their_order(order: list[int], seed: int) -> None:
    given_items = items(30)
    plain = {given_items[i].path for i in split(given_items, 0.2, seed)[1]}
    shuffled = [given_items[i] for i in order]
    assert {shuffled[i].path for i in split(shuffled, 0.2, seed)[1]} == plain


@given(st.lists(st.integers(0, 12), min_size=20, max_size=40), st.integers(0, 9))
def test_twins_are_never_torn_apart(groups: list[int], seed: int) -> None:
    training, held = split(items(len(groups)), 0.2, seed, groups=groups)
    assert not {groups[i] for i in training} & {groups[i] for i in held}
    assert training


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"validation_fraction 0\.5 of 1 picture"):
        split(items(1), 0.5)


def test_the_hash_is_that_of_a_plain_dct() -> None:
    grey = np.random.default_rng(0).random((32, 32))
    low = dctn(grey, type=2)[:8, 1:9].ravel()
    # the unnormalised transform differs by positive factors a row and column only in row and column 0
    ours = perceptual_hash(grey)
    steps = np.arange(32)
    full = np.array(
        [
            [(grey * np.outer(np.cos(np.pi * (2 * steps + 1) * u / 64), np.cos(np.pi * (2 * steps + 1) * v / 64))).sum()
             for v in range(1, 9)] for u in range(8)
        ]
    ).ravel()  # fmt: skip
    assert np.array_equal(ours, full > np.median(full))
    assert np.allclose(full * 4, low)


def test_distances_are_hamming() -> None:
    bits = np.random.default_rng(1).random((6, 64)) > 0.5
    expected = (bits[:, None] != bits[None]).sum(-1)
    assert np.array_equal(hash_distances(bits), expected)


@pytest.mark.parametrize(
    "change", ["smaller", "jpeg", "brighter", "exact"], ids=["half the size", "jpeg 60", "brighter by 4 %", "copy"]
)
def test_the_same_picture_in_another_file_is_found(tmp_path: Path, change: str) -> None:
    for seed in range(8):
        drawing(seed, (128, 128)).save(tmp_path / f"{seed}.png")
    twin = drawing(3, (128, 128))
    if change == "smaller":
        twin = twin.resize((64, 64))
    if change == "brighter":
        twin = twin.point(lambda v: min(255, v + 10))
    name = "twin.jpg" if change == "jpeg" else "twin.png"
    twin.save(tmp_path / name, **({"quality": 60} if change == "jpeg" else {}))
    looks = [look(tmp_path / f"{seed}.png") for seed in range(8)] + [look(tmp_path / name)]
    assert near_duplicates(looks) == [(3, 8)]


def test_pictures_that_differ_in_colour_alone_are_no_twins_and_have_contrast(tmp_path: Path) -> None:
    """Red on green and green on red of one brightness are the same in grey, and flat."""
    from PIL import Image

    red, green = (180, 0, 0), (0, 92, 0)
    for name, ground, shape in (("a", red, green), ("b", green, red)):
        image = Image.new("RGB", (64, 64), ground)
        image.paste(shape, (16, 16, 48, 40))
        image.save(tmp_path / f"{name}.png")
    looks = [look(tmp_path / "a.png"), look(tmp_path / "b.png")]
    assert near_duplicates(looks) == []
    assert min(one.contrast for one in looks) > 0.1
    assert all(np.isfinite(one.sharpness) for one in looks)


def test_groups_join_chains_of_duplicates() -> None:
    assert duplicate_groups(6, [(0, 2), (2, 5), (3, 4)]) == [0, 1, 0, 3, 3, 0]


def test_edge_width_is_that_of_the_sharpest_edge_however_few_there_are() -> None:
    from scipy.ndimage import gaussian_filter

    few, many = np.zeros((128, 128)), np.zeros((128, 128))
    few[:, 64:] = 1
    for left in range(0, 128, 32):
        many[:, left : left + 16] = 1
    for grey in (few, many):
        assert edge_width(grey) <= 1.5
        for blur in (2, 4):
            assert edge_width(gaussian_filter(grey, blur)) == pytest.approx(np.sqrt(2 * np.pi) * blur / 2, rel=0.15)
    assert edge_width(np.full((32, 32), 0.5)) == np.inf


def test_sharpness_falls_with_blur_and_ignores_contrast() -> None:
    from scipy.ndimage import gaussian_filter

    grey = np.asarray(drawing(2, (256, 256)).convert("L"), dtype=float) / 255
    values = [sharpness(gaussian_filter(grey, s)) for s in (0, 1, 2, 4, 8)]
    assert values == sorted(values, reverse=True)
    assert sharpness(grey * 0.3 + 0.2) == pytest.approx(sharpness(grey))
    assert sharpness(np.full((64, 64), 0.5)) == -np.inf
