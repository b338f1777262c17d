"""A small UNet written twice by hand, as diffusers and as the original code spell it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

WIDTH, CONTEXT = 8, 6


class ForgeLinear(nn.Module):
    """As Forge's: linear, yet no ``nn.Linear``."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / in_features**0.5)
        self.bias = nn.Parameter(torch.randn(out_features) * 0.1) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


class Attention(nn.Module):
    def __init__(self, linear: Any, context: int) -> None:
        super().__init__()
        self.to_q = linear(WIDTH, WIDTH, bias=False)
        self.to_k = linear(context, WIDTH, bias=False)
        self.to_v = linear(context, WIDTH, bias=False)
        self.to_out = nn.ModuleList([linear(WIDTH, WIDTH), nn.Dropout(0.0)])

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        found = F.scaled_dot_product_attention(self.to_q(x), self.to_k(context), self.to_v(context))
        return self.to_out[0](found)


class Gate(nn.Module):
    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.proj = linear(WIDTH, 4 * WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.proj(x).chunk(2, dim=-1)
        return left * F.gelu(right)


class Feed(nn.Module):
    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.net = nn.ModuleList([Gate(linear), nn.Dropout(0.0), linear(2 * WIDTH, WIDTH)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net[2](self.net[0](x))


class Transformer(nn.Module):
    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.attn1, self.attn2, self.ff = Attention(linear, WIDTH), Attention(linear, CONTEXT), Feed(linear)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        inner = self.norm1(x)
        x = x + self.attn1(inner, inner)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Spatial(nn.Module):
    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, WIDTH)
        self.proj_in = nn.Conv2d(WIDTH, WIDTH, 1)
        self.transformer_blocks = nn.ModuleList([Transformer(linear)])
        self.proj_out = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        inner = self.proj_in(self.norm(x))
        tokens = self.transformer_blocks[0](inner.flatten(2).transpose(1, 2), context)
        return x + self.proj_out(tokens.transpose(1, 2).reshape(x.shape))


class DiffusersResnet(nn.Module):
    def __init__(self, inside: int, linear: Any) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(2, inside), nn.Conv2d(inside, WIDTH, 3, padding=1)
        self.time_emb_proj = linear(WIDTH, WIDTH)
        self.norm2, self.conv2 = nn.GroupNorm(2, WIDTH), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        if inside != WIDTH:
            self.conv_shortcut = nn.Conv2d(inside, WIDTH, 1)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        inner = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(emb))[:, :, None, None]
        inner = self.conv2(F.silu(self.norm2(inner)))
        return inner + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class LdmResnet(nn.Module):
    def __init__(self, inside: int, linear: Any) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(2, inside), nn.SiLU(), nn.Conv2d(inside, WIDTH, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), linear(WIDTH, WIDTH))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(2, WIDTH), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inside == WIDTH else nn.Conv2d(inside, WIDTH, 1)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        inner = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(inner)


