"""The encoder: open_clip's own answers, one preprocessing, and errors that say what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_eval.encoders import clip
from lora_eval.encoders.clip import CONFIG, DEFAULT, TINY, WEIGHTS
from lora_eval.encoders.protocol import preprocess
from lora_eval.encoders.registry import encoder_id, load_encoder, resolve_encoder
from lora_eval.errors import ConfigError, HostError
from lora_eval.host.protocol import ModelInfo
from lora_eval.host.shipped import TINY_MODEL

open_clip = pytest.importorskip("open_clip")
torch = pytest.importorskip("torch")

MODEL_CFG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random open_clip model as a local folder."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip")
    preprocess_cfg = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1]}
    (path / CONFIG).write_text(json.dumps({"model_cfg": MODEL_CFG, "preprocess_cfg": preprocess_cfg}))
    state = open_clip.CLIP(**MODEL_CFG).state_dict()
    state = {key: value.half().contiguous() for key, value in state.items() if not key.endswith("attn_mask")}
    state = {key: value.float() if "num_batches" in key else value for key, value in state.items()}
    save_file(state, str(path / WEIGHTS))
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return load_encoder(str(folder), batch_size=4)


def picture(width=48, height=40, seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(32, 32), (48, 40), (33, 200), (200, 33), (512, 512), (31, 90)])
def test_preprocessing_is_open_clips_own(size):
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    theirs = open_clip.image_transform(32, is_train=False, mean=mean, std=std)(picture(*size)).numpy()
    ours = preprocess(picture(*size), 32, np.array(mean, np.float32), np.array(std, np.float32))
    assert np.abs(ours - theirs).max() < 1e-5


def test_features_are_those_of_a_bare_open_clip_loop(encoder, folder):
    images = [picture(seed=seed) for seed in range(10)]
    transform = open_clip.image_transform(32, is_train=False, mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.1))
    with torch.no_grad():
        bare = encoder._model.encode_image(torch.stack([transform(image) for image in images]))
    bare = (bare / bare.norm(dim=-1, keepdim=True)).numpy()
    assert np.abs(encoder.embed_images(images) - bare).max() < 1e-5


def test_features_have_unit_length_and_the_models_width(encoder):
    images, texts = encoder.embed_images([picture()] * 5), encoder.embed_texts(["a red star", "a blue heart"])
    assert images.shape == (5, 24) and texts.shape == (2, 24) and encoder.dim == 24
    assert np.linalg.norm(np.concatenate([images, texts]), axis=1) == pytest.approx(1, abs=1e-5)
    assert images.dtype == texts.dtype == np.float32
    assert encoder.embed_images([]).shape == encoder.embed_texts([]).shape == (0, 24)


def test_texts_longer_than_the_context_are_cut_not_refused(encoder):
    assert encoder.context_length == 20
    long = "red " * 40
    np.testing.assert_allclose(encoder.embed_texts([long]), encoder.embed_texts([long + "blue"]), atol=1e-6)


def test_the_id_names_the_weights_and_needs_no_model(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert encoder_id(str(folder)).split("@")[1] == encoder_id(str(copy)).split("@")[1]
    data = bytearray((copy / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (copy / WEIGHTS).write_bytes(data)
    assert encoder_id(str(folder)).split("@")[1] != encoder_id(str(copy)).split("@")[1]
    assert encoder_id(DEFAULT) == DEFAULT


def test_auto_is_the_tiny_clip_for_the_tiny_models_small_pictures_alone():
    tiny = ModelInfo("tiny", "", "sd1", "epsilon", TINY_MODEL)
    other = ModelInfo("v1-5", "", "sd1", "epsilon", Path("/models/v1-5.safetensors"))
    assert resolve_encoder("auto", tiny, 64) == TINY
    assert (
        resolve_encoder("auto", tiny, 512) == resolve_encoder("auto", other, 64) == resolve_encoder("auto") == DEFAULT
    )
    assert resolve_encoder("ViT-L-14/openai", tiny, 64) == "ViT-L-14/openai"


def test_the_shipped_tiny_clip_loads():
    encoder = load_encoder(TINY)
    assert encoder.size == 64 and encoder.id.startswith("tiny-clip@")
    assert encoder.embed_texts(["a red star"]).shape == (1, encoder.dim)


def test_weights_for_a_named_architecture(folder, tmp_path, monkeypatch):
    # any architecture of open_clip's list does; the random one is registered under a name of its own
    path = tmp_path / "random-tiny.json"
    path.write_text(json.dumps(MODEL_CFG))
    open_clip.add_model_config(path)
    encoder = load_encoder(f"random-tiny={folder / WEIGHTS}")
    np.testing.assert_allclose(
        encoder.embed_texts(["a cat"]), load_encoder(str(folder)).embed_texts(["a cat"]), atol=1e-6
    )


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: (p / WEIGHTS).unlink(), "lacks"),
        (lambda p: (p / CONFIG).unlink(), "lacks"),
        (lambda p: (p / WEIGHTS).write_bytes(b"\x80\x04pickle"), "not a safetensors file"),
        (lambda p: (p / CONFIG).write_text("{"), "restore it"),
        (lambda p: (p / CONFIG).write_text('{"model_cfg": {"embed_dim": 3}}'), "restore it"),
        (lambda p: (p / CONFIG).write_text(json.dumps({"model_cfg": {**MODEL_CFG, "embed_dim": 48}})), "does not fit"),
    ],
)
def test_a_damaged_folder_is_one_line(folder, tmp_path, damage, says):
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy)
    with pytest.raises(ConfigError, match=says) as error:
        load_encoder(str(copy))
    assert "\n" not in str(error.value)


def test_nan_in_the_weights_is_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    state = load_file(str(copy / WEIGHTS))
    state["text_projection"][0, 0] = float("nan")
    save_file(state, str(copy / WEIGHTS))
    with pytest.raises(ConfigError, match="not finite in text_projection"):
        load_encoder(str(copy))


@pytest.mark.parametrize(
    "name", ["ViT-B-33/openai", "ViT-B-32/nothing", "nonsense", "/nowhere/model", "ViT-B-32=/no.safetensors"]
)
def test_an_unknown_name_says_what_to_write(name):
    with pytest.raises(ConfigError, match=r"nearest|give|use"):
        load_encoder(name)


def test_offline_the_error_says_which_file_goes_where(monkeypatch):
    def offline(*arguments, **settings):
        raise OSError("Name or service not known\nand much more")

    monkeypatch.setattr(clip, "_safetensors", offline)
    told = []
    with pytest.raises(HostError) as error:
        load_encoder(DEFAULT, say=told.append)
    line = str(error.value)
    assert "\n" not in line and "Name or service not known" in line
    assert "https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K" in line
    assert f"ViT-B-32=/path/to/{WEIGHTS}" in line
    assert told == [f"loading {DEFAULT} (downloaded once where it is not on this machine)"]
