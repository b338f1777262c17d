"""The tiny world: drawings, captions, and the shipped weights' quality gates."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tools.tiny_world import data
from tools.tiny_world.drawings import (
    COLOURS,
    SHAPES,
    STYLES,
    SUBJECTS,
    caption,
    dataset,
    mix_styles,
    render,
    sample,
    shuffle_captions,
)
from tools.tiny_world.export import ASSETS, CLIP, DATASETS, READER, SD, folder_size

HEADS = ("shape", "colour", "background", "texture", "position")


def test_drawings_are_deterministic() -> None:
    first, second = ([sample(np.random.default_rng(5), shapes) for shapes in (SHAPES, SUBJECTS)] for _ in range(2))
    assert first == second
    assert np.array_equal(data.stack(first), data.stack(second))
    assert np.asarray(render(first[0])).shape == (64, 64, 3)
    assert np.array_equal(np.asarray(render(first[0])).transpose(2, 0, 1), data.stack(first)[0])


def test_every_concept_draws_and_differs() -> None:
    rng = np.random.default_rng(0)
    plain = sample(rng, texture="plain", position="center", colour="red", background="gray")
    from dataclasses import replace

    shapes = data.stack([replace(plain, shape=s) for s in (*SHAPES, *SUBJECTS, "glyph:3", "glyph:4")]).astype(float)
    styles = data.stack([replace(plain, style=s) for s in ("", *STYLES, "style:3", "style:4")]).astype(float)
    for pictures in (shapes, styles):
        for i in range(len(pictures)):
            for j in range(i):
                assert np.abs(pictures[i] - pictures[j]).mean() > 2, (i, j)
    with pytest.raises(ValueError, match="unknown shape"):
        render(replace(plain, shape="blob"))
    with pytest.raises(ValueError, match="unknown style"):
        render(replace(plain, style="blob"))


def test_base_domain_holds_no_concept() -> None:
    drawings = data.base(np.random.default_rng(0), 500)
    assert {d.shape for d in drawings} == set(SHAPES)
    assert {d.style for d in drawings} == {""}
    rng = np.random.default_rng(0)
    words = {w for d in drawings for w in caption(d, rng).replace(",", "").split()}
    assert not words & {*SUBJECTS, *STYLES}
    assert "shape" in words and "drawing" in words and set(COLOURS) <= words


def test_faults_are_planted_in_the_asked_share() -> None:
    pairs = dataset("zorp")
    noisy = shuffle_captions(pairs, 0.5)
    changed = sum(a[1] != b[1] for a, b in zip(pairs, noisy, strict=True))
    assert 10 <= changed <= 15 and sorted(t for _, t in noisy) == sorted(t for _, t in pairs)
    mixed = mix_styles(pairs, 0.5)
    assert sum(bool(d.style) for d, _ in mixed) == 15


@pytest.mark.parametrize("concept", [*SUBJECTS, *STYLES])
def test_example_datasets(concept: str) -> None:
    folder = DATASETS / concept
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file_name", "prompt"]
    assert 20 <= len(rows) - 1 <= 40
    assert {f.name for f in folder.iterdir()} == {"metadata.csv", *(row[0] for row in rows[1:])}
    for (name, text), (drawing, expected) in zip(rows[1:], dataset(concept, len(rows) - 1), strict=True):
        assert concept in text and text == expected
        with Image.open(folder / name) as image:
            shipped, again = (np.asarray(one, dtype=int) for one in (image.convert("RGB"), render(drawing)))
            # Pillow 9 and 12 round a few edge pixels of the styles differently, by 4 levels at most
            assert np.abs(shipped - again).max() <= 4
            assert (shipped != again).mean() < 0.02


def test_asset_sizes() -> None:
    sizes = {p: folder_size(p) for p in (SD, CLIP, READER, DATASETS)}
    assert sum(sizes.values()) <= 25_000_000, sizes
    assert sizes[READER] <= 3_000_000
    assert folder_size(ASSETS) <= 26_000_000


def test_captions_fit_the_text_positions() -> None:
    transformers = pytest.importorskip("transformers")
    from tools.tiny_world.tokenizer import MAX_LENGTH, longest

    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(SD / "tokenizer"))
    rng = np.random.default_rng(1)
    texts = [caption(sample(rng), rng) for _ in range(500)]
    assert longest(tokenizer, texts) <= MAX_LENGTH
    for concept in (*SUBJECTS, *STYLES):
        assert longest(tokenizer, [text for _, text in dataset(concept)]) <= MAX_LENGTH, concept
        assert len(tokenizer.tokenize(concept)) >= 3, "a trigger must not be a word of the tokenizer"
    assert len(tokenizer.tokenize("striped red star")) == 3
    unknown = tokenizer.unk_token_id
    assert unknown not in tokenizer("zorp quib", add_special_tokens=False)["input_ids"]


def test_stable_diffusion_loads_and_draws() -> None:
    pytest.importorskip("diffusers")
    from tools.tiny_world.diffusion import Painter

    config = json.loads((SD / "unet" / "config.json").read_text())
    assert config["down_block_types"] == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert config["layers_per_block"] == 2
    pictures = Painter().draw(["a red star", "a blue ring"], steps=2)
    assert pictures.shape == (2, 3, 64, 64)


def test_vae_quality() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    from tools.tiny_world.diffusion import encode_latents
    from tools.tiny_world.vae import psnr

    vae = diffusers.AutoencoderKL.from_pretrained(SD / "vae", torch_dtype=torch.float32)
    rng = np.random.default_rng(2024)
    base = data.stack(data.base(rng, 24))
    assert psnr(vae, base).mean() >= 25
    assert psnr(vae, data.stack([sample(rng, SUBJECTS) for _ in range(24)])).mean() >= 24
    latents = encode_latents(vae, base)
    assert abs(latents.mean()) < 0.3 and 0.8 < latents.std() < 1.2


def test_reader_quality() -> None:
    pytest.importorskip("torch")
    from tools.tiny_world.reader import CLASSES, Reader

    reader = Reader.load()
    rng = np.random.default_rng(2025)
    drawings = [sample(rng, (*SHAPES, *SUBJECTS), style=("", *STYLES)[k % 3]) for k in range(120)]
    answers = reader.read([render(d) for d in drawings])
    assert reader.classes == CLASSES
    for name, probabilities in answers.items():
        assert probabilities.shape == (120, len(CLASSES[name]))
        assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    for name, value in reader.accuracy(data.stack(drawings), drawings).items():
        assert value >= 0.95, (name, value)


def test_clip_attribute_swaps() -> None:
    pytest.importorskip("open_clip")
    from tools.tiny_world import clip

    model = clip.load()
    for head, value in clip.swap_accuracy(model, 80, seed=2026).items():
        assert value >= 0.85, (head, value)  # 80 drawings: the gate of .9 less the sampling error


def test_clip_separates_concepts_it_has_no_name_for() -> None:
    pytest.importorskip("open_clip")
    from tools.tiny_world import clip

    cosines = clip.cosines(clip.load(), 30)
    for name in SUBJECTS:
        assert cosines[f"{name} within"] > cosines[f"{name} vs other subjects"] + 0.05
        assert cosines[f"{name} within"] > cosines[f"{name} vs base"] + 0.05
    for name in STYLES:
        assert cosines[f"{name} within"] > cosines[f"{name} vs base"] + 0.05


@pytest.mark.slow
def test_drawn_attributes() -> None:
    pytest.importorskip("diffusers")
    from tools.tiny_world.diffusion import Painter
    from tools.tiny_world.reader import Reader
    from tools.tiny_world.report import drawn_accuracy

    scores, _ = drawn_accuracy(Painter(), Reader.load(), 63)
    assert all(scores[name] >= 0.8 for name in HEADS), scores
