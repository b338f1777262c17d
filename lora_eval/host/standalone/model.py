"""Loading Stable Diffusion with diffusers: a folder in diffusers layout or a single file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora_eval.errors import HostError, RunError
from lora_eval.files import file_sha256, write_json
from lora_eval.host.protocol import ModelInfo
from lora_eval.log import logger

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_PICKLES = {".ckpt", ".pt", ".pth", ".bin"}
# below this, hashing is quicker than asking a cache
_SMALL_FILE = 64 << 20


@dataclass
class LoadedModel:
    """A checkpoint in memory, frozen and in eval mode.

    Attributes:
        text_encoders, tokenizers: one each, two for SDXL, in the order their states are joined.
        schedule: the checkpoint's scheduler configuration, as diffusers stores it.
        alphas_cumprod: (1000,) float32 on ``device``.
        zero_empty_negative: SDXL: an empty negative prompt is encoded as zeros.
    """

    info: ModelInfo
    unet: Any
    vae: Any
    text_encoders: list[Any]
    tokenizers: list[Any]
    schedule: dict[str, Any]
    alphas_cumprod: torch.Tensor
    device: torch.device
    dtype: torch.dtype
    zero_empty_negative: bool = False

    def modules(self) -> dict[str, torch.nn.Module]:
        """Every network of the checkpoint by the name its folder has in diffusers layout."""
        named = {"unet": self.unet, "vae": self.vae}
        for index, encoder in enumerate(self.text_encoders):
            named["text_encoder" + ("" if index == 0 else f"_{index + 1}")] = encoder
        return named


def pick_device(name: str = "auto") -> torch.device:
    """``auto``: cuda, else mps, else cpu. Raises HostError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise HostError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps") from None
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not present.get(device.type, False):
        raise HostError(f"device {name!r} is not available here; use auto or cpu")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto``: fp16 on CUDA, fp32 elsewhere. Raises HostError for an unknown name."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise HostError(f"unknown dtype {name!r}; use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def load_model(path: Path, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """Load a checkpoint: a folder in diffusers layout or a single ``.safetensors`` file.

    Raises:
        HostError: the path is missing, a pickle, or no Stable Diffusion 1, 2 or XL.
    """
    try:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise HostError(
            f"the standalone host needs the package {error.name}; pip install 'lora-eval[standalone]'"
        ) from None
    if not path.exists():
        raise HostError(f"model {path} does not exist; give a diffusers folder or a .safetensors file")
    if path.is_dir():
        with _quiet():
            parts = _load_folder(path, dtype)
        weights = _weights_file(path / "unet")
    else:
        if path.suffix.lower() in _PICKLES:
            raise HostError(f"{path} may be a pickle, which can run code; convert to safetensors and use that file")
        if path.suffix.lower() != ".safetensors":
            raise HostError(f"{path} is not a checkpoint; give a diffusers folder or a .safetensors file")
        from lora_eval.host.standalone.singlefile import load_single_file

        with _quiet():
            parts = load_single_file(path, dtype)
        weights = path
    return _assemble(path, weights, parts, device, dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading without the libraries' progress bars and advice; errors are still raised."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    bars = [log for log in (diffusers_log, transformers_log) if log.is_progress_bar_enabled()]
    verbosity = [(log, log.get_verbosity()) for log in (diffusers_log, transformers_log)]
    try:
        for log, _ in verbosity:
            log.disable_progress_bar()
            log.set_verbosity_error()
        yield
    finally:
        for log, level in verbosity:
            log.set_verbosity(level)
        for log in bars:
            log.enable_progress_bar()


def vae_dtype(config: dict[str, Any], dtype: torch.dtype) -> torch.dtype:
    """The autoencoder of SDXL overflows in half precision; its configuration says so."""
    return torch.float32 if dtype == torch.float16 and config.get("force_upcast", False) else dtype


def _load_folder(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The networks, tokenizers and schedule of a folder in diffusers layout."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    missing = [
        name
        for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler/scheduler_config.json")
        if not (path / name).exists()
    ]
    if missing:
        raise HostError(
            f"{path} is no Stable Diffusion 1, 2 or XL in diffusers layout: {', '.join(missing)} missing; "
            "give the folder that holds model_index.json"
        )
    try:
        vae_kind = vae_dtype(AutoencoderKL.load_config(path / "vae"), dtype)
        parts: dict[str, Any] = {
            "unet": _load_network(UNet2DConditionModel, path / "unet", torch_dtype=dtype),
            "vae": _load_network(AutoencoderKL, path / "vae", torch_dtype=vae_kind),
            "text_encoders": [_load_network(CLIPTextModel, path / "text_encoder")],
            "tokenizers": [CLIPTokenizer.from_pretrained(path / "tokenizer")],
            "schedule": json.loads((path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")),
        }
        if (path / "text_encoder_2").is_dir():
            parts["text_encoders"].append(_load_network(CLIPTextModelWithProjection, path / "text_encoder_2"))
            parts["tokenizers"].append(CLIPTokenizer.from_pretrained(path / "tokenizer_2"))
        index = path / "model_index.json"
        if index.is_file():
            parts["index"] = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise HostError(f"{path} cannot be loaded ({_one_line(error)}); download it again") from error
    return parts


def _load_network(kind: Any, folder: Path, **options: Any) -> Any:
    """One network of the folder. The libraries fill what its file lacks with random numbers: refused here."""
    if not _has_plain_weights(folder) and any(folder.glob("*.fp16*.safetensors")):
        options["variant"] = "fp16"
    network, found = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
    missing = sorted(found["missing_keys"])
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise HostError(f"{folder} lacks {len(missing)} tensors of its network ({shown}); download it again")
    return network


def _has_plain_weights(folder: Path) -> bool:
    return any(".fp16" not in file.name for file in folder.glob("*.safetensors"))


def _weights_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"), key=lambda file: (".fp16" in file.name, file.name))
    if not files:
        raise HostError(f"{folder} holds no .safetensors weights; convert to safetensors")
    return files[0]


def _assemble(
    path: Path, weights: Path, parts: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> LoadedModel:
    unet, vae = parts["unet"], parts["vae"]
    if unet.config.in_channels != 4:
        raise HostError(
            f"{path} takes {unet.config.in_channels} latent channels (inpainting or an edit model); "
            "use a text-to-image checkpoint"
        )
    schedule = dict(parts["schedule"])
    prediction = schedule.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise HostError(f"{path} predicts {prediction!r}; only epsilon and v_prediction checkpoints are supported")
    info = ModelInfo(
        name=path.stem if path.is_file() else path.name,
        sha256=cached_sha256(weights),
        family=_family(unet, len(parts["text_encoders"])),
        prediction=prediction,
        path=path,
    )
    for encoder in parts["text_encoders"]:
        encoder.to(dtype)
    for network in (unet, vae, *parts["text_encoders"]):
        network.to(device).eval().requires_grad_(False)
    return LoadedModel(
        info=info,
        unet=unet,
        vae=vae,
        text_encoders=parts["text_encoders"],
        tokenizers=parts["tokenizers"],
        schedule=schedule,
        alphas_cumprod=_alphas_cumprod(schedule).to(device),
        device=device,
        dtype=dtype,
        zero_empty_negative=info.family == "sdxl" and parts.get("index", {}).get("force_zeros_for_empty_prompt", True),
    )


def _family(unet: Any, encoders: int) -> str:
    if encoders == 2:
        return "sdxl"
    width = unet.config.cross_attention_dim
    return "sd2" if width == 1024 or unet.config.get("use_linear_projection", False) else "sd1"


def _alphas_cumprod(schedule: dict[str, Any]) -> torch.Tensor:
    from diffusers import DDPMScheduler

    known = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"}
    known |= {"rescale_betas_zero_snr"}
    scheduler = DDPMScheduler(**{name: value for name, value in schedule.items() if name in known})
    return scheduler.alphas_cumprod.to(torch.float32)


def cached_sha256(path: Path) -> str:
    """SHA-256 of a checkpoint; large files are hashed once and remembered by path, size and time."""
    stat = path.stat()
    if stat.st_size < _SMALL_FILE:
        return file_sha256(path)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:32]
    entry = root / "lora-eval" / "sha256" / f"{key}.json"
    try:
        known = json.loads(entry.read_text(encoding="utf-8"))["sha256"]
        if isinstance(known, str) and len(known) == 64:
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass
    logger.info("hashing %s (once)", path.name)
    digest = file_sha256(path)
    try:
        write_json(entry, {"path": str(path.resolve()), "sha256": digest})
    except RunError as error:
        logger.debug("hash not remembered: %s", error)
    return digest


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
