"""The sections of ``gpu_check``: each takes the options and returns rows ``what``, figures, ``passed``."""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lora_eval.host.protocol import ImageRequest, Job, Sampling
from lora_eval.host.standalone import StandaloneHost
from lora_eval.lora.layers import LoraNetwork
from lora_eval.lora.targets import find_targets
from lora_eval.training.config import TrainConfig, make_config
from lora_eval.training.loop import train

Row = dict[str, Any]
RANK = 8
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
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
        write_model(options.out / family, family, _device(options))
        rows.append({"what": f"{family} written", "seconds": time.perf_counter() - began})
    return rows


def contract(options: argparse.Namespace) -> list[Row]:
    """The promise of training: every tensor and a picture as before, nothing left in memory."""
    rows = []
    for dtype, precision in (("fp32", "no"), ("fp16", "fp16"), ("bf16", "bf16")):
        for checkpointing in (False, True):
            if options.cpu and (dtype != "fp32" or checkpointing):
                continue
            host = _host(options, dtype)
            before_picture = _picture(host, options)
            networks = host._load().modules()
            before = {name: tensor.detach().clone() for name, tensor in _tensors(networks)}
            _settle()
            held = _allocated()
            config = _config(
                options, host, steps=4, mixed_precision=precision, gradient_checkpointing=checkpointing, batch_size=2
            )
            result = train(host, config)
            _settle()
            left = _allocated() - held
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
            _settle()
    return rows


