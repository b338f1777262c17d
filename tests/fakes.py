"""A host whose Stable Diffusion is a few thousand numbers: quick, seeded, no diffusers.

It obeys ``lora_eval.host.protocol`` and has UNet paths as SD1 spells them, so that training can be tested to the
bit in milliseconds. Its "VAE" averages 8x8 pixels, its "text encoder" looks words up by their hash.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from lora_eval.host.protocol import (
    BorrowedModel,
    Conditioning,
    Drawn,
    Host,
    HostInfo,
    ImageRequest,
    Job,
    LoraUse,
    ModelInfo,
    Sampling,
)
from lora_eval.lora.adapter_match import LoraFit

WIDTH = 24
CONTEXT = 16
POSITIONS = 8


class Attention(nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.to_k = nn.Linear(context, WIDTH, bias=False)
        self.to_v = nn.Linear(context, WIDTH, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Dropout(0.0)])

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        source = x if context is None else context
        weights = (self.to_q(x) @ self.to_k(source).transpose(1, 2) / WIDTH**0.5).softmax(-1)
        return self.to_out[0](weights @ self.to_v(source))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1 = Attention(WIDTH)
        self.attn2 = Attention(CONTEXT)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        x = x + self.attn1(x)
        return x + self.attn2(x, context)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(WIDTH, WIDTH, 1)
        self.transformer_blocks = nn.ModuleList([Block()])
        self.proj_out = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        h = self.proj_in(x)
        tokens = h.flatten(2).transpose(1, 2)
        tokens = self.transformer_blocks[0](tokens, context)
        return x + self.proj_out(tokens.transpose(1, 2).reshape(h.shape))


class Resnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * self.conv1(x)


class Level(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([Resnet()])
        self.attentions = nn.ModuleList([Transformer()])

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return self.attentions[0](self.resnets[0](x), context)


class FakeUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, WIDTH, 1)
        self.time = nn.Linear(2, WIDTH)
        self.down_blocks = nn.ModuleList([Level()])
        self.mid_block = Level()
        self.conv_out = nn.Conv2d(WIDTH, 4, 1)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        t = timesteps.float()[:, None] / 1000
        h = self.conv_in(x) + self.time(torch.cat([t, 1 - t], 1))[:, :, None, None]
        h = self.mid_block(self.down_blocks[0](h, context), context)
        return self.conv_out(h)


class FakeBorrowed(BorrowedModel):
    layout = "diffusers"

    def __init__(self, unet: FakeUNet, family: str, prediction: str) -> None:
        self.unet, self.family, self.prediction = unet, family, prediction
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.alphas_cumprod = torch.cumprod(1 - betas, 0).float()
        self.device = torch.device("cpu")
        self.compute_dtype = torch.float32
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], None]] = {}
        self.checkpointing = False
        self.poison: Callable[[torch.Tensor], torch.Tensor] | None = None

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.before:
            self.before[name]()

    def encode_text(self, prompts: Sequence[str], width: int, height: int) -> Conditioning:
        self._called("encode_text")
        words = [prompt.split() for prompt in prompts]
        chunks = max(max(-(-len(w) // POSITIONS) for w in words), 1)
        rows = [[_word(w[i] if i < len(w) else "") for i in range(chunks * POSITIONS)] for w in words]
        vector = torch.tensor([[width, height]] * len(prompts)) / 100 if self.family == "sdxl" else None
        return Conditioning(torch.stack([torch.stack(row) for row in rows]), vector)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        self._called("encode_images")
        small = nn.functional.avg_pool2d(pixels * 2 - 1, 8)
        return torch.cat([small, small.mean(1, keepdim=True)], 1)

    def denoise(self, noisy: torch.Tensor, timesteps: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        self._called("denoise")
        predicted = self.unet(noisy, timesteps, cond.context)
        return predicted if self.poison is None else self.poison(predicted)

    def draw(self, requests: Sequence[ImageRequest], sampling: Sampling) -> list[Drawn]:
        self._called("draw")
        with torch.no_grad():
            drawn = []
            for one in requests:
                noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(one.seed))
                cond = self.encode_text([one.prompt], sampling.width, sampling.height)
                out = self.unet(noise, torch.tensor([500]), cond.context)[0, :3].clamp(-1, 1)
                pixels = ((out.permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)
                drawn.append(Drawn(Image.fromarray(pixels), f"{one.prompt}\nSeed: {one.seed}"))
        return drawn

    def gradient_checkpointing(self, enabled: bool) -> None:
        self.checkpointing = enabled


def _word(word: str) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
    return torch.randn(CONTEXT, generator=torch.Generator().manual_seed(seed))


class FakeHost(Host):
    """See the module. ``borrowed`` is the last loan, kept for looking at."""

    def __init__(self, folder: Path, family: str = "sd1", prediction: str = "epsilon", seed: int = 0) -> None:
        self._folder = folder
        self.unet = make_unet(seed)
        self._info = ModelInfo("fake", f"{seed:064x}", family, prediction)
        self.borrowed: FakeBorrowed | None = None
        self.prepare: Callable[[FakeBorrowed], None] = lambda borrowed: None
        self.refreshed = 0
        self.jobs: list[Job] = []

    def info(self) -> HostInfo:
        return HostInfo("fake", "1", "cpu")

    def model(self) -> ModelInfo:
        return self._info

    @property
    def lora_folder(self) -> Path:
        return self._folder / "Lora"

    @property
    def output_folder(self) -> Path:
        return self._folder / "outputs"

    def samplers(self) -> list[str]:
        return ["Euler"]

    def native_size(self) -> tuple[int, int]:
        return 64, 64

    def generate(
        self, requests: Sequence[ImageRequest], sampling: Sampling, lora: LoraUse | None = None
    ) -> list[Drawn]:
        raise NotImplementedError("training never draws through the host")

    def check_lora(self, path: Path) -> LoraFit:
        raise NotImplementedError("training never asks the host to check")

    @contextmanager
    def job(self, title: str, total: int) -> Iterator[Job]:
        self.jobs.append(Job(title, total))
        yield self.jobs[-1]

    @contextmanager
    def borrow_model(self) -> Iterator[FakeBorrowed]:
        flags = [(parameter, parameter.requires_grad) for parameter in self.unet.parameters()]
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        self.borrowed = FakeBorrowed(self.unet, self._info.family, self._info.prediction)
        self.prepare(self.borrowed)
        try:
            yield self.borrowed
        finally:
            for parameter, wanted in flags:
                parameter.requires_grad_(wanted)

    def refresh_loras(self) -> None:
        self.refreshed += 1


def make_unet(seed: int = 0) -> FakeUNet:
    """Random weights from a seed, the global generator left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FakeUNet().eval()


