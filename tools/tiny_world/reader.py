"""Attribute reader: says what is drawn. Ground truth of tests, no part of the product's metrics."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from . import data
from .drawings import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, STYLES, SUBJECTS, TEXTURES, Drawing, sample
from .export import READER, SD

CLASSES: dict[str, tuple[str, ...]] = {
    "shape": (*SHAPES, *SUBJECTS, "other"),
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "texture": TEXTURES,
    "position": tuple(POSITIONS),
    "style": ("plain drawing", *STYLES),
}
STEPS, BATCH, DRAWINGS = 1800, 64, 18000


class ReaderNet(nn.Module):
    """Residual CNN on (N, 3, 64, 64) in -1..1; one linear head per attribute."""

    def __init__(self, width: int = 28, heads: dict[str, int] | None = None) -> None:
        super().__init__()
        heads = heads or {name: len(values) for name, values in CLASSES.items()}
        self.stem = nn.Sequential(nn.Conv2d(3, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        stages, at = [], width
        for out in (width * 2, width * 3, width * 4):
            stages.append(_Block(at, out, 2))
            stages.append(_Block(out, out, 1))
            at = out
        self.stages = nn.Sequential(*stages)
        # the 4x4 places are kept apart up to here: position and pattern need them
        self.neck = nn.Sequential(nn.Flatten(), nn.Linear(at * 16, 192), nn.ReLU(), nn.Dropout(0.1))
        self.heads = nn.ModuleDict({name: nn.Linear(192, count) for name, count in heads.items()})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.neck(self.stages(self.stem(x)))
        return {name: head(features) for name, head in self.heads.items()}


class _Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.skip = nn.Conv2d(inner, outer, 1, stride, bias=False) if stride > 1 or inner != outer else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.skip(x))


def labels(drawings: list[Drawing]) -> dict[str, torch.Tensor]:
    """Class indices per head; -1 where the reader has no such class (random styles)."""
    out: dict[str, list[int]] = {name: [] for name in CLASSES}
    for drawing in drawings:
        for name, value in drawing.attributes.items():
            if value.startswith("glyph:"):
                value = "other"
            out[name].append(CLASSES[name].index(value) if value in CLASSES[name] else -1)
    return {name: torch.tensor(values) for name, values in out.items()}


class Reader:
    """Loaded reader; ``classes`` maps each head to its class names in output order."""

    def __init__(self, net: ReaderNet, classes: dict[str, tuple[str, ...]]) -> None:
        self.net, self.classes = net.eval(), classes

    @classmethod
    def load(cls, folder: Path = READER) -> Reader:
        """Load config.json and model.safetensors (fp16, computed in fp32)."""
        config = json.loads((folder / "config.json").read_text())
        net = ReaderNet(config["width"], {name: len(values) for name, values in config["classes"].items()})
        net.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in load_file(folder / "model.safetensors").items()}
        )
        return cls(net, {name: tuple(values) for name, values in config["classes"].items()})

    @torch.no_grad()
    def read(self, images: list[Image.Image]) -> dict[str, np.ndarray]:
        """Probabilities (N, classes) per head; pictures of any size are resized to 64x64."""
        pixels = [np.asarray(i.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)) for i in images]
        return self.read_array(np.stack(pixels).transpose(0, 3, 1, 2))

    @torch.no_grad()
    def read_array(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """The same from uint8 (N, 3, 64, 64)."""
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.classes}
        for at in range(0, len(pixels), 128):
            x = torch.from_numpy(np.ascontiguousarray(pixels[at : at + 128])).float() / 127.5 - 1
            for name, logits in self.net(x).items():
                parts[name].append(logits.softmax(-1).numpy())
        return {name: np.concatenate(values) for name, values in parts.items()}

    def accuracy(self, pixels: np.ndarray, drawings: list[Drawing]) -> dict[str, float]:
        """Share of right answers per head (labels of -1 left out)."""
        truth = labels(drawings)
        return {
            name: float((p.argmax(1) == truth[name].numpy())[truth[name].numpy() >= 0].mean())
            for name, p in self.read_array(pixels).items()
        }


def _mixture(rng: np.random.Generator, count: int) -> list[Drawing]:
    """Base 40 %, subjects 25 %, random glyphs 13 %, the two styles 22 %."""
    out = []
    for _ in range(count):
        u = rng.random()
        glyph = (f"glyph:{int(rng.integers(1 << 20))}",)
        shapes = SHAPES if u < 0.4 else SUBJECTS if u < 0.65 else glyph if u < 0.78 else (*SHAPES, *SUBJECTS, *glyph)
        drawing = sample(rng, shapes)
        out.append(replace(drawing, style=STYLES[int(rng.integers(2))]) if u >= 0.78 else drawing)
    return out


def _degrade(x: torch.Tensor) -> torch.Tensor:
    """Blur, noise, block-wise quantisation and colour drift on (N, 3, 64, 64) in -1..1, each on a random half."""

    def some(share: float) -> torch.Tensor:
        return (torch.rand(len(x), 1, 1, 1) < share).float()

    mask = some(0.4)
    x = x + mask * (F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1) - x)
    mask = some(0.15)
    small = F.interpolate(x, size=32, mode="area")
    x = x + mask * (F.interpolate(small, size=64, mode="bilinear") - x)
    x = x + some(0.5) * 0.25 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)
    blotch = F.interpolate(torch.randn(len(x), 3, 16, 16), size=64, mode="bilinear")
    x = x + some(0.4) * 0.2 * torch.rand(len(x), 1, 1, 1) * blotch
    x = x * (1 + 0.06 * torch.randn(len(x), 1, 1, 1)) + 0.05 * torch.randn(len(x), 3, 1, 1)
    return x.clamp(-1, 1)


@torch.no_grad()
def _roundtrips(pixels: np.ndarray) -> np.ndarray | None:
    """VAE decodes of slightly noised latents, uint8; None when there is no VAE yet."""
    from diffusers import AutoencoderKL

    from .vae import to_unit

    if not (SD / "vae" / "config.json").exists():
        return None
    vae = AutoencoderKL.from_pretrained(SD / "vae", torch_dtype=torch.float32).eval()
    out = []
    for chunk in np.array_split(pixels, max(1, len(pixels) // 64)):
        z = vae.encode(to_unit(chunk)).latent_dist.mode()
        z = z + torch.rand(len(z), 1, 1, 1) * 0.25 * z.std() * torch.randn_like(z)
        out.append(((vae.decode(z).sample.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy())
    return np.concatenate(out)


def save(net: ReaderNet, width: int, out: Path = READER) -> None:
    """Write fp16 weights and the config."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in net.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    (out / "config.json").write_text(json.dumps({"width": width, "classes": CLASSES}, indent=2))


