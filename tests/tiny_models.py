"""Stable Diffusion made from nothing: tiny random checkpoints of each family in diffusers layout.

The block layout is that of the real ones (levels, layers a block, where attention sits), so names of
layers in LoRA files are the real names. Everything else is small. Weights are random but seeded, and
large enough that the prompt, the seed and a LoRA visibly change the picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tools.full_size import SCHEDULE, model_index, write_json

FAMILIES = ("sd1", "sd2", "sdxl")
_POSITIONS = 16
_WIDTH = 32

_UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (32, 32, 32, 32),
        "cross_attention_dim": _WIDTH,
        "attention_head_dim": 2,
    },
    "sd2": {
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (32, 32, 32, 32),
        "cross_attention_dim": _WIDTH,
        "attention_head_dim": (1, 2, 2, 2),
        "use_linear_projection": True,
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 32, 32),
        "cross_attention_dim": 3 * _WIDTH,
        "attention_head_dim": (1, 2, 2),
        "transformer_layers_per_block": (1, 1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 2 * _WIDTH + 6 * 8,
    },
}


def write_tiny_model(
    folder: Path, family: str = "sd1", prediction: str | None = None, seed: int = 0, usual: bool = False
) -> Path:
    """Write a checkpoint of ``family`` into ``folder``; SD2 predicts v unless said otherwise. Returns ``folder``.

    ``usual`` gives everything that the weights do not tell the value of the real checkpoints: heads,
    groups of the norms, activations, CLIP's vocabulary. Larger, but fit to become a single file.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    shape = dict(_UNETS[family])
    if usual:
        shape["attention_head_dim"] = 8 if family == "sd1" else 1
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=2,
            norm_num_groups=32 if usual else 8,
            **shape,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32,) * 4 if usual else (8, 8, 16, 16),
            layers_per_block=1,
            norm_num_groups=32 if usual else 4,
            latent_channels=4,
            sample_size=64,
            scaling_factor=0.13025 if family == "sdxl" else 0.18215,
            force_upcast=family == "sdxl",
        )
        _enliven(unet)
        unet.save_pretrained(folder / "unet")
        vae.save_pretrained(folder / "vae")
        _write_text_encoder(folder, "", pooled=False, open_clip=family == "sd2", usual=usual)
        if family == "sdxl":
            _write_text_encoder(folder, "_2", pooled=True, open_clip=True, usual=usual)
    finally:
        torch.set_rng_state(state)
    prediction = prediction or ("v_prediction" if family == "sd2" else "epsilon")
    write_json(folder / "scheduler" / "scheduler_config.json", {**SCHEDULE, "prediction_type": prediction})
    write_json(folder / "model_index.json", model_index(family))
    return folder


def _enliven(unet: torch.nn.Module) -> None:
    """Louder attention, so that the text is heard in the picture of an untrained network."""
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".attn2.to_v" in name or ".attn2.to_out" in name or name.endswith("proj_out.weight"):
                parameter.mul_(4.0)


def _write_text_encoder(folder: Path, suffix: str, pooled: bool, open_clip: bool, usual: bool) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    place = folder / f"tokenizer{suffix}"
    pad = "!" if open_clip else "<|endoftext|>"
    if usual:
        from lora_eval.host.standalone.singlefile import _write_tokenizer

        _write_tokenizer(place, pad)
        vocabulary = json.loads((place / "vocab.json").read_text(encoding="utf-8"))
    else:
        vocabulary = _vocabulary()
        write_json(place / "vocab.json", vocabulary)
        (place / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        specials = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        write_json(
            place / "tokenizer_config.json",
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": _POSITIONS, **specials, "pad_token": pad},
        )
    # SDXL's second encoder is the wider one; diffusers tells the two apart by that
    width = 2 * _WIDTH if pooled else _WIDTH
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        # the text encoder of SD2 has 24 layers, the last of which is left out
        num_hidden_layers=23 if usual and open_clip and not pooled else 3,
        num_attention_heads=1 if usual else 2,
        max_position_embeddings=_POSITIONS,
        hidden_act="gelu" if usual and open_clip else "quick_gelu",
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary[pad],
    )
    encoder = (CLIPTextModelWithProjection if pooled else CLIPTextModel)(config)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("token_embedding.weight"):
                parameter.normal_(0, 0.7)
    encoder.save_pretrained(folder / f"text_encoder{suffix}")


def _vocabulary() -> dict[str, int]:
    """Byte-level BPE without merges: every byte, every byte that ends a word, and the two specials."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    words = symbols + [symbol + "</w>" for symbol in symbols] + ["<|startoftext|>", "<|endoftext|>"]
    return {word: index for index, word in enumerate(words)}
