"""The sections of ``gpu_check``: each takes the options and returns rows ``what``, figures, ``passed``."""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._gpu_shared import (
    RANK,
    TARGETS,
    Row,
    allocated,
    device_of,
    diffusion_loss,
    free_unused,
    make_host,
    picture_folder,
    random_batch,
    seconds,
    train_config,
)
from benchmarks._gpu_speed import speed, speed_sdxl
from lora_eval.host.protocol import ImageRequest, Sampling
from lora_eval.host.standalone import StandaloneHost
from lora_eval.lora.layers import LoraNetwork
from lora_eval.lora.targets import find_targets
from lora_eval.training.loop import train

__all__ = ["contract", "embedding", "gradients", "memory", "models", "scorecard", "speed", "speed_sdxl", "tests"]

# relative difference of a gradient that the precision itself allows: the machine epsilon of the format times a factor
# for the sums of a few thousand terms (float32 without tf32; fp16 and bf16 by autocast)
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 8e-2}
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def models(options: argparse.Namespace) -> list[Row]:
    """Write the random checkpoints that the other sections load."""
    from tools.full_size import write_model

    rows = []
    for family in ("sd15", "sdxl"):
        began = time.perf_counter()
        write_model(options.out / family, family, device_of(options))
        rows.append({"what": f"{family} written", "seconds": time.perf_counter() - began})
    return rows


def contract(options: argparse.Namespace) -> list[Row]:
    """The promise of training: every tensor and a picture as before, nothing left in memory."""
    rows = []
    for dtype, precision in (("fp32", "no"), ("fp16", "fp16"), ("bf16", "bf16")):
        for checkpointing in (False, True):
            if options.cpu and (dtype != "fp32" or checkpointing):
                continue
            host = make_host(options, dtype)
            before_picture = _picture(host, options)
            networks = host._load().modules()
            before = {name: tensor.detach().clone() for name, tensor in _tensors(networks)}
            free_unused()
            held = allocated()
            config = train_config(
                options, host, steps=4, mixed_precision=precision, gradient_checkpointing=checkpointing, batch_size=2
            )
            result = train(host, config)
            free_unused()
            left = allocated() - held
            same = all(torch.equal(before[name], tensor) for name, tensor in _tensors(networks))
            pixels = int(np.abs(before_picture - _picture(host, options)).max())
            losses = _losses(result.history)
            passed = same and pixels == 0 and left <= 0 and bool(np.isfinite(losses).all())
            rows.append(
                {
                    "what": f"{dtype}{', checkpointing' if checkpointing else ''}",
                    "tensors": "identical" if same else "changed",
                    "largest pixel difference": pixels,
                    "bytes left": left,
                    "loss": float(losses[-1]),
                    "passed": passed,
                }
            )
            del host, networks, before
            free_unused()
    return rows


