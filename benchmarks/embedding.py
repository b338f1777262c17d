"""Is measuring pictures slower than a bare open_clip loop? Pictures a second of both, for two encoders.

    python -m benchmarks embedding [--rounds 7] [--pictures 16]

The bare loop is open_clip's own preprocessing, picture by picture, then ``encode_image`` on the stacked batch and a
division by the norm. Rounds of the two alternate in one process; each ratio is of neighbouring rounds. ViT-B-32 has
random weights: speed does not depend on them. That both give the same features is checked on the way.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from benchmarks.training import now, since
from lora_eval.encoders.clip import TINY, OpenClipEncoder
from lora_eval.encoders.protocol import Encoder
from lora_eval.encoders.registry import load_encoder

# cosine of the two features of one picture: torch's and numpy's rounding, nothing more
SAME = 0.9999


def bare(model: Any, batch: int, device: str = "cpu") -> Callable[[list[Image.Image]], np.ndarray]:
    """The loop that open_clip's README shows, in batches."""
    size = model.visual.image_size
    transform = open_clip.image_transform(
        size[0] if isinstance(size, (tuple, list)) else size,
        is_train=False,
        mean=getattr(model.visual, "image_mean", None),
        std=getattr(model.visual, "image_std", None),
    )

    def embed(images: list[Image.Image]) -> np.ndarray:
        found = []
        for start in range(0, len(images), batch):
            pixels = torch.stack([transform(image) for image in images[start : start + batch]]).to(device)
            with torch.no_grad():
                features = model.encode_image(pixels)
                found.append((features / features.norm(dim=-1, keepdim=True)).cpu().numpy())
        return np.concatenate(found)

    return embed


def vit(batch: int) -> OpenClipEncoder:
    """A ViT-B-32 at 224 px with random weights."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", pretrained=None)
    return OpenClipEncoder(model, open_clip.get_tokenizer("ViT-B-32"), "random", "cpu", batch)


def pictures(count: int, side: int) -> list[Image.Image]:
    """Smooth random pictures, larger than the encoder's own size as drawn ones are."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in small]


def compare(name: str, encoder: Encoder, images: list[Image.Image], rounds: int) -> float:
    """Print one encoder's figures; returns the ratio of throughputs by the processor's time, ours over the bare loop's.

    Raises:
        ValueError: the two do not give the same features.
    """
    other = bare(encoder._model, encoder.batch_size)
    cosine = float((encoder.embed_images(images) * other(images)).sum(axis=1).min())
    if cosine < SAME:
        raise ValueError(f"{name}: the features differ (cosine {cosine:.5f}); the speeds cannot be compared")
    ours, others = [], []
    for number in range(rounds):
        # who goes first alternates: the second finds the pictures in the processor's cache
        for mine in (True, False) if number % 2 else (False, True):
            began = now()
            (encoder.embed_images if mine else other)(images)
            (ours if mine else others).append(since(began))
    print(f"{name}: {len(images)} pictures of {images[0].width} px, batch {encoder.batch_size}, n = {rounds} rounds")
    medians = []
    for place, what in enumerate(("processor", "clock")):
        rates = [[len(images) / one[place] for one in all_] for all_ in (ours, others)]
        ratios = [a / b for a, b in zip(*rates, strict=True)]
        medians.append(statistics.median(ratios))
        print(
            f"  pictures a second by the {what}: ours {statistics.median(rates[0]):.1f}, bare "
            f"{statistics.median(rates[1]):.1f}; ours / bare {medians[-1]:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return medians[0]


def main(argv: list[str]) -> int:
    """Print both encoders; 0 when neither has less than 0.9 of the bare loop's throughput."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks embedding")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--pictures", type=int, default=16, help="for the large encoder; the tiny one gets 16 times as many"
    )
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args(argv)
    tiny = load_encoder(TINY, batch_size=options.batch)
    ratios = [
        compare("tiny-clip", tiny, pictures(16 * options.pictures, 64), options.rounds),
        compare("ViT-B-32, random weights", vit(options.batch), pictures(options.pictures, 512), options.rounds),
    ]
    return 0 if min(ratios) >= 0.9 else 1
