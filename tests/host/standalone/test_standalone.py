"""The standalone host against diffusers' own pipelines, against merged weights, and on bad input.

What every host promises is in tests/contract.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_eval.errors import HostError, LoraFileError
from lora_eval.host.protocol import ImageRequest, Job, LoraUse, Sampling
from lora_eval.host.standalone import StandaloneHost, default_model

pytest.importorskip("diffusers")

Folder = Callable[[str], Path]
SAMPLING = Sampling(sampler="Euler", steps=5, cfg_scale=6.5, width=64, height=64)
CAT = ImageRequest("a cat", 3, "dog")


def drawn(host: StandaloneHost, request: ImageRequest, sampling: Sampling, lora: LoraUse | None = None) -> np.ndarray:
    return np.asarray(host.generate([request], sampling, lora)[0].image).astype(int)


def noise(seed: int) -> torch.Tensor:
    return torch.randn((1, 4, 8, 8), generator=torch.Generator("cpu").manual_seed(seed))


# -- against diffusers -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_picture_is_that_of_the_diffusers_pipeline(model_folder: Folder, family: str, sampler: str) -> None:
    import diffusers

    kind = diffusers.StableDiffusionXLPipeline if family == "sdxl" else diffusers.StableDiffusionPipeline
    pipeline = kind.from_pretrained(model_folder(family))
    pipeline.set_progress_bar_config(disable=True)
    if sampler == "Euler":
        pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(
            pipeline.scheduler.config, timestep_spacing="linspace"
        )
    for prompt, negative in (("a cat", "dog"), ("a cat (big), red", "")):
        theirs = pipeline(
            prompt,
            # of SDXL an empty negative prompt is zeros, which diffusers asks for by None
            negative_prompt=negative or None,
            latents=noise(3),
            num_inference_steps=5,
            guidance_scale=6.5,
            width=64,
            height=64,
            output_type="np",
        ).images[0]
        ours = drawn(
            StandaloneHost(model_folder(family)), ImageRequest(prompt, 3, negative), replace(SAMPLING, sampler=sampler)
        )
        assert np.abs(ours - np.round(theirs * 255)).max() <= 1


def test_clip_skip_two_is_an_encoder_without_its_last_layer(model_folder: Folder) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = model_folder("sd1")
    shorter = CLIPTextModel.from_pretrained(folder / "text_encoder")
    del getattr(shorter, "text_model", shorter).encoder.layers[-1]
    tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer")(
        ["a cat"], padding="max_length", max_length=16, return_tensors="pt"
    )
    with torch.no_grad():
        expected = shorter(tokens.input_ids).last_hidden_state[0]
    host = StandaloneHost(folder)
    host.model()
    assert host._texts is not None
    assert torch.allclose(host._texts.get("a cat", 1, clip_skip=2).context, expected, atol=1e-6)
    assert not torch.allclose(host._texts.get("a cat", 1, clip_skip=1).context, expected, atol=1e-2)
    assert not np.array_equal(drawn(host, CAT, SAMPLING), drawn(host, CAT, replace(SAMPLING, clip_skip=2)))


def test_posterior_mean_is_scaled_as_the_autoencoder_says(model_folder: Folder) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(model_folder("sdxl") / "vae")
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = vae.encode(picture * 2 - 1).latent_dist.mode() * 0.13025
    with StandaloneHost(model_folder("sdxl")).borrow_model() as borrowed:
        assert torch.allclose(borrowed.encode_images(picture), expected, atol=1e-6)


# -- prompts -----------------------------------------------------------------------------------------


def test_long_prompt_is_encoded_chunk_by_chunk(model_folder: Folder) -> None:
    # the tiny tokenizer has a token a letter and 16 positions, so 14 letters fill a chunk
    first, second = "abcdefghijklmn", "opq"
    with StandaloneHost(model_folder("sd1")).borrow_model() as borrowed:
        whole = borrowed.encode_text([f"{' '.join(first)} {' '.join(second)}"], 64, 64).context[0]
        parts = [borrowed.encode_text([" ".join(part)], 64, 64).context[0] for part in (first, second)]
        assert torch.allclose(whole, torch.cat(parts), atol=1e-5)
        padded = borrowed.encode_text(["a", f"{' '.join(first)} o"], 64, 64).context[0]
        alone = borrowed.encode_text(["a", ""], 64, 64).context
        assert torch.allclose(padded, torch.cat([alone[0], alone[1]]), atol=1e-5)


def test_parentheses_are_text(model_folder: Folder) -> None:
    with StandaloneHost(model_folder("sd1")).borrow_model() as borrowed:
        context = borrowed.encode_text(["cat", "(cat)", "(cat:1.3)"], 64, 64).context
        assert not torch.allclose(context[0], context[1])
        assert not torch.allclose(context[1], context[2])


def test_a_distinct_prompt_is_encoded_once(model_folder: Folder) -> None:
    host = StandaloneHost(model_folder("sd1"))
    host.model()
    calls: list[Any] = []
    handle = host._load().text_encoders[0].register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        host.generate([CAT, replace(CAT, seed=4), replace(CAT, prompt="a dog")], SAMPLING)
    handle.remove()
    assert len(calls) == 3  # cat, dog, and the negative prompt


# -- LoRA against merged weights -----------------------------------------------------------------------


def random_lora(host: StandaloneHost, path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Write a LoRA of layers of different rank: linear, 1x1 and 3x3 convolution, text encoder.

    Returns the weights that it patches, each with what merging at weight 1 would add.
    """
    model = host._load()
    generator = torch.Generator().manual_seed(0)
    layers = {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (
            model.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k,
            2,
        ),
        "lora_unet_mid_block_attentions_0_proj_in": (model.unet.mid_block.attentions[0].proj_in, 3),
        "lora_unet_up_blocks_3_resnets_0_conv1": (model.unet.up_blocks[3].resnets[0].conv1, 4),
        "lora_te_text_model_encoder_layers_1_mlp_fc1": (
            dict(model.text_encoders[0].named_modules()).get("encoder.layers.1.mlp.fc1")
            or model.text_encoders[0].text_model.encoder.layers[1].mlp.fc1,
            1,
        ),
    }
    tensors, merged = {}, []
    for name, (module, rank) in layers.items():
        weight = module.weight
        down = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.3
        up = torch.randn(weight.shape[0], rank, *(1,) * (weight.ndim - 2), generator=generator)
        tensors |= {
            name + ".lora_down.weight": down,
            name + ".lora_up.weight": up,
            name + ".alpha": torch.tensor(rank / 2),
        }
        merged.append((weight, 0.5 * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)))
    save_file(tensors, path)
    return merged


