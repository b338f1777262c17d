"""Train the VAE on the wide domain."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from . import data
from .export import save_half

SCALING = 0.18215
STEPS_CROPS, STEPS_WHOLE, STEPS_DECODER = 1000, 1500, 400
DRAWINGS = 16000


def build() -> AutoencoderKL:
    """f=8 autoencoder with 4 latent channels; 2 norm groups, since more lose colour at this width."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=64,
        scaling_factor=SCALING,
    )


@torch.no_grad()
def _near_identity(vae: AutoencoderKL) -> None:
    """Start as an average/nearest pyramid: halves the error of the first hundred steps."""

    def eye(conv: torch.nn.Conv2d, taps: tuple[slice, slice], value: float) -> None:
        conv.weight.mul_(0.3)
        for c in range(min(conv.in_channels, conv.out_channels)):
            conv.weight[c, c][taps] += value

    for coder in (vae.encoder, vae.decoder):
        eye(coder.conv_in, (slice(1, 2), slice(1, 2)), 1.0)
        for name, module in coder.named_modules():
            if name.endswith("downsamplers.0.conv"):
                eye(module, (slice(0, 2), slice(0, 2)), 0.25)
            elif name.endswith("upsamplers.0.conv"):
                eye(module, (slice(1, 2), slice(1, 2)), 1.0)
            elif name.endswith("conv_shortcut"):
                eye(module, (slice(0, 1), slice(0, 1)), 1.0)
            elif name.endswith("conv2"):
                module.weight.mul_(0.1)
                module.bias.zero_()


def _gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def _loss(vae: AutoencoderKL, x: torch.Tensor) -> torch.Tensor:
    mean, logvar = vae.quant_conv(vae.encoder(x)).chunk(2, dim=1)
    logvar = logvar.clamp(-30, 20)
    z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
    out = vae.decoder(vae.post_quant_conv(z))
    error = out - x
    grad = sum((a - b).abs().mean() for a, b in zip(_gradients(out), _gradients(x), strict=True))
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    return error.abs().mean() + 2 * (error**2).mean() + 0.25 * grad + 2e-4 * kl


def to_unit(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (N, 3, H, W) to float -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).float() / 127.5 - 1


@torch.no_grad()
def psnr(vae: AutoencoderKL, pixels: np.ndarray) -> np.ndarray:
    """PSNR in dB of each uint8 picture (N, 3, 64, 64) after encode (mean) and decode."""
    vae.eval()
    values = []
    for chunk in np.array_split(pixels, max(1, len(pixels) // 64)):
        out = vae.decode(vae.encode(to_unit(chunk)).latent_dist.mode()).sample.clamp(-1, 1)
        mse = ((out - to_unit(chunk)) / 2).pow(2).mean(dim=(1, 2, 3))
        values.append((-10 * mse.log10()).numpy())
    return np.concatenate(values)


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL, pixels: np.ndarray) -> None:
    """Make the posterior mean standard normal at scaling factor 0.18215, without changing pictures."""
    vae.eval()
    z = torch.cat(
        [vae.encode(to_unit(c)).latent_dist.mode() for c in np.array_split(pixels, max(1, len(pixels) // 64))]
    )
    mean, std = z.mean(dim=(0, 2, 3)), z.std(dim=(0, 2, 3))
    gain = 1 / (std * SCALING)
    q, p = vae.quant_conv, vae.post_quant_conv
    q.weight[:4] *= gain[:, None, None, None]
    q.bias[:4] = (q.bias[:4] - mean) * gain
    q.bias[4:] += 2 * gain.log()  # log-variance follows the scale
    p.bias += (p.weight[:, :, 0, 0] * mean).sum(1)
    p.weight *= (1 / gain)[None, :, None, None]


def train(out: Path, seed: int = 0, scale: float = 1.0, log: float = 30.0) -> AutoencoderKL:
    """Three phases: 32 px crops, whole pictures, decoder alone; saves fp16 to ``out``."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pixels = data.stack(data.wide(rng, DRAWINGS))
    held = data.stack(data.wide(np.random.default_rng(seed + 1), 192))
    vae = build()
    _near_identity(vae)
    vae.to(memory_format=torch.channels_last).train()
    phases = [(int(n * scale), k) for k, n in enumerate((STEPS_CROPS, STEPS_WHOLE, STEPS_DECODER))]
    total, done, start, last = sum(n for n, _ in phases), 0, time.time(), 0.0
    for steps, phase in phases:
        if phase == 2:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        if phase != 1:
            params = [p for p in vae.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(params, 2e-3, betas=(0.9, 0.98), weight_decay=1e-4)
        for step in range(steps):
            batch = pixels[rng.integers(0, DRAWINGS, 48 if phase == 0 else 24)]
            if phase == 0:  # crops stay on the 8 px grid as whole pictures do
                y, x = rng.integers(0, 5, 2) * 8
                batch = batch[:, :, y : y + 32, x : x + 32]
            if phase == 2:
                rate = 5e-4 * 0.5 * (1 + np.cos(np.pi * step / steps))
            else:
                both = phases[0][0] + phases[1][0]
                rate = 2e-3 * min(1, (done + 1) / 60) * (0.04 + 0.96 * 0.5 * (1 + np.cos(np.pi * done / both)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = _loss(vae, to_unit(batch).contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            done += 1
            if time.time() - last > log:
                last = time.time()
                quality = psnr(vae, held).mean()
                vae.train()
                print(
                    f"vae {done}/{total} {last - start:.0f} s loss {loss.item():.4f} PSNR {quality:.2f} dB", flush=True
                )
    vae.requires_grad_(True)
    fold_statistics(vae, pixels[:2000])
    save_half(vae, out)
    print(
        f"vae done in {time.time() - start:.0f} s, PSNR {psnr(vae, held).mean():.2f} dB on held-out drawings",
        flush=True,
    )
    return vae
