"""Single-file checkpoints: the same model as file and as folder draws the same picture, without a network."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_eval.errors import HostError
from lora_eval.host.protocol import ImageRequest, Sampling
from lora_eval.host.standalone import StandaloneHost
from lora_eval.lora.names import to_ldm_path
from tests.tiny_models import FAMILIES, write_tiny_model

pytest.importorskip("diffusers")

SAMPLING = Sampling(sampler="Euler", steps=3, width=64, height=64)
REQUESTS = [ImageRequest("a cat on the moon, watercolour", 1, "blurry"), ImageRequest("a dog", 2)]


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """(family, folder, single file) of one model."""
    root = tmp_path_factory.mktemp("single")
    folder = write_tiny_model(root / "folder", request.param, usual=True)
    file = root / "model.safetensors"
    save_file(original_layout(folder, request.param), file, metadata=metadata_of(request.param))
    return request.param, folder, file


def metadata_of(family: str) -> dict[str, str]:
    return {"modelspec.prediction_type": "v" if family == "sd2" else "epsilon"}


def pixels(host: StandaloneHost) -> np.ndarray:
    return np.stack([np.asarray(one.image).astype(int) for one in host.generate(REQUESTS, SAMPLING)])


@pytest.fixture(scope="module")
def loaded(pair: tuple[str, Path, Path]) -> StandaloneHost:
    """A host that has loaded the file with every network connection refused."""

    def no_network(*_args: object) -> None:
        raise OSError("no network in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", no_network)
        host = StandaloneHost(pair[2], device="cpu")
        host.model()
    return host


def test_file_draws_what_the_folder_draws(pair: tuple[str, Path, Path], loaded: StandaloneHost) -> None:
    family, folder, _ = pair
    info = loaded.model()
    assert (info.family, info.prediction) == (family, "v_prediction" if family == "sd2" else "epsilon")
    assert np.abs(pixels(loaded) - pixels(StandaloneHost(folder, device="cpu"))).max() <= 1


def test_tokens_are_those_of_clip(pair: tuple[str, Path, Path], loaded: StandaloneHost) -> None:
    open_clip = pytest.importorskip("open_clip")
    for text in ("a photo of a cat", "Watercolour, 8k (best)", "naïve café 猫 :)", "  two   spaces\nline "):
        theirs = open_clip.tokenize(text)[0]
        content = theirs[1 : int(theirs.argmax())].tolist()
        for tokenizer in loaded._load().tokenizers:
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == content


def test_configuration_beside_the_file_is_heard(pair: tuple[str, Path, Path], tmp_path: Path) -> None:
    family, _, file = pair
    if family != "sd1":
        pytest.skip("once is enough")
    copy = tmp_path / "v.safetensors"
    save_file(load_file(file), copy)
    beside = {"parameterization": "v", "scale_factor": 0.5, "unet_config": {"params": {"num_heads": 4}}}
    copy.with_suffix(".yaml").write_text(json.dumps({"model": {"params": beside}}), encoding="utf-8")
    host = StandaloneHost(copy, device="cpu")
    assert host.model().prediction == "v_prediction"
    assert host._load().unet.config.attention_head_dim == 4
    assert host._load().vae.config.scaling_factor == 0.5
    copy.with_suffix(".yaml").write_text("model: [", encoding="utf-8")
    with pytest.raises(HostError, match=r"v\.yaml"):
        StandaloneHost(copy, device="cpu").model()


def test_file_without_a_text_encoder_is_refused(pair: tuple[str, Path, Path], tmp_path: Path) -> None:
    tensors = {key: value for key, value in load_file(pair[2]).items() if key.startswith("model.diffusion_model.")}
    save_file(tensors, tmp_path / "pruned.safetensors")
    with pytest.raises(HostError, match="no text encoder"):
        StandaloneHost(tmp_path / "pruned.safetensors").model()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_k.weight", "missing from it"),
        ("cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight", r"lacks 1 tensors.*mlp\.fc1"),
    ],
)
def test_file_with_a_hole_is_refused(pair: tuple[str, Path, Path], tmp_path: Path, key: str, said: str) -> None:
    if pair[0] != "sd1":
        pytest.skip("once is enough")
    tensors = load_file(pair[2])
    del tensors[key]
    save_file(tensors, tmp_path / "holed.safetensors")
    with pytest.raises(HostError, match=said) as caught:
        StandaloneHost(tmp_path / "holed.safetensors", device="cpu").model()
    assert "holed.safetensors" in str(caught.value)


# -- the original layout, written down from the published checkpoints' key names ---------------------------


def original_layout(folder: Path, family: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for key, value in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        path, _, leaf = key.rpartition(".")
        tensors[f"model.diffusion_model.{to_ldm_path(path, family)}.{leaf}"] = value
    for key, value in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        name = vae_name(key)
        linear = ".attn_1." in name and value.ndim == 2
        tensors["first_stage_model." + name] = value[:, :, None, None] if linear else value
    first = load_file(folder / "text_encoder" / "model.safetensors")
    if family == "sd2":
        tensors |= open_clip_names(first, "cond_stage_model.model.", spare=True)
    else:
        start = "conditioner.embedders.0.transformer." if family == "sdxl" else "cond_stage_model.transformer."
        tensors |= {start + "text_model." + key.removeprefix("text_model."): value for key, value in first.items()}
    if family == "sdxl":
        second = load_file(folder / "text_encoder_2" / "model.safetensors")
        tensors |= open_clip_names(second, "conditioner.embedders.1.model.", spare=False)
    return {key: value.contiguous().clone() for key, value in tensors.items()}


def vae_name(key: str) -> str:
    rules = [
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
        (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.(\d)\.resnets\.(\d)", lambda match: f"up.{3 - int(match[1])}.block.{match[2]}"),
        (r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{3 - int(match[1])}.upsample"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
    ]
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)  # type: ignore[arg-type]
    return key


def open_clip_names(tensors: dict[str, torch.Tensor], start: str, spare: bool) -> dict[str, torch.Tensor]:
    """transformers' CLIP as open_clip saves it; ``spare`` adds the last layer that SD2 does not use."""
    tensors = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    found = {
        "positional_embedding": tensors["embeddings.position_embedding.weight"],
        "token_embedding.weight": tensors["embeddings.token_embedding.weight"],
        "ln_final.weight": tensors["final_layer_norm.weight"],
        "ln_final.bias": tensors["final_layer_norm.bias"],
        "text_projection": tensors.get("text_projection.weight", torch.zeros(32, 32)).T,
    }
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names["self_attn.out_proj"] = "attn.out_proj"
    layers = 1 + max(int(match[1]) for key in tensors if (match := re.match(r"encoder\.layers\.(\d+)", key)))
    for layer in range(layers + spare):
        source, target = f"encoder.layers.{min(layer, layers - 1)}.", f"transformer.resblocks.{layer}."
        for leaf in ("weight", "bias"):
            joined = [tensors[f"{source}self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            found[f"{target}attn.in_proj_{leaf}"] = torch.cat(joined)
            for ours, theirs in names.items():
                found[f"{target}{theirs}.{leaf}"] = tensors[f"{source}{ours}.{leaf}"]
    return {start + key: value for key, value in found.items()}
