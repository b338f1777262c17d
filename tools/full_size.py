"""Random, seeded models of the true shapes, for measuring without a download.

    python -m tools.full_size --family sd15|sd21|sdxl --out DIR [--device cuda] [--dtype fp16]

Writes a folder in diffusers layout with the UNet, VAE, text encoders and schedule of Stable Diffusion 1.5, 2.1
(v-prediction) or XL at full size. Weights are drawn by each library's own initialisation from a fixed seed. A network
with random weights shrinks or grows its signal, so the UNet's and the VAE decoder's last convolution is scaled until
unit-variance latents give an output of unit variance (checked on one forward pass in float32); the activations in
between stay within a few units, far below the 65,504 of fp16. Speed and memory do not depend on the values.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

SEED = 0
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
_DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {
        "down_block_types": _DOWN,
        "up_block_types": _UP,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "sample_size": 64,
    },
    "sd21": {
        "down_block_types": _DOWN,
        "up_block_types": _UP,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "sample_size": 96,
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
    },
}
# width, layers, heads, activation and pooled projection of each text encoder
TEXT_ENCODERS: dict[str, list[tuple[int, int, int, str, bool]]] = {
    "sd15": [(768, 12, 12, "quick_gelu", False)],
    "sd21": [(1024, 23, 16, "gelu", False)],
    "sdxl": [(768, 12, 12, "quick_gelu", False), (1280, 32, 20, "gelu", True)],
}
SCHEDULE = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}


def make_unet(family: str, device: str = "cpu") -> Any:
    """The UNet at full size in float32, its output scaled to unit variance."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(SEED)
    with torch.device(device):
        unet = UNet2DConditionModel(in_channels=4, out_channels=4, layers_per_block=2, **UNETS[family]).eval()
    generator = torch.Generator(device).manual_seed(SEED)
    latents = torch.randn(1, 4, 32, 32, generator=generator, device=device)
    states = torch.randn(1, 77, UNETS[family]["cross_attention_dim"], generator=generator, device=device)
    more = None
    if family == "sdxl":
        more = {"text_embeds": torch.zeros(1, 1280, device=device), "time_ids": torch.zeros(1, 6, device=device)}
    with torch.no_grad():
        times = torch.tensor([500], device=device)
        out = unet(latents, times, states, added_cond_kwargs=more, return_dict=False)[0]
        unet.conv_out.weight.div_(out.std())
        unet.conv_out.bias.zero_()
    return unet


def write_model(folder: Path, family: str, device: str = "cpu", dtype: torch.dtype = torch.float16) -> Path:
    """Write the whole checkpoint in diffusers layout; returns ``folder``."""
    from diffusers import AutoencoderKL

    make_unet(family, device).to(dtype).save_pretrained(folder / "unet")
    torch.manual_seed(SEED)
    with torch.device(device):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
            scaling_factor=0.13025 if family == "sdxl" else 0.18215,
            force_upcast=family == "sdxl",
        ).eval()
        with torch.no_grad():
            out = vae.decode(torch.randn(1, 4, 16, 16), return_dict=False)[0]
            vae.decoder.conv_out.weight.div_(2 * out.std())
    vae.to(dtype).save_pretrained(folder / "vae")
    for number, shape in enumerate(TEXT_ENCODERS[family]):
        _write_text_encoder(
            folder, "" if number == 0 else f"_{number + 1}", shape, family != "sd15" and shape[4], dtype
        )
    kind = "v_prediction" if family == "sd21" else "epsilon"
    write_json(folder / "scheduler" / "scheduler_config.json", {**SCHEDULE, "prediction_type": kind})
    write_json(folder / "model_index.json", model_index(family))
    return folder


def _write_text_encoder(
    folder: Path, suffix: str, shape: tuple[int, int, int, str, bool], exclamation: bool, dtype: torch.dtype
) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from lora_eval.host.standalone.singlefile import _write_tokenizer

    width, layers, heads, activation, pooled = shape
    pad = "!" if exclamation else "<|endoftext|>"
    _write_tokenizer(folder / f"tokenizer{suffix}", pad)
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=0 if exclamation else 49407,
    )
    torch.manual_seed(SEED)
    model = (CLIPTextModelWithProjection if pooled else CLIPTextModel)(config)
    model.to(dtype).save_pretrained(folder / f"text_encoder{suffix}")


def model_index(family: str) -> dict[str, Any]:
    """``model_index.json`` of a family (``sdxl`` or any other): which class reads which folder."""
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    if family == "sdxl":
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        index["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
        index["force_zeros_for_empty_prompt"] = True
    else:
        index["safety_checker"] = [None, None]
        index["feature_extractor"] = [None, None]
        index["requires_safety_checker"] = False
    return index


def write_json(path: Path, value: Any) -> None:
    """Write JSON, its folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def main(argv: list[str]) -> int:
    """Write one model."""
    parser = argparse.ArgumentParser(prog="python -m tools.full_size")
    parser.add_argument("--family", choices=sorted(UNETS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp16")
    options = parser.parse_args(argv)
    print(write_model(options.out, options.family, options.device, DTYPES[options.dtype]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
