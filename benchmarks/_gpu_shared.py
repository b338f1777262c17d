"""What the sections of ``gpu_check`` share: the host, the settings, a batch, and time and memory of the device."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lora_eval.host.standalone import StandaloneHost
from lora_eval.training.config import TrainConfig, make_config

Row = dict[str, Any]
RANK = 8
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def device_of(options: argparse.Namespace) -> str:
    """The device by torch's name."""
    return "cpu" if options.cpu else "cuda"


def make_host(options: argparse.Namespace, dtype: str, family: str = "sd15") -> StandaloneHost:
    """The standalone host on the full-size or the tiny model."""
    model = None if options.tiny else options.out / family
    return StandaloneHost(model, device=device_of(options), dtype=dtype, output_folder=options.out / "runs")


def picture_folder(options: argparse.Namespace) -> Path:
    """Eight drawings with captions, written once."""
    from benchmarks._planted import write_dataset
    from tools.tiny_world.drawings import dataset

    folder = options.out / "pictures"
    if not folder.is_dir():
        write_dataset(folder, dataset("mave", 8, 0))
    return folder


def train_config(options: argparse.Namespace, host: StandaloneHost, steps: int, **more: Any) -> TrainConfig:
    """A training of ``steps`` steps without validation and checkpoints."""
    values = {
        "train_data_dir": str(picture_folder(options)), "output_dir": str(options.out / "train"), "name": "check",
        "trigger": "mave", "lora_rank": RANK, "max_steps": steps, "epochs": 1000, "validation_fraction": 0.0,
        "validation_steps": 10_000, "save_steps": 0, "publish": False,
        "resolution": 64 if options.tiny else 512, "cache_latents_to_disk": False,
    }  # fmt: skip
    return make_config({**values, **more})


def random_batch(count: int, size: int, width: int, device: str, sdxl: bool = False) -> dict[str, Any]:
    """Latents, noise, timesteps and text states of a fixed seed."""
    generator = torch.Generator("cpu").manual_seed(2)
    more = {}
    if sdxl:
        vector = torch.randn(count, 1280, generator=generator).to(device)
        more = {"text_embeds": vector, "time_ids": torch.zeros(count, 6, device=device)}
    return {
        "latents": torch.randn(count, 4, size, size, generator=generator).to(device),
        "noise": torch.randn(count, 4, size, size, generator=generator).to(device),
        "times": torch.randint(0, 1000, (count,), generator=generator).to(device),
        "text": torch.randn(count, 77, width, generator=generator).to(device),
        "more": more or None,
    }


def diffusion_loss(unet: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Mean squared error of the predicted noise."""
    out = unet(batch["latents"], batch["times"], batch["text"], added_cond_kwargs=batch["more"], return_dict=False)[0]
    return torch.nn.functional.mse_loss(out.float(), batch["noise"].float())


def seconds(step: Callable[[], Any]) -> float:
    """Seconds of a call, the device waited for."""
    synchronise()
    began = time.perf_counter()
    step()
    synchronise()
    return time.perf_counter() - began


def synchronise() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free_unused() -> None:
    """Collect garbage and give unused blocks back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def allocated() -> int:
    """Bytes of tensors on the device."""
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0


def peak() -> int:
    """Most bytes since :func:`reset_peak`."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0


def reset_peak() -> None:
    """Let the peak begin anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