def gradients(options: argparse.Namespace) -> list[Row]:
    """Our hooks against peft: the same weights, the same batch, the same precision."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet, size, width = _unet(options)
    device = device_of(options)
    other = copy.deepcopy(unet)
    other.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=TARGETS))
    generator = torch.Generator("cpu").manual_seed(1)
    with torch.no_grad():
        for parameter in (p for p in other.parameters() if p.requires_grad):
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    network = LoraNetwork(unet, find_targets(unet, "attention"), rank=RANK, alpha=float(RANK), device=device)
    network.load(_kohya(get_peft_model_state_dict(other)))
    batch = random_batch(2, size, width, device)
    rows = []
    for name in ("fp32", "fp16", "bf16") if not options.cpu else ("fp32",):
        for attention in ("sdpa", "sliced", "checkpointing"):
            for one in (unet, other):
                _set_attention(one, attention)
            cast = torch.autocast(device, HALF[name]) if name in HALF else nullcontext()
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
            with network, cast:
                diffusion_loss(unet, batch).backward()
            with cast:
                diffusion_loss(other, batch).backward()
            ours = {k: p.grad for k, p in network.named_parameters()}
            theirs = _peft_gradients(other, network)
            ratio = float(
                torch.sqrt(sum(((ours[k] - theirs[k]) ** 2).sum() for k in ours))  # type: ignore[arg-type]
                / torch.sqrt(sum((theirs[k] ** 2).sum() for k in ours))  # type: ignore[arg-type]
            )
            norm = float(torch.sqrt(sum((theirs[k] ** 2).sum() for k in ours)))  # type: ignore[arg-type]
            for parameter in (*network.parameters(), *(p for p in other.parameters() if p.requires_grad)):
                parameter.grad = None
            rows.append(
                {
                    "what": f"{name}, {attention}",
                    "relative difference": ratio,
                    "norm": norm,
                    "allowed": TOLERANCE[name],
                    "passed": norm > 0 and ratio <= TOLERANCE[name],
                }
            )
    return rows


def embedding(options: argparse.Namespace) -> list[Row]:
    """Our encoder against open_clip's own loop."""
    import open_clip

    from benchmarks.embedding import bare, pictures
    from lora_eval.encoders.clip import OpenClipEncoder

    device, rows = device_of(options), []
    for name in ("ViT-B-32", "ViT-L-14") if not options.tiny else ("ViT-B-32",):
        torch.manual_seed(0)
        model = open_clip.create_model(name, pretrained=None, device=device)
        encoder = OpenClipEncoder(model, open_clip.get_tokenizer(name), "random", device, 64)
        images = pictures(8 if options.tiny else 128, 512)
        loop = bare(model, 64, device)
        cosine = float((encoder.embed_images(images) * loop(images)).sum(axis=1).min())
        ours, others = [], []
        for _ in range(3):
            ours.append(seconds(lambda e=encoder, i=images: e.embed_images(i)))
            others.append(seconds(lambda run=loop, i=images: run(i)))
        rows.append(
            {
                "what": name,
                "pictures a second": len(images) / statistics.median(ours),
                "bare open_clip": len(images) / statistics.median(others),
                "ratio": statistics.median(b / a for a, b in zip(ours, others, strict=True)),
                "smallest cosine": cosine,
                "passed": cosine > 0.999,
            }
        )
    return rows


def scorecard(options: argparse.Namespace) -> list[Row]:
    """The whole scorecard of 64 pictures against its drawing alone."""
    import open_clip

    from lora_eval.encoders.clip import TINY, OpenClipEncoder
    from lora_eval.encoders.registry import load_encoder
    from lora_eval.scorecard.plan.request import ScoreRequest
    from lora_eval.service.scoring import score

    device = device_of(options)
    host = make_host(options, "fp32" if options.cpu else "fp16")
    result = train(host, train_config(options, host, steps=2, batch_size=1))
    if options.tiny:
        encoder: Any = load_encoder(TINY)
    else:
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-B-32", pretrained=None, device=device)
        encoder = OpenClipEncoder(model, open_clip.get_tokenizer("ViT-B-32"), "random-ViT-B-32", device, 64)
    drawing = 0.0
    generate = host.generate

    def timed(*arguments: Any, **more: Any) -> Any:
        nonlocal drawing
        made: list[Any] = []
        drawing += seconds(lambda: made.append(generate(*arguments, **more)))
        return made[0]

    host.generate = timed  # type: ignore[method-assign]
    side = 64 if options.tiny else 512
    request = ScoreRequest(
        [Path(result.lora)], data=picture_folder(options), suite="tiny" if options.tiny else "object", kind="object",
        weights="1", seeds=4, prompts=8, steps=4 if options.tiny else 12, width=side, height=side, batch_size=8,
        trigger="mave",
    )  # fmt: skip
    began = time.perf_counter()
    score(host, request, options.out / "score", encoder=encoder)
    whole = time.perf_counter() - began
    count = len(list((options.out / "score" / "images").glob("*.png")))
    return [
        {
            "what": f"{count} pictures of {side} px",
            "seconds": whole,
            "drawing alone": drawing,
            "ratio": whole / drawing,
            "passed": count == 64,
        }
    ]


