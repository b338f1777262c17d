"""Step time and memory: our training beside peft with diffusers and a bare forward and backward, in one process."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from benchmarks._gpu_shared import (
    RANK,
    TARGETS,
    Row,
    allocated,
    device_of,
    diffusion_loss,
    make_host,
    peak,
    random_batch,
    reset_peak,
    seconds,
    synchronise,
    train_config,
)
from lora_eval.host.protocol import Job
from lora_eval.training.loop import train


def speed(options: argparse.Namespace) -> list[Row]:
    """SD1.5 at 512 px."""
    return [row for batch in (1, 4) for row in _speed(options, "sd15", 512, batch)]


def speed_sdxl(options: argparse.Namespace) -> list[Row]:
    """SDXL at 1024 px."""
    return [row for batch in (1, 2) for row in _speed(options, "sdxl", 1024, batch)]


class _Alternating(Job):
    """Our training; after each step of ours the other loops make one each."""

    def __init__(self, rounds: int, others: dict[str, Callable[[], None]]) -> None:
        super().__init__("speed", rounds + 2)
        self.others = others
        self.took: dict[str, list[float]] = {"ours": [], **{name: [] for name in others}}
        self.peak: dict[str, float] = {}
        self._began = 0.0
        self._before = 0

    def advance(self, amount: int = 1, text: str | None = None) -> None:
        super().advance(amount, text)
        synchronise()
        if 2 < self.done < self.total and self._began:
            self.took["ours"].append(time.perf_counter() - self._began)
            self.peak["ours"] = max(self.peak.get("ours", 0.0), peak() - self._before)
            for name, step in self.others.items():
                reset_peak()
                before = allocated()
                self.took[name].append(seconds(step))
                self.peak[name] = max(self.peak.get(name, 0.0), peak() - before)
        else:
            for step in self.others.values():
                step()
        synchronise()
        reset_peak()
        self._before = allocated()
        self._began = time.perf_counter()


def _speed(options: argparse.Namespace, family: str, side: int, batch: int) -> list[Row]:
    """Step time and the memory that a step adds: ours, peft with diffusers, a bare forward and backward."""
    from diffusers import UNet2DConditionModel
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    device = device_of(options)
    host = make_host(options, "fp32" if options.cpu else "fp16", family)
    path = options.out / family
    dtype = torch.float32 if options.cpu else torch.float16
    if options.tiny:
        from lora_eval.host.shipped import TINY_MODEL

        path, side = TINY_MODEL, 64
    unet = UNet2DConditionModel.from_pretrained(path, subfolder="unet", torch_dtype=dtype).to(device)
    unet.requires_grad_(False).train()
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=TARGETS))
    cast_training_params(unet, torch.float32)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=not options.cpu)
    given = random_batch(
        batch, side // 8, int(unet.config.cross_attention_dim), device, family == "sdxl" and not options.tiny
    )

    def forward_backward() -> None:
        with torch.autocast(device, torch.float16) if not options.cpu else nullcontext():
            loss = diffusion_loss(unet, given)
        scaler.scale(loss).backward()

    def peft_step() -> None:
        forward_backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    def bare() -> None:
        forward_backward()
        for parameter in parameters:
            parameter.grad = None

    rounds = 4 if options.tiny else 12
    job = _Alternating(rounds, {"peft + diffusers": peft_step, "forward and backward": bare})
    config = train_config(options, host, steps=job.total, batch_size=batch, resolution=side,
                     mixed_precision="no" if options.cpu else "fp16")  # fmt: skip
    train(host, config, job)
    ours = job.took["ours"]
    row: Row = {"what": f"{family if not options.tiny else 'tiny'} {side} px batch {batch}",
                "ms a step": 1000 * statistics.median(ours), "steps": len(ours)}  # fmt: skip
    for name in job.others:
        pairs = zip(ours, job.took[name], strict=True)
        row[f"over {name}"] = statistics.median(a / b for a, b in pairs)
    if not options.cpu:
        row["MiB a step adds"] = job.peak["ours"] / 2**20
        row["peft adds"] = job.peak["peft + diffusers"] / 2**20
    return [row]