class Sampler(nn.Module):
    def __init__(self, name: str, stride: int) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, nn.Conv2d(WIDTH, WIDTH, 3, stride=stride, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = getattr(self, self.name)
        return conv(x) if conv.stride == (2, 2) else conv(F.interpolate(x, scale_factor=2.0))


class Level(nn.Module):
    """A block of diffusers' UNet: three lists of layers."""

    def __init__(self, insides: list[int], attention: bool, sampler: str, linear: Any) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([DiffusersResnet(inside, linear) for inside in insides])
        count = {True: len(insides), False: 0}[attention]
        self.attentions = nn.ModuleList([Spatial(linear) for _ in range(count)])
        if sampler == "down":
            self.downsamplers = nn.ModuleList([Sampler("conv", 2)])
        elif sampler == "up":
            self.upsamplers = nn.ModuleList([Sampler("conv", 1)])


class DiffusersUNet(nn.Module):
    """Two levels with attention on the upper one, as SD1's lowest level has none."""

    def __init__(self, linear: Any = nn.Linear) -> None:
        super().__init__()
        self.time_embedding = nn.ModuleDict({"linear_1": linear(4, WIDTH), "linear_2": linear(WIDTH, WIDTH)})
        self.conv_in = nn.Conv2d(4, WIDTH, 3, padding=1)
        self.down_blocks = nn.ModuleList(
            [Level([WIDTH] * 2, True, "down", linear), Level([WIDTH] * 2, False, "", linear)]
        )
        self.mid_block = nn.Module()
        self.mid_block.resnets = nn.ModuleList([DiffusersResnet(WIDTH, linear) for _ in range(2)])
        self.mid_block.attentions = nn.ModuleList([Spatial(linear)])
        self.up_blocks = nn.ModuleList(
            [Level([2 * WIDTH] * 3, False, "up", linear), Level([2 * WIDTH] * 3, True, "", linear)]
        )
        self.conv_norm_out = nn.GroupNorm(2, WIDTH)
        self.conv_out = nn.Conv2d(WIDTH, 4, 3, padding=1)

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        emb = self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](time)))
        x = self.conv_in(x)
        kept = [x]
        for level in self.down_blocks:
            for number, resnet in enumerate(level.resnets):
                x = resnet(x, emb)
                if len(level.attentions):
                    x = level.attentions[number](x, context)
                kept.append(x)
            if hasattr(level, "downsamplers"):
                x = level.downsamplers[0](x)
                kept.append(x)
        x = self.mid_block.resnets[0](x, emb)
        x = self.mid_block.resnets[1](self.mid_block.attentions[0](x, context), emb)
        for level in self.up_blocks:
            for number, resnet in enumerate(level.resnets):
                x = resnet(torch.cat([x, kept.pop()], dim=1), emb)
                if len(level.attentions):
                    x = level.attentions[number](x, context)
            if hasattr(level, "upsamplers"):
                x = level.upsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class LdmUNet(nn.Module):
    """The same network in the original spelling: flat lists of steps."""

    def __init__(self, linear: Any = nn.Linear) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(linear(4, WIDTH), nn.SiLU(), linear(WIDTH, WIDTH))

        def step(inside: int, *rest: nn.Module) -> nn.ModuleList:
            return nn.ModuleList([LdmResnet(inside, linear), *rest])

        self.input_blocks = nn.ModuleList(
            [
                nn.ModuleList([nn.Conv2d(4, WIDTH, 3, padding=1)]),
                step(WIDTH, Spatial(linear)),
                step(WIDTH, Spatial(linear)),
                nn.ModuleList([Sampler("op", 2)]),
                step(WIDTH),
                step(WIDTH),
            ]
        )
        self.middle_block = nn.ModuleList([LdmResnet(WIDTH, linear), Spatial(linear), LdmResnet(WIDTH, linear)])
        self.output_blocks = nn.ModuleList(
            [
                step(2 * WIDTH),
                step(2 * WIDTH),
                step(2 * WIDTH, Sampler("conv", 1)),
                step(2 * WIDTH, Spatial(linear)),
                step(2 * WIDTH, Spatial(linear)),
                step(2 * WIDTH, Spatial(linear)),
            ]
        )
        self.out = nn.Sequential(nn.GroupNorm(2, WIDTH), nn.SiLU(), nn.Conv2d(WIDTH, 4, 3, padding=1))

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        emb = self.time_embed(time)

        def run(step: Any, x: torch.Tensor) -> torch.Tensor:
            for layer in step:
                if isinstance(layer, LdmResnet):
                    x = layer(x, emb)
                else:
                    x = layer(x, context) if isinstance(layer, Spatial) else layer(x)
            return x

        kept = []
        for step in self.input_blocks:
            x = run(step, x)
            kept.append(x)
        x = run(self.middle_block, x)
        for step in self.output_blocks:
            x = run(step, torch.cat([x, kept.pop()], dim=1))
        return self.out(x)


@pytest.fixture(autouse=True)
def same_random_numbers() -> Iterator[None]:
    """Every test starts from the same seed and gives the state back."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


@pytest.fixture
def unet() -> nn.Module:
    """Diffusers' spelling, frozen."""
    return DiffusersUNet().requires_grad_(False)


@pytest.fixture
def ldm_unet() -> nn.Module:
    """The original spelling with layers that are no ``nn.Linear``, frozen."""
    return LdmUNet(ForgeLinear).requires_grad_(False)


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents (2, 4, 4, 4), time features (2, 4) and text states (2, 3, CONTEXT)."""
    return torch.randn(2, 4, 4, 4), torch.randn(2, 4), torch.randn(2, 3, CONTEXT)


@pytest.fixture
def randomise() -> Callable[[Any], Any]:
    """Give a network B matrices that do something, as after training."""

    def fill(network: Any, size: float = 0.3) -> Any:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
        return network

    return fill