def memory(options: argparse.Namespace) -> list[Row]:
    """Too little memory for the settings: the run continues with smaller ones and ends."""
    if options.cpu:
        return [{"what": "out of memory", "result": "not measured: the processor has no limit to set"}]
    host = make_host(options, "fp16")
    config = train_config(options, host, steps=3, batch_size=8, mixed_precision="fp16")
    host._load()
    total = torch.cuda.get_device_properties(0).total_memory
    # room for the model and about a third of what batch 8 needs
    torch.cuda.set_per_process_memory_fraction(min(1.0, (allocated() + 5 * 2**30) / total))
    result = train(host, config)
    notes = [note for note in result.notes if "out of memory" in note]
    return [
        {
            "what": "limit of 5 GiB beside the model",
            "stopped": result.stopped,
            "notes": "; ".join(notes) or "none",
            "passed": bool(notes) and result.stopped == "finished",
        }
    ]


def tests(options: argparse.Namespace) -> list[Row]:
    """The repository's tests of what a GPU changes; ``auto`` chooses CUDA there."""
    places = ["tests/contract", "tests/host/standalone", "tests/lora", "tests/training"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "8", "--maxfail=40", *places]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    (options.out / "pytest.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    last = lines[-1] if lines else done.stderr.strip()[-200:]
    return [{"what": "pytest", "result": last, "failed": "; ".join(failed)[:3000], "passed": done.returncode == 0}]


def _unet(options: argparse.Namespace) -> tuple[torch.nn.Module, int, int]:
    """The UNet in float32 without gradients, latents' side and the width of the text states."""
    from diffusers import UNet2DConditionModel

    from lora_eval.host.shipped import TINY_MODEL

    path = TINY_MODEL if options.tiny else options.out / "sd15"
    unet = UNet2DConditionModel.from_pretrained(path, subfolder="unet", torch_dtype=torch.float32)
    unet = unet.to(device_of(options)).requires_grad_(False)
    return unet, 8 if options.tiny else 32, int(unet.config.cross_attention_dim)


def _kohya(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """peft's state under the names that our files have."""
    from lora_eval.lora.convert import to_kohya

    return dict(to_kohya({f"unet.{name}": tensor.detach().cpu() for name, tensor in tensors.items()}))


def _peft_gradients(other: torch.nn.Module, network: LoraNetwork) -> dict[str, torch.Tensor]:
    """Gradients of peft's adapter under the names of our parameters."""
    found: dict[str, torch.Tensor] = {}
    for name, parameter in other.named_parameters():
        if parameter.grad is not None:
            found[f"{name.replace('.default', '')}"] = parameter.grad
    kohya = _kohya({name: gradient for name, gradient in found.items()})
    device = next(iter(network.parameters())).device
    return {name: kohya[name].to(device) for name, _ in network.named_parameters()}


def _set_attention(unet: Any, kind: str) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    unet.disable_gradient_checkpointing()
    unet.train(kind == "checkpointing")
    unet.set_attn_processor(AttnProcessor2_0())
    if kind == "sliced":
        unet.set_attention_slice("max")
    if kind == "checkpointing":
        unet.enable_gradient_checkpointing()


def _picture(host: StandaloneHost, options: argparse.Namespace) -> np.ndarray:
    side = 64 if options.tiny else 256
    sampling = Sampling(steps=4, width=side, height=side)
    return np.asarray(host.generate([ImageRequest("a cat", 7)], sampling)[0].image).astype(int)


def _tensors(networks: dict[str, torch.nn.Module]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, network in networks.items():
        for path, tensor in (*network.named_parameters(), *network.named_buffers()):
            yield f"{name}.{path}", tensor


def _losses(history: Path | str) -> np.ndarray:
    from lora_eval.training.logs import read_history

    return np.asarray(read_history(Path(history)).loss, dtype=float)