def gradients(options: argparse.Namespace) -> list[Row]:
    """Our hooks against peft: the same weights, the same batch, the same precision."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet, size, width = _unet(options)
    device = _device(options)
    other = copy.deepcopy(unet)
    other.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=TARGETS))
    generator = torch.Generator("cpu").manual_seed(1)
    with torch.no_grad():
        for parameter in (p for p in other.parameters() if p.requires_grad):
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    network = LoraNetwork(unet, find_targets(unet, "attention"), rank=RANK, alpha=float(RANK), device=device)
    network.load(_kohya(get_peft_model_state_dict(other)))
    batch = _batch(2, size, width, device)
    rows = []
    for name in ("fp32", "fp16", "bf16") if not options.cpu else ("fp32",):
        for attention in ("sdpa", "sliced", "checkpointing"):
            for one in (unet, other):
                _set_attention(one, attention)
            cast = torch.autocast(device, HALF[name]) if name in HALF else nullcontext()
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
            with network, cast:
                _loss(unet, batch).backward()
            with cast:
                _loss(other, batch).backward()
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


def speed(options: argparse.Namespace) -> list[Row]:
    """SD1.5 at 512 px."""
    return [row for batch in (1, 4) for row in _speed(options, "sd15", 512, batch)]


def speed_sdxl(options: argparse.Namespace) -> list[Row]:
    """SDXL at 1024 px."""
    return [row for batch in (1, 2) for row in _speed(options, "sdxl", 1024, batch)]


def embedding(options: argparse.Namespace) -> list[Row]:
    """Our encoder against open_clip's own loop."""
    import open_clip

    from benchmarks.embedding import pictures
    from lora_eval.encoders.embed import Encoder

    device, rows = _device(options), []
    for name in ("ViT-B-32", "ViT-L-14") if not options.tiny else ("ViT-B-32",):
        torch.manual_seed(0)
        model = open_clip.create_model(name, pretrained=None, device=device)
        encoder = Encoder(model, open_clip.get_tokenizer(name), "random", device, 64)
        images = pictures(8 if options.tiny else 128, 512)
        transform = open_clip.image_transform(encoder.size, is_train=False)

        def bare(images: list[Image.Image] = images, transform: Any = transform, model: Any = model) -> np.ndarray:
            found = []
            for start in range(0, len(images), 64):
                pixels = torch.stack([transform(image) for image in images[start : start + 64]]).to(device)
                with torch.no_grad():
                    features = model.encode_image(pixels)
                    found.append((features / features.norm(dim=-1, keepdim=True)).cpu().numpy())
            return np.concatenate(found)

        cosine = float((encoder.embed_images(images) * bare()).sum(axis=1).min())
        ours, others = [], []
        for _ in range(3):
            ours.append(_seconds(lambda e=encoder, i=images: e.embed_images(i)))
            others.append(_seconds(bare))
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

    from lora_eval.encoders.embed import TINY, Encoder, load_encoder
    from lora_eval.scorecard.plan.request import ScoreRequest
    from lora_eval.service.scoring import score

    device = _device(options)
    host = _host(options, "fp32" if options.cpu else "fp16")
    result = train(host, _config(options, host, steps=2, batch_size=1))
    if options.tiny:
        encoder: Any = load_encoder(TINY)
    else:
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-B-32", pretrained=None, device=device)
        encoder = Encoder(model, open_clip.get_tokenizer("ViT-B-32"), "random-ViT-B-32", device, 64)
    drawing = 0.0
    generate = host.generate

    def timed(*arguments: Any, **more: Any) -> Any:
        nonlocal drawing
        made: list[Any] = []
        drawing += _seconds(lambda: made.append(generate(*arguments, **more)))
        return made[0]

    host.generate = timed  # type: ignore[method-assign]
    side = 64 if options.tiny else 512
    request = ScoreRequest(
        [Path(result.lora)], data=_pictures(options), suite="tiny" if options.tiny else "object", kind="object",
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
    host = _host(options, "fp16")
    config = _config(options, host, steps=3, batch_size=8, mixed_precision="fp16")
    host._load()
    total = torch.cuda.get_device_properties(0).total_memory
    # room for the model and about a third of what batch 8 needs
    torch.cuda.set_per_process_memory_fraction(min(1.0, (_allocated() + 5 * 2**30) / total))
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


# -- what the sections share ---------------------------------------------------------------------------


def _device(options: argparse.Namespace) -> str:
    return "cpu" if options.cpu else "cuda"


def _host(options: argparse.Namespace, dtype: str, family: str = "sd15") -> StandaloneHost:
    model = None if options.tiny else options.out / family
    return StandaloneHost(model, device=_device(options), dtype=dtype, output_folder=options.out / "runs")


def _unet(options: argparse.Namespace) -> tuple[torch.nn.Module, int, int]:
    """The UNet in float32 without gradients, latents' side and the width of the text states."""
    from diffusers import UNet2DConditionModel

    from lora_eval.host.shipped import TINY_MODEL

    path = TINY_MODEL if options.tiny else options.out / "sd15"
    unet = UNet2DConditionModel.from_pretrained(path, subfolder="unet", torch_dtype=torch.float32)
    unet = unet.to(_device(options)).requires_grad_(False)
    return unet, 8 if options.tiny else 32, int(unet.config.cross_attention_dim)


def _pictures(options: argparse.Namespace) -> Path:
    from benchmarks._planted import write_dataset
    from tools.tiny_world.drawings import dataset

    folder = options.out / "pictures"
    if not folder.is_dir():
        write_dataset(folder, dataset("mave", 8, 0))
    return folder


def _config(options: argparse.Namespace, host: StandaloneHost, steps: int, **more: Any) -> TrainConfig:
    values = {
        "train_data_dir": str(_pictures(options)), "output_dir": str(options.out / "train"), "name": "check",
        "trigger": "mave", "lora_rank": RANK, "max_steps": steps, "epochs": 1000, "validation_fraction": 0.0,
        "validation_steps": 10_000, "save_steps": 0, "publish": False,
        "resolution": 64 if options.tiny else 512, "cache_latents_to_disk": False,
    }  # fmt: skip
    return make_config({**values, **more})


def _batch(count: int, size: int, width: int, device: str, sdxl: bool = False) -> dict[str, Any]:
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


def _loss(unet: Any, batch: dict[str, Any]) -> torch.Tensor:
    out = unet(batch["latents"], batch["times"], batch["text"], added_cond_kwargs=batch["more"], return_dict=False)[0]
    return torch.nn.functional.mse_loss(out.float(), batch["noise"].float())


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
        _synchronise()
        if 2 < self.done < self.total and self._began:
            self.took["ours"].append(time.perf_counter() - self._began)
            self.peak["ours"] = max(self.peak.get("ours", 0.0), _peak() - self._before)
            for name, step in self.others.items():
                _reset_peak()
                before = _allocated()
                self.took[name].append(_seconds(step))
                self.peak[name] = max(self.peak.get(name, 0.0), _peak() - before)
        else:
            for step in self.others.values():
                step()
        _synchronise()
        _reset_peak()
        self._before = _allocated()
        self._began = time.perf_counter()


def _speed(options: argparse.Namespace, family: str, side: int, batch: int) -> list[Row]:
    """Step time and the memory that a step adds: ours, peft with diffusers, a bare forward and backward."""
    from diffusers import UNet2DConditionModel
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    device = _device(options)
    host = _host(options, "fp32" if options.cpu else "fp16", family)
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
    given = _batch(
        batch, side // 8, int(unet.config.cross_attention_dim), device, family == "sdxl" and not options.tiny
    )

    def forward_backward() -> None:
        with torch.autocast(device, torch.float16) if not options.cpu else nullcontext():
            loss = _loss(unet, given)
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
    config = _config(options, host, steps=job.total, batch_size=batch, resolution=side,
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


def _seconds(step: Callable[[], Any]) -> float:
    _synchronise()
    began = time.perf_counter()
    step()
    _synchronise()
    return time.perf_counter() - began


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _settle() -> None:
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _allocated() -> int:
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0


def _peak() -> int:
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
