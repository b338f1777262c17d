"""Names of layers in files, against tables made by others and a network written twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lora_eval.errors import LoraFileError
from lora_eval.lora.layers import LoraNetwork, Naming
from lora_eval.lora.names import kohya_name, kohya_names, to_diffusers_path, to_ldm_path
from lora_eval.lora.targets import find_targets

# Pairs as the WebUI's Lora extension and sd-scripts' conversion tables have them.
KNOWN = [
    ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "input_blocks.1.1.transformer_blocks.0.attn1.to_q"),
    ("down_blocks.0.attentions.1.proj_in", "input_blocks.2.1.proj_in"),
    ("down_blocks.1.attentions.0.proj_out", "input_blocks.4.1.proj_out"),
    (
        "down_blocks.2.attentions.1.transformer_blocks.0.ff.net.0.proj",
        "input_blocks.8.1.transformer_blocks.0.ff.net.0.proj",
    ),
    ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
    ("down_blocks.2.downsamplers.0.conv", "input_blocks.9.0.op"),
    ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks.4.0.skip_connection"),
    ("down_blocks.3.resnets.1.conv2", "input_blocks.11.0.out_layers.3"),
    (
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
        "middle_block.1.transformer_blocks.0.attn2.to_out.0",
    ),
    ("mid_block.resnets.0.conv1", "middle_block.0.in_layers.2"),
    ("mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"),
    ("up_blocks.1.attentions.0.proj_in", "output_blocks.3.1.proj_in"),
    ("up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2", "output_blocks.11.1.transformer_blocks.0.ff.net.2"),
    ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
    ("up_blocks.2.upsamplers.0.conv", "output_blocks.8.2.conv"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_out", "out.2"),
    ("time_embedding.linear_2", "time_embed.2"),
]


@pytest.mark.parametrize(("diffusers", "ldm"), KNOWN)
def test_known_pairs(diffusers: str, ldm: str) -> None:
    assert to_ldm_path(diffusers, "sd1") == ldm
    assert to_diffusers_path(ldm) == diffusers


def test_sdxl_has_attention_before_every_upsampler() -> None:
    assert to_ldm_path("up_blocks.0.upsamplers.0.conv", "sdxl") == "output_blocks.2.2.conv"
    assert to_diffusers_path("output_blocks.2.2.conv") == "up_blocks.0.upsamplers.0.conv"
    assert to_ldm_path("add_embedding.linear_1", "sdxl") == "label_emb.0.0"


@pytest.mark.parametrize("family", ["sd1", "sd2", "unknown"])
@pytest.mark.parametrize("layout", ["diffusers", "ldm"])
def test_sd_files_use_diffusers_names(layout: str, family: str) -> None:
    path = {"diffusers": KNOWN[0][0], "ldm": KNOWN[0][1]}[layout]
    expected = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert kohya_name(path, layout, family) == expected


@pytest.mark.parametrize("layout", ["diffusers", "ldm"])
def test_sdxl_files_use_the_original_names(layout: str) -> None:
    diffusers = "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q"
    path = {"diffusers": diffusers, "ldm": "input_blocks.4.1.transformer_blocks.1.attn1.to_q"}[layout]
    assert kohya_names(path, layout, "sdxl") == (
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q",
        "lora_unet_" + diffusers.replace(".", "_"),
    )


@pytest.mark.parametrize("path", ["encoder.layers.0", "input_blocks.3.1.proj_in", "down_blocks.0.samplers.0", ""])
def test_a_path_of_another_network_is_named(path: str) -> None:
    with pytest.raises(LoraFileError):
        to_diffusers_path(path)
    with pytest.raises(LoraFileError):
        to_ldm_path(path, "sd1")


def test_an_unknown_layout_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="comfy"):
        kohya_name("conv_in", "comfy", "sd1")


def twin_weights(unet: nn.Module, ldm_unet: nn.Module) -> None:
    """Put the weights of one spelling into the other; strict, so each name must be right."""
    renamed = {}
    for key, value in ldm_unet.state_dict().items():
        path, _, last = key.rpartition(".")
        renamed[f"{to_diffusers_path(path)}.{last}"] = value
    unet.load_state_dict(renamed, strict=True)


@pytest.mark.parametrize("preset", ["attention", "transformer", "full", "all"])
def test_a_file_works_alike_on_both_spellings(
    unet: nn.Module, ldm_unet: nn.Module, inputs: tuple[Any, ...], randomise: Callable[[Any], Any], preset: str
) -> None:
    """Trained on one spelling, loaded on the other: the same picture, for either family's names."""
    twin_weights(unet, ldm_unet)
    assert torch.allclose(unet(*inputs), ldm_unet(*inputs), atol=1e-5)
    for family in ("sd1", "sdxl"):
        source = randomise(
            LoraNetwork(ldm_unet, find_targets(ldm_unet, preset), naming=Naming(layout="ldm", family=family))
        )
        tensors = source.state_dict()
        assert all(key.startswith("lora_unet_") for key in tensors)
        spelt = any("output_blocks" in key for key in tensors)
        assert spelt == (family == "sdxl")
        targets = find_targets(unet, preset)
        copy = LoraNetwork(unet, targets, naming=Naming(layout="diffusers", family="sd1"))
        if family == "sdxl":
            # SDXL counts the lowest upsampler differently; this little UNet is built as SD1
            tensors = {key.replace("blocks_2_2_conv", "blocks_2_1_conv"): value for key, value in tensors.items()}
        assert copy.load(tensors).layers == len(targets)
        with source:
            expected = ldm_unet(*inputs)
        with copy:
            assert torch.allclose(unet(*inputs), expected, atol=1e-4)


SDXL = {
    "block_out_channels": (16, 16, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 32,
}
SD1 = {"block_out_channels": (16, 16, 32, 32)}


@pytest.mark.parametrize(("family", "config"), [("sd1", SD1), ("sdxl", SDXL)])
def test_every_layer_against_diffusers_own_checkpoint_converter(family: str, config: dict[str, Any]) -> None:
    """Name all weights our way in the original spelling; diffusers' converter must put each where it was."""
    diffusers = pytest.importorskip("diffusers")
    utils = pytest.importorskip("diffusers.loaders.single_file_utils")
    unet = diffusers.UNet2DConditionModel(norm_num_groups=4, cross_attention_dim=8, attention_head_dim=4, **config)
    named = {}
    for key, value in unet.state_dict().items():
        path, _, last = key.rpartition(".")
        named[f"model.diffusion_model.{to_ldm_path(path, family)}.{last}"] = value
        assert to_diffusers_path(to_ldm_path(path, family)) == path
    back = utils.convert_ldm_unet_checkpoint(dict(named), {**unet.config, "num_class_embeds": None})
    assert back.keys() == unet.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in unet.state_dict().items())
