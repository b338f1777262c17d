"""A single ``.safetensors`` checkpoint in the original layout, loaded by diffusers without a download.

diffusers converts the tensors (``from_single_file``); for that it wants the configuration and the
tokenizer of the family in diffusers layout, which it would fetch from a hub. Both can be had here:
sizes are read from the shapes in the file, the rest is the same for all checkpoints of a family
(the v1-inference, v2-inference and sd_xl_base configurations of CompVis and Stability AI), and
CLIP's vocabulary comes with open_clip.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lora_eval.errors import HostError
from lora_eval.log import logger

_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_CLIP = {"sd1": "cond_stage_model.transformer.text_model.", "sdxl": "conditioner.embedders.0.transformer.text_model."}
_OPEN_CLIP = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}
_VOCABULARY = 49408
_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "timestep_spacing": "leading",
}


@dataclass
class _Header:
    """What the file and the configuration beside it say before any tensor is read."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)

    def width(self, key: str, axis: int = 0) -> int:
        if key not in self.shapes:
            raise HostError(f"{self.path} is no whole Stable Diffusion checkpoint: {key} is missing; download it again")
        return self.shapes[key][axis]

    def count(self, start: str) -> int:
        """One more than the highest number that follows ``start`` in a key; a hole is not an end."""
        numbers = [key[len(start) :].partition(".")[0] for key in self.shapes if key.startswith(start)]
        return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def load_single_file(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Networks, tokenizers and schedule of a checkpoint, as ``standalone_model`` assembles them.

    Raises:
        HostError: truncated or no safetensors file, or no SD1, SD2 or SDXL checkpoint.
    """
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    header = _read_header(path)
    family = _family(header)
    with tempfile.TemporaryDirectory(prefix="lora-eval-") as name:
        folder = Path(name)
        prediction = _told_prediction(header)
        _write_configuration(folder, header, family, prediction or "epsilon")
        kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
        extra = {} if family == "sdxl" else {"safety_checker": None, "feature_extractor": None}
        try:
            pipeline = kind.from_single_file(
                str(path), config=str(folder), local_files_only=True, torch_dtype=dtype, **extra
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            if "meta tensor" in reason:
                # diffusers leaves what it did not find without numbers and stumbles over it later
                reason = "tensors of the UNet or the autoencoder are missing from it"
            raise HostError(f"{path} cannot be loaded ({reason}); download it again") from error
    sdxl = family == "sdxl"
    parts: dict[str, Any] = {
        "unet": pipeline.unet,
        "vae": pipeline.vae,
        "text_encoders": [pipeline.text_encoder, *([pipeline.text_encoder_2] if sdxl else [])],
        "tokenizers": [pipeline.tokenizer, *([pipeline.tokenizer_2] if sdxl else [])],
        "schedule": {**_schedule(header), "rescale_betas_zero_snr": "ztsnr" in header.shapes},
    }
    _check_whole(path, [parts["unet"], parts["vae"], *parts["text_encoders"]])
    if sdxl and dtype == torch.float16:
        # read anew in full precision: half has rounded the weights already
        parts["vae"] = _full_precision_vae(path, header, family)
    if prediction is None:
        prediction = "v_prediction" if family == "sd2" and _predicts_v(parts) else "epsilon"
    parts["schedule"]["prediction_type"] = prediction
    return parts


def _check_whole(path: Path, networks: list[Any]) -> None:
    """Tensors that the file lacks stay on the meta device, without numbers."""
    missing = [name for network in networks for name, tensor in network.named_parameters() if tensor.is_meta]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise HostError(
            f"{path} lacks {len(missing)} tensors of the model ({shown}); download it again or give a diffusers folder"
        )


def _read_header(path: Path) -> _Header:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise HostError(f"{path} is no readable safetensors file ({reason}); download or convert it again") from None
    config: dict[str, Any] = {}
    beside = path.with_suffix(".yaml")
    if beside.is_file():
        import yaml

        try:
            loaded = yaml.safe_load(beside.read_text(encoding="utf-8"))
            config = loaded["model"]["params"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise HostError(
                f"{beside} is no configuration of Stable Diffusion ({error!r}); mend or remove it"
            ) from None
    return _Header(path, shapes, metadata, config)


def _family(header: _Header) -> str:
    shapes = header.shapes
    if _UNET + "input_blocks.0.0.weight" not in shapes:
        raise HostError(
            f"{header.path} holds no Stable Diffusion UNet in the original layout; "
            "give a whole checkpoint or a folder in diffusers layout"
        )
    if any(key.startswith(_OPEN_CLIP["sdxl"]) for key in shapes):
        if not any(key.startswith(_CLIP["sdxl"]) for key in shapes):
            raise HostError(f"{header.path} has one of SDXL's two text encoders only; give a whole checkpoint")
        return "sdxl"
    for family, start in (("sd2", _OPEN_CLIP["sd2"]), ("sd1", _CLIP["sd1"])):
        if any(key.startswith(start) for key in shapes):
            return family
    raise HostError(
        f"{header.path} holds no text encoder of SD1, SD2 or SDXL (a refiner, a pruned file or another model); "
        "give a whole checkpoint"
    )


def _told_prediction(header: _Header) -> str | None:
    """What the file, its metadata or the configuration beside it say the UNet predicts."""
    facts = str(header.config.get("parameterization") or header.metadata.get("modelspec.prediction_type") or "")
    if facts:
        return "v_prediction" if facts.lower().startswith("v") else "epsilon"
    # SDXL fine-tunes with v-prediction carry an empty tensor of this name
    return "v_prediction" if "v_pred" in header.shapes else None


def _predicts_v(parts: dict[str, Any]) -> bool:
    """Whether an SD2 UNet predicts v: the WebUI's question (``modules/sd_models_config.py``).

    At the last timestep the input is all noise, so a network that predicts the noise returns about
    its input, and one that predicts v something much lower.
    """
    unet = parts["unet"]
    width = unet.config.cross_attention_dim
    with torch.no_grad():
        probe = (torch.ones(1, 4, 8, 8) * 0.5).to(unet.dtype)
        text = (torch.ones(1, 2, width) * 0.5).to(unet.dtype)
        output = unet(probe, 999, encoder_hidden_states=text, return_dict=False)[0]
    found = float((output - probe).float().mean()) < -1
    logger.info("SD2 checkpoint without a stated prediction: taken for %s", "v" if found else "epsilon")
    return found


def _full_precision_vae(path: Path, header: _Header, family: str) -> Any:
    from diffusers import AutoencoderKL

    with tempfile.TemporaryDirectory(prefix="lora-eval-") as name:
        _write_json(Path(name) / "vae" / "config.json", _vae_config(header, family))
        return AutoencoderKL.from_single_file(
            str(path), config=name, subfolder="vae", local_files_only=True, torch_dtype=torch.float32
        )


# -- configuration from shapes -------------------------------------------------------------------------


def _write_configuration(folder: Path, header: _Header, family: str, prediction: str) -> None:
    sdxl = family == "sdxl"
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if sdxl else "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    if sdxl:
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        index["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    _write_json(folder / "model_index.json", index)
    _write_json(folder / "unet" / "config.json", _unet_config(header, family))
    _write_json(folder / "vae" / "config.json", _vae_config(header, family))
    schedule = {"_class_name": "DDIMScheduler", **_schedule(header), "prediction_type": prediction}
    _write_json(folder / "scheduler" / "scheduler_config.json", schedule)
    if family in _CLIP:
        _write_json(folder / "text_encoder" / "config.json", _clip_config(header, _CLIP[family]))
        _write_tokenizer(folder / "tokenizer", pad="<|endoftext|>")
    if family in _OPEN_CLIP:
        suffix = "_2" if sdxl else ""
        _write_json(folder / f"text_encoder{suffix}" / "config.json", _open_clip_config(header, family))
        _write_tokenizer(folder / f"tokenizer{suffix}", pad="!")


def _schedule(header: _Header) -> dict[str, Any]:
    facts = {"beta_start": header.config.get("linear_start"), "beta_end": header.config.get("linear_end")}
    return {**_SCHEDULE, **{name: float(value) for name, value in facts.items() if value is not None}}


def _unet_config(header: _Header, family: str) -> dict[str, Any]:
    # one block for the input, then two ResNet blocks and a downsampler a level; the last has none
    levels = header.count(_UNET + "input_blocks.") // 3
    starts = [f"{_UNET}input_blocks.{1 + 3 * level}." for level in range(levels)]
    widths = [header.width(start + "0.out_layers.3.weight") for start in starts]
    depths = [header.count(start + "1.transformer_blocks.") for start in starts]
    first = next((level for level, depth in enumerate(depths) if depth), None)
    if first is None:
        raise HostError(f"{header.path}: its UNet has no cross-attention where Stable Diffusion has it")
    attention = f"{_UNET}input_blocks.{1 + 3 * first}.1."
    header.width(attention + "proj_in.weight")
    linear = len(header.shapes[attention + "proj_in.weight"]) == 2
    facts = header.config.get("unet_config") or header.config.get("network_config") or {}
    facts = facts.get("params", {}) if isinstance(facts, Mapping) else {}
    if int(facts.get("num_heads") or -1) > 0:
        heads: Any = int(facts["num_heads"])
    elif int(facts.get("num_head_channels") or -1) > 0:
        heads = [max(1, width // int(facts["num_head_channels"])) for width in widths]
    else:
        # SD1 has 8 heads at every width, SD2 and SDXL heads of 64 channels
        heads = 8 if family == "sd1" else [max(1, width // 64) for width in widths]
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": {"sd1": 64, "sd2": 64, "sdxl": 128}[family],
        "in_channels": header.width(_UNET + "input_blocks.0.0.weight", 1),
        "out_channels": header.width(_UNET + "out.2.weight"),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "block_out_channels": widths,
        "layers_per_block": 2,
        "cross_attention_dim": header.width(attention + "transformer_blocks.0.attn2.to_k.weight", 1),
        # diffusers' name for the number of heads
        "attention_head_dim": heads,
        "use_linear_projection": linear,
    }
    if family == "sdxl":
        vector = header.width(_UNET + "label_emb.0.0.weight", 1)
        pooled = header.width(_OPEN_CLIP["sdxl"] + "text_projection", 1)
        config |= {
            "transformer_layers_per_block": [max(1, depth) for depth in depths],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (vector - pooled) // 6,
            "projection_class_embeddings_input_dim": vector,
        }
    return config


def _vae_config(header: _Header, family: str) -> dict[str, Any]:
    levels = header.count(_VAE + "encoder.down.")
    widths = [header.width(f"{_VAE}encoder.down.{level}.block.0.conv1.weight") for level in range(levels)]
    sdxl = family == "sdxl"
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": widths,
        "layers_per_block": header.count(_VAE + "encoder.down.0.block."),
        "latent_channels": header.width(_VAE + "post_quant_conv.weight", 1),
        "sample_size": 1024 if sdxl else 512,
        "scaling_factor": float(header.config.get("scale_factor") or (0.13025 if sdxl else 0.18215)),
        "force_upcast": sdxl,
    }


def _clip_config(header: _Header, start: str) -> dict[str, Any]:
    width = header.width(start + "embeddings.token_embedding.weight", 1)
    return _text_config(
        header,
        vocabulary=header.width(start + "embeddings.token_embedding.weight"),
        hidden_size=width,
        intermediate_size=header.width(start + "encoder.layers.0.mlp.fc1.weight"),
        num_hidden_layers=header.count(start + "encoder.layers."),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=header.width(start + "embeddings.position_embedding.weight"),
        hidden_act="quick_gelu",
        projection_dim=width,
        pad_token_id=1,
    )


def _open_clip_config(header: _Header, family: str) -> dict[str, Any]:
    start = _OPEN_CLIP[family]
    width = header.width(start + "token_embedding.weight", 1)
    layers = header.count(start + "transformer.resblocks.")
    return _text_config(
        header,
        vocabulary=header.width(start + "token_embedding.weight"),
        hidden_size=width,
        intermediate_size=header.width(start + "transformer.resblocks.0.mlp.c_fc.weight"),
        # SD2 was trained on the penultimate layer, so its last one is left out
        num_hidden_layers=layers - 1 if family == "sd2" else layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=header.width(start + "positional_embedding"),
        hidden_act="gelu",
        projection_dim=header.width(start + "text_projection", 1) if family == "sdxl" else width,
        pad_token_id=1,
    )


def _text_config(header: _Header, vocabulary: int, **sizes: Any) -> dict[str, Any]:
    if vocabulary != _VOCABULARY:
        raise HostError(
            f"{header.path}: its text encoder knows {vocabulary} tokens, CLIP's tokenizer has {_VOCABULARY}; "
            "give the model as a diffusers folder with its own tokenizer"
        )
    return {"model_type": "clip_text_model", "vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 2, **sizes}


# -- tokenizer -----------------------------------------------------------------------------------------


def _write_tokenizer(folder: Path, pad: str) -> None:
    """CLIP's tokenizer in transformers' files, from the list of merges that open_clip ships."""
    merges = _merges()
    vocabulary = _byte_symbols()
    vocabulary += [symbol + "</w>" for symbol in vocabulary]
    vocabulary += ["".join(merge.split()) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    _write_json(folder / "vocab.json", {word: number for number, word in enumerate(vocabulary)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    specials = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **specials, "pad_token": pad}
    _write_json(folder / "tokenizer_config.json", config)


def _merges() -> list[str]:
    found = importlib.util.find_spec("open_clip")
    places = list(found.submodule_search_locations or []) if found else []
    for place in places:
        file = Path(place) / "bpe_simple_vocab_16e6.txt.gz"
        if file.is_file():
            lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
            # the first line is a version; of the longer list CLIP uses as many as fill its vocabulary
            return lines[1 : 1 + _VOCABULARY - 2 * 256 - 2]
    raise HostError("single-file checkpoints need CLIP's vocabulary from open_clip; pip install open_clip_torch")


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes of GPT-2's byte-level BPE, in its order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
