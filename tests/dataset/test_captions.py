"""Captions as text, and captions made by a program."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lora_eval.dataset.autocaption import Group, ZeroShotCaptioner, caption_all, load_terms, save_captions
from lora_eval.dataset.captions import (
    estimate_tokens,
    find_replace,
    has_term,
    prepend_trigger,
    split_tags,
    tag_frequency,
    tidy,
    vary,
)
from lora_eval.dataset.folder import Item, scan
from lora_eval.errors import ConfigError, DatasetError

TAGS = st.lists(st.text("abcdefg ", min_size=1, max_size=6).filter(str.strip).map(str.strip), max_size=8)


@given(TAGS, st.integers(0, 9), st.integers(0, 99))
def test_shuffling_keeps_the_first_tags_in_place_and_loses_none(tags: list[str], keep: int, seed: int) -> None:
    caption = ", ".join(tags)
    shuffled = split_tags(vary(caption, random.Random(seed), shuffle=True, keep_tokens=keep))
    assert shuffled[:keep] == tags[:keep]
    assert sorted(shuffled) == sorted(tags)


@given(TAGS, st.integers(0, 9), st.integers(0, 99))
def test_dropped_tags_leave_the_order_and_never_the_kept_ones(tags: list[str], keep: int, seed: int) -> None:
    rest = split_tags(vary(", ".join(tags), random.Random(seed), keep_tokens=keep, tag_dropout=0.5))
    assert rest[:keep] == tags[:keep]
    remaining = iter(tags)
    assert all(tag in remaining for tag in rest)
    assert split_tags(vary(", ".join(tags), random.Random(seed), keep_tokens=keep, tag_dropout=1.0)) == tags[:keep]


def test_dropout_rates_are_rates() -> None:
    rng = random.Random(0)
    empty = sum(vary("a fox", rng, caption_dropout=0.2) == "" for _ in range(4000))
    assert 0.17 < empty / 4000 < 0.23
    left = sum(len(split_tags(vary("a, b, c, d", rng, tag_dropout=0.25))) for _ in range(2000))
    assert 0.72 < left / 8000 < 0.78


def test_nothing_switched_on_changes_nothing_and_draws_nothing() -> None:
    rng = random.Random(0)
    state = rng.getstate()
    assert vary("a,b ,  c", rng) == "a,b ,  c"
    assert rng.getstate() == state


@pytest.mark.parametrize(
    ("caption", "term", "found"),
    [
        ("a zorp, standing", "zorp", True),
        ("a ZORP.", "zorp", True),
        ("zorpling", "zorp", False),
        ("my red hood", "red hood", True),
        ("c++ code", "c++", True),
        ("(zorp:1.2)", "zorp", True),
    ],
)
def test_terms_are_whole_words(caption: str, term: str, found: bool) -> None:
    assert has_term(caption, term) is found


@given(st.text("abc ,", max_size=20))
def test_the_trigger_goes_in_front_once(caption: str) -> None:
    once = prepend_trigger(caption, "zorp")
    assert once.startswith("zorp") and prepend_trigger(once, "zorp") == once
    assert prepend_trigger(caption, " ") == caption


def test_find_and_replace() -> None:
    captions = ["a red fox, blurry, snow", "an owl", "red, red"]
    assert find_replace(captions, "red", "blue") == ["a blue fox, blurry, snow", "an owl", "blue, blue"]
    assert find_replace(captions, "blurry", "")[0] == "a red fox, snow"
    expected = ["a dark fox, blurry, snow", "an owl", "dark, dark"]
    assert find_replace(captions, r"\bred( fox)?", r"dark\1", regex=True) == expected
    assert find_replace(["a (b)"], "(b)", r"\1")[0] == r"a \1"
    for find, regex in (("", False), ("(", True)):
        with pytest.raises(DatasetError):
            find_replace(captions, find, "x", regex)


@given(st.text("ab ,", max_size=20))
def test_tidy_is_idempotent(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)


# counts of CLIP's own tokenizer (openai/clip-vit-large-patch14), start and end not counted
KNOWN = {
    "a photo of a cat": 5,
    "a young girl with red hood, standing in a forest, foggy morning": 14,
    "1girl, solo, long hair, looking at viewer": 11,
    "blurry, deformed hands, extra limbs": 8,
}


@pytest.mark.parametrize("text", KNOWN)
def test_estimated_tokens_are_near_clip_s(text: str) -> None:
    assert abs(estimate_tokens(text) - KNOWN[text]) <= 2


def test_estimates_agree_with_the_tokenizer_where_it_is_installed() -> None:
    tokenizer = pytest.importorskip("open_clip.tokenizer").SimpleTokenizer()
    for text in (*KNOWN, "oil painting of a lighthouse at dusk, impasto, thick brushstrokes, golden hour"):
        true = len(tokenizer.encode(text))
        assert KNOWN.get(text, true) == true
        assert abs(estimate_tokens(text) - true) <= max(2, 0.2 * true)


def test_tag_frequency_is_kohya_s_table() -> None:
    items = [Item(Path("10_fox/a.png"), "fox, Snow"), Item(Path("10_fox/b.png"), "fox"), Item(Path("reg/c.png"), "owl")]
    assert tag_frequency(items) == {"10_fox": {"fox": 2, "snow": 1}, "reg": {"owl": 1}}


# -- captions made by a program ---------------------------------------------------------------------


class Colours:
    """Features are colours: a picture's mean, a text's by its words."""

    def embed_images(self, images: Iterable[Image.Image]) -> np.ndarray:
        found = np.stack([np.asarray(image, np.float32).mean((0, 1)) for image in images])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        named = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
        return np.array([next(v for k, v in named.items() if k in text) for text in texts], np.float32)


GROUPS = [Group("colour", "a {} picture", ("red", "green", "blue"))]


def painted(folder: Path, **colours: tuple[int, int, int]) -> Path:
    for name, colour in colours.items():
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
    return folder


def test_the_nearest_term_is_said_when_it_is_sure() -> None:
    captioner = ZeroShotCaptioner(Colours(), GROUPS, sure=0.6)
    assert captioner(Image.new("RGB", (8, 8), (10, 200, 10))) == "green"
    assert captioner(Image.new("RGB", (8, 8), (100, 100, 100))) == "", "three equal chances are not sure"


def test_captions_fill_gaps_and_are_written_where_captions_are(tmp_path: Path) -> None:
    painted(tmp_path, a=(255, 0, 0), b=(0, 0, 255))
    (tmp_path / "b.txt").write_text("by hand")
    captioner = ZeroShotCaptioner(Colours(), GROUPS)
    items = caption_all(scan(tmp_path), captioner, trigger="zorp")
    assert [item.caption for item in items] == ["zorp, red", "zorp, by hand"]
    assert not (tmp_path / "a.txt").exists(), "nothing is written before a person has seen it"
    assert [path.name for path in save_captions(scan(tmp_path), items)] == ["a.txt", "b.txt"]
    assert [item.caption for item in scan(tmp_path).items] == ["zorp, red", "zorp, by hand"]
    assert [item.caption for item in caption_all(scan(tmp_path), captioner, overwrite=True)] == ["red", "blue"]


def test_a_folder_without_captions_gets_a_table(tmp_path: Path) -> None:
    painted(tmp_path, a=(255, 0, 0), b=(0, 255, 0))
    items = caption_all(scan(tmp_path), ZeroShotCaptioner(Colours(), GROUPS))
    assert save_captions(scan(tmp_path), items) == [tmp_path / "metadata.csv"]
    assert (tmp_path / "metadata.csv").read_text() == "file_name,prompt\na.png,red\nb.png,green\n"


def test_the_shipped_terms_are_well_formed(tmp_path: Path) -> None:
    groups = load_terms()
    assert {group.name for group in groups} >= {"subject", "view", "action", "place", "light"}
    for group in groups:
        assert group.prompt.count("{}") == 1 and len(set(group.terms)) == len(group.terms) >= 5
    (tmp_path / "t.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="no list of caption terms"):
        load_terms(tmp_path / "t.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_terms(tmp_path / "none.yaml")
