"""The whole way with the shipped tiny model: files others draw alike, bits that repeat, a model left alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lora_eval.cli.exits import GOOD
from lora_eval.cli.main import main
from lora_eval.host.protocol import ImageRequest, LoraUse, Sampling
from lora_eval.training.config import load_config
from tests.article import ARTICLE, MODEL

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")

SAMPLING = Sampling(sampler="DDIM", steps=10, cfg_scale=4.0, width=64, height=64)
PROMPT = "a plain red mave on the left, cyan background"


def short_config(out: Path, **changes: object):  # type: ignore[no-untyped-def]
    from lora_eval.cli.commands import DEMO_CONFIG, DEMO_DATA

    settings = {"train_data_dir": str(DEMO_DATA), "output_dir": str(out), "max_steps": 6, "save_steps": 3}
    return load_config(DEMO_CONFIG, {**settings, "learning_rate": 2e-2, "validation_fraction": 0, **changes})


def host_in(folder: Path):  # type: ignore[no-untyped-def]
    from lora_eval.host.standalone import StandaloneHost

    return StandaloneHost(output_folder=folder, device="cpu")


def model_digest(host) -> str:  # type: ignore[no-untyped-def]
    """SHA-256 over every tensor of UNet, VAE and text encoder."""
    loaded = host._load()
    digest = hashlib.sha256()
    for part in (loaded.unet, loaded.vae, *loaded.text_encoders):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA after six hard steps: enough to change every picture."""
    from lora_eval.training.loop import train

    folder = tmp_path_factory.mktemp("spine")
    return train(host_in(folder), short_config(folder / "run")).lora


def test_training_twice_gives_the_same_bits_and_leaves_the_model_alone(trained: Path, tmp_path: Path) -> None:
    from lora_eval.training.loop import train

    host = host_in(tmp_path)
    request = [ImageRequest(PROMPT, 5)]
    before, digest = host.generate(request, SAMPLING)[0].image.tobytes(), model_digest(host)
    again = train(host, short_config(tmp_path / "run")).lora
    first, second = load_file(trained), load_file(again)
    assert first.keys() == second.keys()
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)
    assert model_digest(host) == digest
    assert host.generate(request, SAMPLING)[0].image.tobytes() == before


@pytest.mark.parametrize("weight", [0.6, 1.0])
def test_diffusers_draws_our_file_as_our_hooks_do(trained: Path, tmp_path: Path, weight: float) -> None:
    pytest.importorskip("peft")
    import torch
    from diffusers import StableDiffusionPipeline

    from lora_eval.host.standalone import default_model

    host = host_in(tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(default_model(), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(trained.parent), weight_name=trained.name, adapter_name="ours")
    pipeline.set_adapters(["ours"], [weight])
    for seed in (1, 2):
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator("cpu").manual_seed(seed))
        theirs = pipeline(
            PROMPT, latents=noise, num_inference_steps=10, guidance_scale=4.0, width=64, height=64, output_type="np"
        ).images[0]
        request = [ImageRequest(PROMPT, seed)]
        ours = np.asarray(host.generate(request, SAMPLING, LoraUse(trained, weight))[0].image).astype(int)
        base = np.asarray(host.generate(request, SAMPLING)[0].image).astype(int)
        assert np.abs(ours - np.round(theirs * 255)).max() <= 2
        assert np.abs(ours - base).max() > 20


def test_the_articles_yaml_runs_word_for_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from lora_eval.cli.commands import DEMO_DATA
    from lora_eval.host.standalone import default_model

    shutil.copytree(DEMO_DATA, tmp_path / "data" / "style_train")
    monkeypatch.chdir(tmp_path)
    Path("article.yaml").write_text(ARTICLE.replace(MODEL, str(default_model())))
    assert main(["train", "article.yaml", "max_steps=2", "--quiet"]) == GOOD
    assert (tmp_path / "output/my_style_lora/my_style_lora.safetensors").is_file()
    assert (tmp_path / "output/my_style_lora/history.csv").read_text().startswith("step,epoch,lr,loss,val_loss")


@pytest.mark.slow
def test_the_demo_measures_all_six_and_draws_nothing_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    out = tmp_path / "demo"
    main(["demo", "--out", str(out), "--quiet"])
    card = json.loads((out / "scorecard.json").read_text())
    assert len(card["dimensions"]) == 6
    assert all(d["score"] is not None or d["reason"] for d in card["dimensions"].values())
    assert card["recommended"]["weight"] is not None
    pictures = {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    tables = {name: (out / name).read_bytes() for name in ("cells.csv", "summary.csv", "scorecard.json")}
    lines = tables["cells.csv"].decode().splitlines()
    assert len(lines) - 1 == len(pictures) >= (1 + 2 * 4) * 6 * 4
    main(["demo", "--out", str(out), "--quiet"])
    assert {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()} == pictures
    assert {name: (out / name).read_bytes() for name in tables} == tables
