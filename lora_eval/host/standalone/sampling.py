"""Drawing with diffusers' schedulers under the WebUI's sampler names.

The first noise of a picture, and every later noise of an ancestral sampler, comes from a CPU
generator of its own seeded with the picture's seed (the WebUI's ``CPU`` random source), so a picture
does not depend on its batch beyond rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from lora_eval.errors import HostError
from lora_eval.host.protocol import Conditioning, Sampling
from lora_eval.host.standalone.model import LoadedModel
from lora_eval.host.standalone.text import unet_arguments

SCHEDULERS = ("Automatic", "Uniform", "Karras", "Exponential")
# pixels decoded by one call of the autoencoder; its activations are the peak of the memory
_DECODE_PIXELS = 1 << 22


@dataclass(frozen=True)
class _Sampler:
    scheduler: str
    options: dict[str, Any] = field(default_factory=dict)
    automatic: str = "Uniform"
    schedules: tuple[str, ...] = SCHEDULERS


# k-diffusion's samplers space their steps evenly from the last timestep to the first; DDIM counts
# in whole strides from 1, as in the original implementation
_EVEN = {"timestep_spacing": "linspace"}
_SAMPLERS = {
    "Euler": _Sampler("EulerDiscreteScheduler", _EVEN),
    "Euler a": _Sampler("EulerAncestralDiscreteScheduler", _EVEN),
    "DPM++ 2M": _Sampler("DPMSolverMultistepScheduler", {**_EVEN, "algorithm_type": "dpmsolver++"}, "Karras"),
    "DPM++ 2M Karras": _Sampler(
        "DPMSolverMultistepScheduler", {**_EVEN, "algorithm_type": "dpmsolver++"}, "Karras", ("Automatic", "Karras")
    ),
    "DDIM": _Sampler(
        "DDIMScheduler",
        {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False},
        schedules=("Automatic", "Uniform"),
    ),
    "UniPC": _Sampler("UniPCMultistepScheduler", _EVEN),
    "LMS": _Sampler("LMSDiscreteScheduler", _EVEN),
    "Heun": _Sampler("HeunDiscreteScheduler", _EVEN),
}


# diffusers' ancestral Euler has no Karras or exponential spacing, and its DPM++ rounds timesteps and
# leaves out the last; with Euler's spacing both take the very steps of k-diffusion
_EULER_SPACING = ("Euler a", "DPM++ 2M", "DPM++ 2M Karras")
_OWN_SPACING = ("DDIM", "Euler a")


def sampler_names() -> list[str]:
    """Names that :attr:`Sampling.sampler` accepts here."""
    return list(_SAMPLERS)


def check_sampling(sampling: Sampling) -> None:
    """Raise HostError for a setting that cannot be drawn, saying what can."""
    chosen = _SAMPLERS.get(sampling.sampler)
    if chosen is None:
        raise HostError(f"unknown sampler {sampling.sampler!r}; use one of {', '.join(_SAMPLERS)}")
    if sampling.scheduler not in chosen.schedules:
        raise HostError(
            f"sampler {sampling.sampler!r} has no schedule {sampling.scheduler!r} on the standalone host; "
            f"use one of {', '.join(chosen.schedules)}"
        )
    if not 1 <= sampling.steps <= 1000:
        raise HostError(f"steps {sampling.steps} is out of range; use 1 to 1000")
    if sampling.clip_skip < 1:
        raise HostError(f"clip skip {sampling.clip_skip} is out of range; use 1 (none) or more")
    for name, size in (("width", sampling.width), ("height", sampling.height)):
        if size < 16 or size % 8:
            raise HostError(f"{name} {size} cannot be drawn; use a multiple of 8, at least 16")


def make_scheduler(schedule: dict[str, Any], sampling: Sampling) -> Any:
    """diffusers' scheduler for a WebUI sampler and schedule type, with its timesteps set."""
    import diffusers

    chosen = _SAMPLERS[sampling.sampler]
    kind = chosen.automatic if sampling.scheduler == "Automatic" else sampling.scheduler
    flags = {"use_karras_sigmas": kind == "Karras", "use_exponential_sigmas": kind == "Exponential"}
    given = {"rescale_betas_zero_snr"} & schedule.keys()
    known = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"}
    config = {name: schedule[name] for name in (known & schedule.keys()) | given} | chosen.options
    own = sampling.sampler in _OWN_SPACING
    scheduler = getattr(diffusers, chosen.scheduler).from_config(config, **({} if own else flags))
    scheduler.set_timesteps(sampling.steps)
    if sampling.sampler in _EULER_SPACING:
        spacing = diffusers.EulerDiscreteScheduler.from_config(config, **flags)
        spacing.set_timesteps(sampling.steps)
        scheduler.sigmas, scheduler.timesteps = spacing.sigmas, spacing.timesteps
    return scheduler