def hooks_on(module: nn.Module) -> int:
    """Number of forward and backward hooks anywhere in a module."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(one, table)) for one in module.modules() for table in tables)


def drawing(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A sharp picture unlike those of other seeds: shapes in many places, dark and light."""
    rng = random.Random(seed)
    width, height = size
    image = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for _ in range(14):
        x, y = rng.randrange(-width // 4, width), rng.randrange(-height // 4, height)
        box = (x, y, x + rng.randrange(width // 6, width // 2), y + rng.randrange(height // 6, height // 2))
        shape = pen.rectangle if rng.random() < 0.5 else pen.ellipse
        shape(box, fill=tuple(rng.choice((0, 60, 128, 200, 255)) for _ in range(3)))
    return image


_WORDS = {
    "who": ["fox", "owl", "boat", "lamp", "tree", "kite", "drum", "bell"],
    "doing": ["standing", "turning", "floating", "resting", "waiting", "falling"],
    "where": ["meadow", "harbour", "street", "cellar", "desert", "snow"],
    "light": ["dawn", "noon", "dusk", "midnight", "fog", "sunshine"],
}


def caption(seed: int, trigger: str = "") -> str:
    """A caption unlike its neighbours' in which no word is common to most."""
    rng = random.Random(seed + 1000)
    text = " ".join(rng.choice(words) for words in _WORDS.values())
    return f"{trigger} {text}".strip()


TOY: dict[str, Any] = {
    "name": "toy",
    "epochs": 100,
    "batch_size": 3,
    "learning_rate": 5e-3,
    "validation_fraction": 0.25,
    "save_dtype": "fp32",
    "lora_rank": 4,
}
"""Settings of a training on :func:`write_dataset` that takes part of a second; it still wants an end and steps."""


def write_dataset(
    folder: Path, count: int = 6, size: tuple[int, int] = (64, 64), trigger: str = "", **table: Any
) -> Path:
    """A folder of drawings with ``metadata.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file_name,prompt"]
    for number in range(count):
        drawing(number, size).save(folder / f"{number:02d}.png")
        lines.append(f'{number:02d}.png,"{caption(number, trigger)}"')
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