def test_hooks_draw_what_merged_weights_draw(model_folder: Folder, tmp_path: Path) -> None:
    host, path = StandaloneHost(model_folder("sd1")), tmp_path / "mixed.safetensors"
    random_lora(host, path)
    assert host.check_lora(path).layers == 4
    base = drawn(host, CAT, SAMPLING)
    for weight in (1.0, 0.4, -0.5):
        hooked = drawn(host, CAT, SAMPLING, LoraUse(path, weight))
        other = StandaloneHost(model_folder("sd1"))
        for place, delta in random_lora(other, tmp_path / "again.safetensors"):
            with torch.no_grad():
                place.add_(weight * delta)
        assert np.abs(hooked - drawn(other, CAT, SAMPLING)).max() <= 1
        assert np.abs(hooked - base).max() > 3
    assert np.array_equal(base, drawn(host, CAT, SAMPLING))


def test_text_encoder_layers_of_a_lora_are_heard(model_folder: Folder, tmp_path: Path) -> None:
    host, path = StandaloneHost(model_folder("sd1")), tmp_path / "text.safetensors"
    random_lora(host, path)
    save_file({key: value for key, value in load_file(path).items() if key.startswith("lora_te")}, path)
    assert host.check_lora(path).layers == 1
    pictures = [drawn(host, CAT, SAMPLING, LoraUse(path, weight)) for weight in (0.0, 0.5, 1.0, 0.5, 0.0)]
    assert np.array_equal(pictures[0], pictures[4]) and np.array_equal(pictures[1], pictures[3])
    assert np.abs(pictures[0] - pictures[1]).max() > 0 and np.abs(pictures[1] - pictures[2]).max() > 0


def test_text_encoder_layer_that_the_model_lacks_is_named(model_folder: Folder, tmp_path: Path) -> None:
    name = "lora_te_text_model_encoder_layers_11_mlp_fc1"
    path = tmp_path / "deep.safetensors"
    save_file({name + ".lora_down.weight": torch.ones(1, 32), name + ".lora_up.weight": torch.ones(64, 1)}, path)
    with pytest.raises(LoraFileError, match="layers_11_mlp_fc1"):
        StandaloneHost(model_folder("sd1")).check_lora(path)


# -- the model's tensors -------------------------------------------------------------------------------


def test_model_written_to_in_place_is_read_anew(model_folder: Folder) -> None:
    host = StandaloneHost(model_folder("sd1"))
    before = drawn(host, CAT, SAMPLING)
    with host.borrow_model() as borrowed, torch.no_grad():
        next(borrowed.unet.parameters()).add_(1.0)
    assert np.array_equal(before, drawn(host, CAT, SAMPLING))


def test_prompts_encoded_for_a_borrower_are_forgotten_at_the_end(model_folder: Folder) -> None:
    host = StandaloneHost(model_folder("sd1"))
    host.generate([ImageRequest("a cat", 1)], Sampling(steps=1, width=64, height=64))
    known = host._texts.keys()
    with host.borrow_model() as borrowed:
        borrowed.encode_text(["a caption of the training set"], 64, 64)
        assert host._texts.keys() > known
    assert host._texts.keys() == known