def initial_noise(seeds: Sequence[int], width: int, height: int) -> tuple[torch.Tensor, list[torch.Generator]]:
    """(B, 4, H/8, W/8) float32 noise on the CPU, one generator a picture, each seeded with its own seed."""
    generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]
    shape = (1, 4, height // 8, width // 8)
    return torch.cat([torch.randn(shape, generator=generator) for generator in generators]), generators


def sample(
    model: LoadedModel,
    seeds: Sequence[int],
    positive: Conditioning,
    negative: Conditioning,
    sampling: Sampling,
    check: Callable[[], None],
) -> torch.Tensor:
    """Denoise a batch: (B, 4, H/8, W/8) float32 latents on the model's device, scaled.

    Guidance (Ho and Salimans 2022, arXiv 2207.12598) is one UNet call of 2B a step, two of B where
    the prompts differ in chunks; at CFG scale 1 the negative prompt drops out and B are enough.
    ``check`` is called before each step.

    Raises:
        HostError: the model produced values that are not numbers.
    """
    scheduler = make_scheduler(model.schedule, sampling)
    noise, generators = initial_noise(seeds, sampling.width, sampling.height)
    latents = noise.to(model.device) * scheduler.init_noise_sigma
    guided = sampling.cfg_scale != 1.0
    # states of different length do not fit into one call; padding the shorter would change the picture
    together = not guided or negative.context.shape[1] == positive.context.shape[1]
    conds = [negative, positive] if guided else [positive]
    calls = [unet_arguments(cond, model.dtype) for cond in ([_join(conds)] if together else conds)]
    extra = {"generator": generators} if sampling.sampler == "Euler a" else {}
    for timestep in scheduler.timesteps:
        check()
        scaled = scheduler.scale_model_input(latents, timestep).to(model.dtype)
        batch = torch.cat([scaled, scaled]) if guided and together else scaled
        outputs = [model.unet(batch, timestep, return_dict=False, **arguments)[0].float() for arguments in calls]
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        if guided:
            without, with_text = output.chunk(2)
            output = without + sampling.cfg_scale * (with_text - without)
        latents = scheduler.step(output, timestep, latents, return_dict=False, **extra)[0]
    if not bool(torch.isfinite(latents).all()):
        raise HostError(
            "the model produced values that are not numbers (NaN); draw with dtype fp32, or lower the weight"
        )
    return latents


def decode(model: LoadedModel, latents: torch.Tensor) -> list[Image.Image]:
    """Scaled latents (B, 4, h, w) to RGB pictures of 8h x 8w pixels."""
    scale, shift = model.vae.config.scaling_factor, model.vae.config.get("shift_factor") or 0.0
    latents = (latents / scale + shift).to(model.vae.dtype)
    step = max(1, _DECODE_PIXELS // (64 * latents.shape[-1] * latents.shape[-2]))
    pictures = []
    for part in latents.split(step):
        pixels = model.vae.decode(part, return_dict=False)[0].float()
        values = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        pictures += [Image.fromarray(row) for row in np.ascontiguousarray(values.permute(0, 2, 3, 1).cpu().numpy())]
    return pictures


def _join(conds: Sequence[Conditioning]) -> Conditioning:
    vectors = [cond.vector for cond in conds if cond.vector is not None]
    return Conditioning(torch.cat([cond.context for cond in conds]), torch.cat(vectors) if vectors else None)
