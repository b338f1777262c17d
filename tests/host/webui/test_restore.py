"""Leaving modules as they were found, ordinary tensors out of inference ones, checkpointing, lent files."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lora_eval.host.restore import (
    GradientCheckpointing,
    clone_before_norms,
    freeze,
    kept_modules,
    kept_random,
    make_ordinary,
)
from lora_eval.host.webui.staging import FOLDER, Staging, fits_tag


class BasicTransformerBlock(nn.Module):
    """As in Forge: adds to its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x += self.first(self.norm1(x)).tanh()
        x += self.second(self.norm2(x)).tanh()
        return x


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside = nn.Linear(4, 8)
        self.blocks = nn.ModuleList([BasicTransformerBlock() for _ in range(3)])
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inside(x) * self.scale
        for block in self.blocks:
            x = block(x)
        return x


def fingerprint(root: nn.Module) -> list[Any]:
    """Everything that a borrower could leave changed."""
    found = []
    for name, module in root.named_modules():
        own = {n: p for n, p in module._parameters.items() if p is not None}
        tensors = [(n, p.requires_grad, p.grad is None, p.dtype, p.detach().tolist()) for n, p in own.items()]
        hooks = len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)
        found.append((name, module.training, sorted(module.__dict__), hooks, tensors))
    return found


def make_a_mess(unet: Unet) -> None:
    unet.blocks[0].first.register_forward_hook(lambda m, a, out: out + 1)
    unet.blocks[1].register_forward_pre_hook(lambda m, a: a)
    unet.inside.register_full_backward_hook(lambda m, i, o: None)
    unet.blocks[2].forward = lambda x: x  # type: ignore[method-assign]
    unet.train()
    freeze(unet)
    unet.inside.weight.requires_grad_(True)
    unet.inside.weight.grad = torch.ones(8, 4)


@pytest.mark.parametrize("ending", ["end", "error"])
def test_hooks_flags_modes_and_forwards_are_as_before(ending: str) -> None:
    unet = Unet().eval()
    unet.blocks[1].requires_grad_(False)
    unet.blocks[0].register_forward_hook(lambda m, a, out: out)
    before = fingerprint(unet)
    try:
        with kept_modules([unet]):
            make_a_mess(unet)
            assert fingerprint(unet) != before
            if ending == "error":
                raise ValueError
    except ValueError:
        pass
    assert fingerprint(unet) == before


def test_a_forward_that_another_extension_had_patched_stays() -> None:
    unet = Unet()
    patched = unet.blocks[0].forward
    unet.blocks[0].__dict__["forward"] = patched
    with kept_modules([unet]):
        unet.blocks[0].__dict__["forward"] = lambda x: x
    assert unet.blocks[0].__dict__["forward"] is patched


def test_flags_of_parameters_that_the_host_replaced_meanwhile() -> None:
    unet = Unet()
    with kept_modules([unet]):
        unet.inside._parameters["weight"] = nn.Parameter(torch.ones(8, 4), requires_grad=False)
    assert unet.inside.weight.requires_grad


def test_flags_of_inference_tensors_are_put_back() -> None:
    with torch.inference_mode():
        unet = Unet()
    assert unet.inside.weight.is_inference() and unet.inside.weight.requires_grad
    with kept_modules([unet]):
        freeze(unet)
        assert not any(p.requires_grad for p in unet.parameters())
    assert all(p.requires_grad for p in unet.parameters())


def test_random_generators_are_put_back() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    want = (random.random(), np.random.random(), torch.rand(1).item())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with pytest.raises(ValueError), kept_random():
        random.random(), np.random.random(3), torch.rand(9)
        raise ValueError
    assert (random.random(), np.random.random(), torch.rand(1).item()) == want


def test_ordinary_tensors_have_the_same_bits_and_take_part_in_autograd() -> None:
    with torch.inference_mode():
        unet = Unet()
    values = [p.detach().clone() for p in unet.parameters()]
    assert make_ordinary(unet) == len(values) + 1
    assert make_ordinary(unet) == 0
    for parameter, value in zip(unet.parameters(), values, strict=True):
        assert not parameter.is_inference() and not parameter.requires_grad and torch.equal(parameter, value)
    assert not unet.scale.is_inference()


def gradient(unet: Unet) -> torch.Tensor:
    x = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
    unet(x).square().sum().backward()
    assert x.grad is not None
    return x.grad


def reference_gradient() -> torch.Tensor:
    """The same blocks written without in-place additions."""
    unet = Unet()
    x = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
    h = unet.inside(x) * unet.scale
    for block in unet.blocks:
        h = h + block.first(block.norm1(h)).tanh()  # type: ignore[operator, union-attr]
        h = h + block.second(block.norm2(h)).tanh()  # type: ignore[operator, union-attr]
    h.square().sum().backward()
    assert x.grad is not None
    return x.grad


def test_in_place_blocks_fail_without_and_are_exact_with_the_copies() -> None:
    with pytest.raises(RuntimeError, match="inplace operation"):
        gradient(Unet())
    unet = Unet()
    handles = clone_before_norms(unet)
    assert torch.equal(gradient(unet), reference_gradient())
    for handle in handles:
        handle.remove()
    assert all(not module._forward_pre_hooks for module in unet.modules())


def test_checkpointing_gives_the_same_gradient_runs_blocks_twice_and_comes_off() -> None:
    unet, runs = Unet(), []
    clone_before_norms(unet)
    for block in unet.blocks:
        block.first.register_forward_hook(lambda m, a, out: runs.append(1))  # type: ignore[union-attr]
    checkpointing = GradientCheckpointing(unet, clone=True)
    checkpointing.set(True)
    checkpointing.set(True)
    assert torch.allclose(gradient(unet), reference_gradient(), rtol=1e-6, atol=0)
    assert len(runs) == 6
    with torch.no_grad():
        unet(torch.ones(1, 4))
    assert len(runs) == 9, "nothing is computed twice while drawing"
    checkpointing.set(False)
    assert all("forward" not in module.__dict__ for module in unet.modules())


# -- lent LoRA files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "fits"),
    [("cat", True), ("cat-000100", True), ("猫_v1.5", True), ("a b", False), ("a:1", False), ("", False)],
)
def test_stems_that_a_tag_can_hold(stem: str, fits: bool) -> None:
    assert fits_tag(stem) is fits


def test_lending_names_files_by_content(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "Lora")
    path = tmp_path / "cat.safetensors"
    path.write_bytes(b"one")
    first = staging.stage(path)
    assert first.parent == tmp_path / "Lora" / FOLDER and first.read_bytes() == b"one"
    assert staging.stage(path) == first
    path.unlink()
    path.write_bytes(b"two!")
    second = staging.stage(path)
    assert second != first and second.read_bytes() == b"two!"
    assert staging.clear() and not first.parent.exists() and path.read_bytes() == b"two!"
    assert not staging.clear()


def test_lending_copies_where_links_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "cat.safetensors"
    path.write_bytes(b"one")
    assert Staging(tmp_path / "Lora").stage(path).read_bytes() == b"one"


def test_leftovers_go_by_age_and_nothing_of_the_user_does(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    for name in ("cat-0123abcd.safetensors", "mine.safetensors"):
        (folder / name).write_bytes(b"x")
    Staging(tmp_path).clear_leftovers()
    assert len(list(folder.iterdir())) == 2
    Staging(tmp_path).clear_leftovers(older_than=-1)
    assert [path.name for path in folder.iterdir()] == ["mine.safetensors"]
