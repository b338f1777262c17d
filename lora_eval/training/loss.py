"""Diffusion loss: noising, targets, weights. Tensors in, tensors out.

Notation of DDPM (Ho et al. 2020, https://arxiv.org/abs/2006.11239): ``a`` is ``alphas_cumprod[t]``, a noisy
latent is ``sqrt(a) x + sqrt(1 - a) e``, SNR(t) = a / (1 - a).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def _at(values: torch.Tensor, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B, 1, 1, 1) values of a schedule at timesteps."""
    picked = values.to(like.device, torch.float32)[timesteps.to(like.device)]
    return picked.reshape(-1, *([1] * (like.ndim - 1)))


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """``sqrt(a) x + sqrt(1 - a) e``; (B, C, H, W), timesteps (B,) in [0, 1000)."""
    a = _at(alphas_cumprod, timesteps, latents)
    return a.sqrt() * latents + (1 - a).sqrt() * noise


def training_target(
    prediction: str,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
) -> torch.Tensor:
    """What the UNet should say: the noise, or ``v = sqrt(a) e - sqrt(1 - a) x``.

    v is that of Salimans and Ho 2022, https://arxiv.org/abs/2202.00512.
    """
    if prediction == "epsilon":
        return noise
    if prediction == "v_prediction":
        a = _at(alphas_cumprod, timesteps, latents)
        return a.sqrt() * noise - (1 - a).sqrt() * latents
    raise ValueError(f"unknown prediction {prediction!r}")


def signal_to_noise(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """SNR(t) = a / (1 - a) for the whole schedule."""
    return alphas_cumprod / (1 - alphas_cumprod)


def min_snr_weights(
    timesteps: torch.Tensor, alphas_cumprod: torch.Tensor, gamma: float, prediction: str
) -> torch.Tensor:
    """(B,) weights of Min-SNR-gamma (Hang et al. 2023, https://arxiv.org/abs/2303.09556).

    ``min(SNR, gamma) / SNR`` for epsilon and ``min(SNR, gamma) / (SNR + 1)`` for v prediction: both equal the
    weight ``min(SNR, gamma)`` on the squared error of x.
    """
    snr = signal_to_noise(alphas_cumprod.to(torch.float32))[timesteps.to(alphas_cumprod.device)]
    clipped = snr.clamp(max=gamma)
    return clipped / (snr + 1) if prediction == "v_prediction" else clipped / snr


def squared_error(predicted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """(B,) mean squared error of each sample, in float32.

    ``mask`` (B, 1, H, W) in [0, 1] weighs the cells; the mean is over the mask's weight, so that a small subject
    counts as much as a large one.
    """
    errors = F.mse_loss(predicted.float(), target.float(), reduction="none")
    if mask is None:
        return errors.flatten(1).mean(dim=1)
    weighted = (errors * mask).flatten(1).sum(dim=1)
    return weighted / (mask.flatten(1).sum(dim=1) * errors.shape[1]).clamp_min(1e-6)


def draw_noise(shape: tuple[int, ...], generator: torch.Generator, noise_offset: float = 0.0) -> torch.Tensor:
    """Normal noise on the CPU; with ``noise_offset`` a constant for each sample and channel is added.

    Offset noise (N. Guttenberg, "Diffusion with offset noise", crosslabs.org 2023): ``e + k randn(B, C, 1, 1)``.
    """
    noise = torch.randn(shape, generator=generator)
    if noise_offset:
        noise = noise + noise_offset * torch.randn((*shape[:2], 1, 1), generator=generator)
    return noise


def stratified_timesteps(count: int, generator: torch.Generator, steps: int = 1000) -> torch.Tensor:
    """(count,) int64 timesteps, each uniform in [0, steps), one in each of ``count`` equal strata, shuffled.

    Each alone is uniform, so the expected loss is that of independent draws; together they cover the schedule, which
    takes the part of the gradient's variance that comes from where on the schedule a batch happens to fall.
    """
    order = torch.randperm(count, generator=generator)
    inside = torch.rand(count, generator=generator, dtype=torch.float64)
    return ((order + inside) / count * steps).long().clamp_(0, steps - 1)
