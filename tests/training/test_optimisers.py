"""Optimisers of other packages, where they are installed: they learn, and a resumed run is the undisturbed one."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_eval.errors import ConfigError
from lora_eval.training.config import OPTIMIZERS, make_config
from lora_eval.training.loop import train
from lora_eval.training.optim import make_optimizer, pack_state, unpack_state
from tests.fakes import FakeHost, write_dataset
from tests.training.test_loop import StopAt

# name -> module that must be there, class expected, a learning rate that suits these few steps
KNOWN: dict[str, tuple[str, str, float]] = {
    "adamw": ("torch", "AdamW", 2e-2),
    "adamw8bit": ("bitsandbytes", "AdamW8bit", 2e-2),
    "lion": ("lion_pytorch", "Lion", 5e-3),
    "prodigy": ("prodigyopt", "Prodigy", 1.0),
}


def made(name: str, parameters: list[torch.nn.Parameter], **values: Any) -> torch.optim.Optimizer:
    module, kind, rate = KNOWN[name]
    pytest.importorskip(module)
    config = make_config({"optimizer": name, "learning_rate": rate, "weight_decay": 0.01, **values})
    optimizer = make_optimizer(config, parameters)
    assert type(optimizer).__name__ == kind
    return optimizer


def fresh() -> list[torch.nn.Parameter]:
    """A tensor large enough for eight-bit moments (4096 numbers) and a small one, both with a way to go."""
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((96, 64), (8, 4))]


def loss(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    """Distance to a fixed goal."""
    generator = torch.Generator().manual_seed(1)
    goals = [torch.randn(p.shape, generator=generator) for p in parameters]
    return torch.stack([(p - goal).square().mean() for p, goal in zip(parameters, goals, strict=True)]).sum()


def steps(parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        loss(parameters).backward()
        optimizer.step()


def test_every_offered_optimiser_is_tested_here() -> None:
    assert set(KNOWN) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", KNOWN)
def test_it_learns(name: str) -> None:
    parameters = fresh()
    optimizer = made(name, parameters)
    before = float(loss(parameters))
    steps(parameters, optimizer, 150)
    assert float(loss(parameters)) < 0.5 * before


@pytest.mark.parametrize("name", KNOWN)
def test_its_state_survives_the_file_to_the_bit(name: str) -> None:
    whole = fresh()
    optimizer = made(name, whole)
    steps(whole, optimizer, 6)
    tensors, text = pack_state(optimizer)
    half = fresh()
    with torch.no_grad():
        for mine, theirs in zip(half, whole, strict=True):
            mine.copy_(theirs)
    other = made(name, half)
    unpack_state(other, tensors, text)
    before, after = optimizer.state_dict()["state"], other.state_dict()["state"]
    for index, entries in before.items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == after[index][key].dtype and torch.equal(value, after[index][key]), key
    steps(whole, optimizer, 6)
    steps(half, other, 6)
    assert all(torch.equal(one, two) for one, two in zip(whole, half, strict=True))


def test_eight_bit_moments_are_eight_bits() -> None:
    parameters = fresh()
    optimizer = made("adamw8bit", parameters)
    steps(parameters, optimizer, 1)
    large, small = (optimizer.state[p]["state1"].dtype for p in parameters)
    assert (large, small) == (torch.uint8, torch.float32)


@pytest.mark.parametrize("name", KNOWN)
def test_a_run_interrupted_and_resumed_is_the_undisturbed_one(tmp_path: Path, name: str) -> None:
    module, _, rate = KNOWN[name]
    pytest.importorskip(module)
    data = write_dataset(tmp_path / "data", 6)
    config = make_config(
        {
            "train_data_dir": str(data), "name": "toy", "epochs": 50, "max_steps": 10, "batch_size": 2,
            "optimizer": name, "learning_rate": rate, "lora_rank": 8, "save_steps": 3, "save_dtype": "fp32",
            "validation_fraction": 0,
        }
    )  # fmt: skip
    whole = train(FakeHost(tmp_path / "whole"), config)
    host = FakeHost(tmp_path / "parts")
    train(host, config, StopAt(5))
    resumed = train(host, config, resume=True)
    mine, theirs = load_file(whole.lora), load_file(resumed.lora)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert whole.history.read_bytes() == resumed.history.read_bytes()
    moved = sum(float(value.abs().sum()) for key, value in mine.items() if key.endswith("lora_up.weight"))
    assert math.isfinite(moved) and moved > 0


@pytest.mark.parametrize("name", sorted(set(KNOWN) - {"adamw"}))
def test_a_missing_package_is_named_with_the_way_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(module: str, package: str | None = None) -> Any:
        if module.split(".")[0] in ("bitsandbytes", "lion_pytorch", "torch_optimizer", "prodigyopt"):
            raise ImportError(module)
        return real(module, package)

    monkeypatch.setattr(importlib, "import_module", absent)
    config = make_config({"optimizer": name})
    line = rf"optimizer {name} needs {KNOWN[name][0]}\b.* not installed; use adamw, it needs nothing"
    with pytest.raises(ConfigError, match=line):
        make_optimizer(config, fresh())


def test_a_rate_that_prodigy_would_not_move_with_is_said(tmp_path: Path) -> None:
    pytest.importorskip("prodigyopt")
    data = write_dataset(tmp_path / "data", 4)
    values = {"train_data_dir": str(data), "name": "toy", "max_steps": 1, "optimizer": "prodigy"}
    said = "prodigy finds the learning rate itself"
    low = train(FakeHost(tmp_path / "a"), make_config({**values, "learning_rate": 2e-4}))
    assert any(said in note for note in low.notes)
    usual = train(FakeHost(tmp_path / "b"), make_config({**values, "learning_rate": 1.0}))
    assert not any(said in note for note in usual.notes)
