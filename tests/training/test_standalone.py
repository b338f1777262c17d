"""Training on diffusers' own modules: every family, from pictures to a file that fits."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lora_eval.host.protocol import ImageRequest, LoraUse, Sampling
from lora_eval.training.config import make_config
from lora_eval.training.history import read_rows
from lora_eval.training.loop import train
from tests.fakes import hooks_on, write_dataset
from tests.tiny_models import write_tiny_model

pytest.importorskip("diffusers")

CASES = [("sd1", "epsilon"), ("sd2", "v_prediction"), ("sdxl", "epsilon")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), 6, trigger="zorp")


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from lora_eval.host.standalone import StandaloneHost

    family, prediction = request.param
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder / "model", family, prediction=prediction)
    return StandaloneHost(folder / "model", device="cpu", output_folder=folder / "out", lora_folder=folder / "lora")


def config(data: Path, **values: Any) -> Any:
    base = {"train_data_dir": str(data), "name": "toy", "max_steps": 4, "batch_size": 3, "resolution": 64}
    return make_config({**base, "learning_rate": 1e-2, "save_steps": 2, "validation_fraction": 0.34, **values})


def digest(host: Any) -> str:
    with host.borrow_model() as borrowed:
        found = hashlib.sha256()
        for name, value in borrowed.unet.state_dict().items():
            found.update(name.encode() + value.cpu().float().numpy().tobytes())
    return found.hexdigest()


def draw(host: Any, lora: LoraUse | None = None) -> np.ndarray:
    sampling = Sampling(steps=3, width=64, height=64, cfg_scale=4)
    return np.asarray(host.generate([ImageRequest("zorp at noon", 5)], sampling, lora)[0].image, dtype=int)


def test_from_pictures_to_a_file_that_fits(host: Any, data: Path) -> None:
    before, weights = draw(host), digest(host)
    result = train(host, config(data, preset="full", conv_rank=2, sample_prompts=["{trigger} at dusk"], trigger="zorp"))
    assert result.stopped == "finished"
    rows = read_rows(result.history)
    assert all(np.isfinite(row["loss"]) for row in rows[1:])  # type: ignore[arg-type]
    assert len(list((result.folder / "samples").iterdir())) == 2
    # the model is as it was, to the bit
    assert np.array_equal(draw(host), before) and digest(host) == weights
    # and the file is taken whole, and does something
    with host.borrow_model() as borrowed:
        assert hooks_on(borrowed.unet) == 0
    assert host.check_lora(result.lora).layers == sum(
        key.endswith("lora_down.weight") for key in load_file(result.lora)
    )
    assert not np.array_equal(draw(host, LoraUse(result.lora, 1.0)), before)


@pytest.mark.slow
def test_the_live_loss_is_that_of_the_saved_file(host: Any, data: Path) -> None:
    """What validation saw with the hooks on is what the file gives when it is loaded again."""
    first = train(host, config(data, save_dtype="fp32"))
    again = train(host, config(data, init_lora=str(first.lora), max_steps=1, learning_rate=1e-9))
    end, start = read_rows(first.history)[-1], read_rows(again.history)[0]
    assert start["val_loss"] == pytest.approx(end["val_loss"], rel=1e-6)


@pytest.mark.slow
def test_checkpointing_gives_the_same_lora(host: Any, data: Path) -> None:
    plain = load_file(train(host, config(data, save_dtype="fp32")).lora)
    saving = load_file(train(host, config(data, save_dtype="fp32", gradient_checkpointing=True)).lora)
    for key, value in plain.items():
        assert torch.allclose(saving[key], value, rtol=1e-4, atol=1e-6), key


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_same_seed_gives_the_same_bits(host: Any, data: Path, dropout: float) -> None:
    one, two = (load_file(train(host, config(data, dropout=dropout, save_dtype="fp32")).lora) for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