def test_cast_replaced_and_added_parts_are_put_back(model_folder: Folder) -> None:
    host = StandaloneHost(model_folder("sd1"))
    before = drawn(host, CAT, SAMPLING)
    model = host._load()
    with host.borrow_model() as borrowed:
        borrowed.unet.half()
        borrowed.unet.conv_in.weight = torch.nn.Parameter(torch.zeros(1))
        borrowed.unet.extra = torch.nn.Linear(2, 2)
        borrowed.unet.mid_block.forward = lambda *_args, **_options: None
        model.vae.double()
    assert host._load() is model
    assert {tensor.dtype for network in model.modules().values() for tensor in network.parameters()} == {torch.float32}
    assert not hasattr(model.unet, "extra")
    assert np.array_equal(before, drawn(host, CAT, SAMPLING))


def test_bf16_model_draws_and_trains(model_folder: Folder) -> None:
    host = StandaloneHost(model_folder("sd1"), dtype="bf16")
    full = drawn(StandaloneHost(model_folder("sd1")), CAT, SAMPLING)
    assert np.abs(drawn(host, CAT, SAMPLING) - full).mean() < 12
    with host.borrow_model() as borrowed:
        noisy = torch.randn(1, 4, 8, 8)
        output = borrowed.denoise(noisy, torch.tensor([10]), borrowed.encode_text(["a"], 64, 64))
        assert (output.dtype, borrowed.compute_dtype) == (torch.float32, torch.bfloat16)


def test_large_checkpoint_is_hashed_once(model_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_eval.host.standalone import model as standalone_model

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(standalone_model, "_SMALL_FILE", 0)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    first = standalone_model.cached_sha256(file)
    assert first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    with monkeypatch.context() as patch:
        patch.setattr(standalone_model, "file_sha256", lambda path: pytest.fail("hashed again"))
        assert standalone_model.cached_sha256(file) == first
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert standalone_model.cached_sha256(file) != first


# -- progress --------------------------------------------------------------------------------------------


def test_progress_is_told(model_folder: Folder) -> None:
    seen: list[tuple[str, int, int]] = []

    def tell(job: Job) -> None:
        seen.append((job.title, job.done, job.total))

    host = StandaloneHost(model_folder("sd1"), progress=tell)
    with host.job("count", 2) as job:
        job.advance()
        job.advance()
        assert host.interrupt()
        assert job.interrupted
    assert seen == [("count", 0, 2), ("count", 1, 2), ("count", 2, 2)]
    assert not host.interrupt()


# -- bad input -------------------------------------------------------------------------------------------


def test_pickles_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(HostError, match="convert to safetensors"):
        StandaloneHost(file).model()


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"\x10\0\0\0\0\0\0\0{", b"\xff" * 64])
def test_broken_single_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(HostError, match=r"model\.safetensors") as caught:
        StandaloneHost(file).model()
    assert "\n" not in str(caught.value)


def test_lora_given_as_the_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.ones(1, 1)}, file)
    with pytest.raises(HostError, match="no Stable Diffusion UNet"):
        StandaloneHost(file).model()


def test_folder_without_a_model_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="unet, vae, text_encoder"):
        StandaloneHost(tmp_path).model()
    with pytest.raises(HostError, match="does not exist"):
        StandaloneHost(tmp_path / "nowhere").model()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_folder_with_a_hole_is_refused(model_folder: Folder, tmp_path: Path, part: str) -> None:
    copy = tmp_path / "holed"
    shutil.copytree(model_folder("sd1"), copy)
    file = next((copy / part).glob("*.safetensors"))
    tensors = load_file(file)
    gone = next(key for key in sorted(tensors) if key.endswith(".weight"))
    del tensors[gone]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(HostError) as caught:
        StandaloneHost(copy, device="cpu").model()
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampler": "Euler b"}, "Euler b"),
        ({"scheduler": "Karra"}, "Karra"),
        ({"sampler": "DDIM", "scheduler": "Karras"}, "DDIM"),
        ({"steps": 0}, "steps 0"),
        ({"width": 60}, "width 60"),
        ({"height": 0}, "height 0"),
        ({"clip_skip": 0}, "clip skip 0"),
    ],
)
def test_impossible_settings_are_named(model_folder: Folder, change: dict[str, Any], said: str) -> None:
    with pytest.raises(HostError, match=said):
        StandaloneHost(model_folder("sd1")).generate([CAT], replace(SAMPLING, **change))


def test_impossible_devices_are_named(model_folder: Folder) -> None:
    for options, said in (({"device": "gpu"}, "gpu"), ({"dtype": "fp8"}, "fp8")):
        with pytest.raises(HostError, match=said):
            StandaloneHost(model_folder("sd1"), **options).model()


# -- the shipped model -------------------------------------------------------------------------------------


def test_shipped_model_is_sd1() -> None:
    if not (default_model() / "unet" / "diffusion_pytorch_model.safetensors").is_file():
        pytest.skip("the shipped model is not there yet")
    host = StandaloneHost(device="cpu")
    assert (host.model().family, host.model().prediction) == ("sd1", "epsilon")
    assert host.native_size() == (64, 64)
    first, second = (drawn(host, replace(CAT, prompt=prompt), SAMPLING) for prompt in ("a red circle", "a blue star"))
    assert np.abs(first - second).mean() > 5