def train(
    out: Path = READER, seed: int = 0, steps: int = STEPS, log: float = 30.0, width: int = 28
) -> dict[str, float]:
    """Cross-entropy over all heads on degraded drawings and VAE round trips; returns held-out accuracy."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + 11)
    drawings = _mixture(rng, DRAWINGS)
    pixels = data.stack(drawings)
    truth = labels(drawings)
    third = DRAWINGS // 3
    decoded = _roundtrips(pixels[:third])
    if decoded is not None:
        pixels[:third] = decoded
    held = _mixture(np.random.default_rng(seed + 12), 800)
    held_pixels = data.stack(held)
    net = ReaderNet(width)
    reader = Reader(net, CLASSES)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    start, last = time.time(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * step / steps)))
        rows = rng.integers(0, DRAWINGS, BATCH)
        x = torch.from_numpy(pixels[rows]).float() / 127.5 - 1
        keep = x[::4].clone()  # a quarter stays clean
        x = _degrade(x)
        x[::4] = keep
        net.train()
        logits = net(x)
        loss = sum(F.cross_entropy(v, truth[k][rows], ignore_index=-1, label_smoothing=0.02) for k, v in logits.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if time.time() - last > log:
            last = time.time()
            net.eval()
            scores = reader.accuracy(held_pixels, held)
            print(f"reader {step + 1}/{steps} {last - start:.0f} s loss {loss.item():.3f}", _table(scores), flush=True)
    net.eval()
    save(net, width, out)
    scores = Reader.load(out).accuracy(held_pixels, held)
    print(f"reader done in {time.time() - start:.0f} s", _table(scores), flush=True)
    return scores


def _table(scores: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in scores.items())
