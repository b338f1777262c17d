"""Infotext: what is written is read back, and what the WebUIs write is understood."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lora_eval.errors import RunError
from lora_eval.host.png import save_png
from lora_eval.host.protocol import Drawn
from lora_eval.reading.infotext import Infotext, quote, read_infotext, read_png, unquote, write_infotext

SETTINGS = {"Steps": 20, "Sampler": "Euler", "CFG scale": 7, "Seed": 1, "Size": "64x64"}
AS_TEXT = {name: str(value) for name, value in SETTINGS.items()}

# written by AUTOMATIC1111 1.10.1
A1111 = (
    "a cat, (masterpiece:1.2) <lora:style:0.7>\nsecond line\nNegative prompt: blurry, bad\n"
    "Steps: 8, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.0, Seed: 5, Size: 64x64, "
    'Model hash: 968c887e99, Model: tiny_sd1, Clip skip: 2, Lora hashes: "style: 0123456789ab, other: ba9876543210", '
    "Version: 1.10.1"
)


def test_form_is_the_webuis() -> None:
    text = write_infotext("a cat", "blurry", {**SETTINGS, "Lora hashes": "a: 12", "Clip skip": None})
    assert text == (
        "a cat\nNegative prompt: blurry\n"
        'Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, Lora hashes: "a: 12"'
    )


def test_without_negative_prompt_there_is_no_such_line() -> None:
    assert "Negative" not in write_infotext("a cat", "", SETTINGS)


def test_reads_the_webuis_own() -> None:
    read = read_infotext(A1111)
    assert read.prompt == "a cat, (masterpiece:1.2) <lora:style:0.7>\nsecond line"
    assert read.negative_prompt == "blurry, bad"
    assert read.parameters["Sampler"] == "DPM++ 2M"
    assert read.parameters["Clip skip"] == "2"
    assert read.parameters["Version"] == "1.10.1"
    assert read.lora_hashes == {"style": "0123456789ab", "other": "ba9876543210"}


def test_text_without_settings_is_all_prompt() -> None:
    assert read_infotext("a cat\nSeed: 3, or so") == Infotext("a cat\nSeed: 3, or so")
    assert read_infotext("") == Infotext("")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("Euler", "Euler"),
        ("a: b", '"a: b"'),
        ("a, b", '"a, b"'),
        ("two\nlines", '"two\\nlines"'),
        ('say "x"', '"say \\"x\\""'),
        ("猫", "猫"),
    ],
)
def test_ambiguous_values_are_quoted(value: str, written: str) -> None:
    assert quote(value) == written
    assert unquote(written) == value


prompts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r")).filter(
    lambda text: not any(line.startswith("Negative prompt:") for line in text.split("\n"))
)
names = st.sampled_from(["Model", "Lora hashes", "Schedule type", "Hires prompt", "Version"])


@given(
    prompts,
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r")),
    st.dictionaries(names, st.text(st.characters(blacklist_categories=("Cs",)))),
)
def test_round_trip(prompt: str, negative: str, more: dict[str, str]) -> None:
    text = write_infotext(prompt, negative, {**SETTINGS, **more})
    assert read_infotext(text) == Infotext(prompt, negative, {**AS_TEXT, **more})


def test_png_carries_it_unchanged(tmp_path: Path) -> None:
    drawn = Drawn(Image.new("RGB", (8, 8), (1, 2, 3)), write_infotext("猫, a cat", "坏", SETTINGS))
    save_png(tmp_path / "a.png", drawn)
    assert read_png(tmp_path / "a.png") == drawn.infotext
    with Image.open(tmp_path / "a.png") as image:
        assert image.tobytes() == drawn.image.tobytes()


def test_picture_without_infotext_has_an_empty_one(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert read_png(tmp_path / "a.png") == ""


def test_cut_off_picture_is_named(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", Drawn(Image.effect_noise((64, 64), 50).convert("RGB"), "x"))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"b\.png"):
        read_png(tmp_path / "b.png")
    with pytest.raises(RunError, match=r"c\.png is missing"):
        read_png(tmp_path / "c.png")
