"""Files between this package, diffusers and peft, on small UNets in the real layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_eval.lora.files import check_fits, load_lora, save_lora
from lora_eval.lora.layers import LoraNetwork, LoraOptions, Naming
from lora_eval.lora.metadata import TrainingFacts, build_metadata
from lora_eval.lora.targets import find_targets

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

Fill = Callable[[Any], Any]
SMALL = {"norm_num_groups": 4, "cross_attention_dim": 12, "attention_head_dim": 4, "sample_size": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": {"block_out_channels": (8, 8, 16, 16)},
    "sd2": {"block_out_channels": (8, 8, 16, 16), "use_linear_projection": True},
    "sdxl": {
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 32,
    },
}
SDXL_CONDITION = {"text_embeds": torch.zeros(2, 8), "time_ids": torch.arange(12.0).reshape(2, 6)}


def make_unet(family: str) -> Any:
    torch.manual_seed(1)
    return diffusers.UNet2DConditionModel(**SMALL, **CONFIGS[family]).requires_grad_(False).eval()


def run(unet: Any, family: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    x, context = (torch.randn(2, *shape, generator=generator) for shape in ((4, 8, 8), (5, 12)))
    extra = {"added_cond_kwargs": SDXL_CONDITION} if family == "sdxl" else {}
    with torch.no_grad():
        return unet(x, torch.tensor([3, 700]), context, **extra).sample


def pipeline(unet: Any, family: str) -> Any:
    """Just enough of a pipeline for its LoRA methods."""
    mixins = diffusers.loaders
    mixin = mixins.StableDiffusionXLLoraLoaderMixin if family == "sdxl" else mixins.StableDiffusionLoraLoaderMixin
    pipe = mixin()
    pipe.unet, pipe.text_encoder, pipe.text_encoder_2, pipe.components = unet, None, None, {"unet": unet}
    pipe.hf_device_map = None
    return pipe


@pytest.mark.parametrize("preset", ["attention", "transformer", "full"])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_diffusers_loads_our_file_to_the_same_output(tmp_path: Path, randomise: Fill, family: str, preset: str) -> None:
    unet = make_unet(family)
    network = LoraNetwork(
        unet,
        find_targets(unet, preset),
        rank=4,
        alpha=2.0,
        options=LoraOptions(conv_rank=2, conv_alpha=3.0),
        naming=Naming(family=family),
    )
    randomise(network)
    base = run(unet, family)
    with network:
        ours = run(unet, family)
    path = tmp_path / "zorp.safetensors"
    save_lora(path, network.state_dict(), build_metadata(TrainingFacts("zorp", family, rank=4, alpha=2.0)))

    pipeline(unet, family).load_lora_weights(str(tmp_path), weight_name=path.name)
    theirs = run(unet, family)
    assert (ours - base).abs().max() > 0.01
    assert torch.allclose(theirs, ours, atol=1e-4, rtol=1e-4)


PEFT_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "conv1", "downsamplers.0.conv"]


def peft_unet(family: str, **settings: Any) -> tuple[Any, torch.Tensor, dict[str, torch.Tensor]]:
    """A UNet with peft's LoRA on it, what it draws and what peft would save."""
    unet = make_unet(family)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=PEFT_TARGETS, init_lora_weights=False, **settings)
    unet.add_adapter(config)
    return unet, run(unet, family), peft.get_peft_model_state_dict(unet)


def ours_draws(path: Path, family: str) -> torch.Tensor:
    unet = make_unet(family)
    lora = load_lora(path)
    targets = find_targets(unet, "all")
    check_fits(lora, targets, "diffusers", family)
    with LoraNetwork.from_tensors(unet, targets, lora.tensors, "diffusers", family):
        return run(unet, family)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, {"rank_pattern": {"attn1.to_q": 2}, "alpha_pattern": {"attn2.to_k": 1}}],
    ids=["plain", "rank-stabilised", "patterns"],
)
def test_pefts_lora_saved_by_diffusers_loads_to_the_same_output(
    tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    unet, expected, state = peft_unet(family, **settings)
    from diffusers.utils import convert_state_dict_to_diffusers

    mixins = diffusers.loaders
    mixin = mixins.StableDiffusionXLLoraLoaderMixin if family == "sdxl" else mixins.StableDiffusionLoraLoaderMixin
    mixin.save_lora_weights(
        str(tmp_path),
        unet_lora_layers=convert_state_dict_to_diffusers(state),
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
    )
    drawn = ours_draws(tmp_path / "pytorch_lora_weights.safetensors", family)
    assert (expected - run(make_unet(family), family)).abs().max() > 0.01
    assert torch.allclose(drawn, expected, atol=1e-4, rtol=1e-4)


def test_pefts_own_folder_loads_to_the_same_output(tmp_path: Path) -> None:
    unet = make_unet("sd1")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=PEFT_TARGETS, init_lora_weights=False)
    model = peft.get_peft_model(unet, config)
    expected = run(model, "sd1")
    model.save_pretrained(str(tmp_path))
    assert torch.allclose(ours_draws(tmp_path / "adapter_model.safetensors", "sd1"), expected, atol=1e-4, rtol=1e-4)


def test_our_file_read_back_is_what_diffusers_itself_reads(tmp_path: Path, randomise: Fill) -> None:
    """A full circle: ours -> diffusers -> saved by diffusers -> ours."""
    unet = make_unet("sd1")
    network = randomise(LoraNetwork(unet, find_targets(unet, "full"), rank=4, alpha=4.0))
    save_lora(tmp_path / "a.safetensors", network.state_dict(), {})
    pipeline(unet, "sd1").load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    from diffusers.utils import convert_state_dict_to_diffusers

    state = peft.get_peft_model_state_dict(unet, adapter_name=next(iter(unet.peft_config)))
    diffusers.loaders.StableDiffusionLoraLoaderMixin.save_lora_weights(
        str(tmp_path), unet_lora_layers=convert_state_dict_to_diffusers(state)
    )
    back = load_lora(tmp_path / "pytorch_lora_weights.safetensors").tensors
    mine = {key: value for key, value in network.state_dict().items() if not key.endswith(".alpha")}
    assert back.keys() == mine.keys()
    assert all(torch.equal(back[key], value) for key, value in mine.items())
