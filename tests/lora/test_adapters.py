"""Every format of adapter changes a layer as the program that writes it does.

The independent implementation is the package ``lycoris-lora``: its modules are made, filled with random numbers, and
asked for their state and their merged weight.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora_eval.errors import LoraFileError
from lora_eval.lora.adapters.formats import COMMON, FORMATS, decompose, format_of, is_plain, layer_change, scale_of

lycoris = pytest.importorskip("lycoris.modules", reason="needs the package lycoris-lora (extra dev)")

LAYERS = {
    "linear": lambda: nn.Linear(24, 32),
    "kernel": lambda: nn.Conv2d(24, 32, 3),
    "1x1": lambda: nn.Conv2d(24, 32, 1),
}


def theirs(kind: str, layer: nn.Module, **settings):  # type: ignore[no-untyped-def]
    """A module of lycoris with random numbers: its tensors by their names in a file, and its merged weight."""
    from lycoris.modules.boft import ButterflyOFTModule
    from lycoris.modules.diag_oft import DiagOFTModule
    from lycoris.modules.full import FullModule
    from lycoris.modules.glora import GLoRAModule
    from lycoris.modules.ia3 import IA3Module
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule
    from lycoris.modules.norms import NormModule

    torch.manual_seed(0)
    made = {
        "LoRA": LoConModule, "LoHa": LohaModule, "LoKr": LokrModule, "full difference": FullModule,
        "GLoRA": GLoRAModule,
        "IA3": IA3Module, "OFT": DiagOFTModule, "BOFT": ButterflyOFTModule, "norm difference": NormModule,
    }[kind]("name", layer, 1.0, **settings)  # fmt: skip
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name != "dora_scale":
                parameter.copy_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.mul_(1 + torch.rand_like(parameter))
    parts = {name: tensor.detach().clone() for name, tensor in made.state_dict().items() if "org" not in name}
    if kind in ("LoHa", "LoKr") and not settings.get("weight_decompose"):
        # their get_merged_weight takes the scale twice (lycoris-lora 4.1); what their forward uses takes it once
        return parts, (layer.weight + made.get_weight(layer.weight.shape).reshape(layer.weight.shape), None)
    return parts, made.get_merged_weight(1.0)


def check(kind: str, parts: dict[str, torch.Tensor], layer: nn.Module, merged) -> None:  # type: ignore[no-untyped-def]
    found = format_of(parts)
    assert found is not None and found.name == kind.replace("BOFT", "OFT")
    change, bias = layer_change(parts, layer.weight)
    weight, shift = merged
    assert torch.allclose(layer.weight + change, weight.reshape(layer.weight.shape), atol=2e-5)
    if bias is not None and shift is not None:
        assert torch.allclose(layer.bias + bias, shift, atol=1e-6)


@pytest.mark.parametrize("shape", LAYERS)
@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
@pytest.mark.parametrize("tucker", [False, True])
def test_low_rank_formats(kind: str, shape: str, tucker: bool) -> None:
    layer = LAYERS[shape]()
    parts, merged = theirs(kind, layer, lora_dim=4, alpha=2, use_tucker=tucker)
    check(kind, parts, layer, merged)


@pytest.mark.parametrize("settings", [{"factor": 4}, {"factor": 4, "decompose_both": True}, {"full_matrix": True}])
@pytest.mark.parametrize("shape", ["linear", "kernel"])
def test_kronecker_factors_whole_and_low_rank(settings: dict[str, object], shape: str) -> None:
    layer = LAYERS[shape]()
    parts, merged = theirs("LoKr", layer, lora_dim=2, alpha=1, **settings)
    check("LoKr", parts, layer, merged)


# their LoHa with DoRA cannot merge kernels (lycoris-lora 4.1)
@pytest.mark.parametrize("by_output", [True, False])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [("LoRA", "linear"), ("LoRA", "kernel"), ("LoHa", "linear"), ("LoKr", "linear"), ("LoKr", "kernel")],
)
def test_dora_over_outputs_and_inputs(kind: str, shape: str, by_output: bool) -> None:
    layer = LAYERS[shape]()
    parts, merged = theirs(kind, layer, lora_dim=4, alpha=4, weight_decompose=True, wd_on_out=by_output)
    assert "dora_scale" in parts and not is_plain(parts)
    check(kind, parts, layer, merged)


@pytest.mark.parametrize("shape", ["linear", "kernel", "1x1"])
def test_full_difference_with_its_bias(shape: str) -> None:
    layer = LAYERS[shape]()
    diff, shift = torch.randn_like(layer.weight), torch.randn_like(layer.bias)
    change, bias = layer_change({"diff": diff, "diff_b": shift, "alpha": torch.tensor(3.0)}, layer.weight)
    assert torch.equal(change, diff) and bias is not None and torch.equal(bias, shift)


def test_norm_difference() -> None:
    layer = nn.LayerNorm(16)
    parts, merged = theirs("norm difference", layer)
    check("norm difference", {name: parts[name] for name in ("w_norm", "b_norm")}, layer, merged)


@pytest.mark.parametrize("shape", ["linear", "1x1"])
def test_glora_in_the_order_of_either_time(shape: str) -> None:
    layer = LAYERS[shape]()
    parts, merged = theirs("GLoRA", layer, lora_dim=4, alpha=2)
    check("GLoRA", parts, layer, merged)
    swapped = {"a1.weight": "a2.weight", "a2.weight": "a1.weight", "b1.weight": "b2.weight", "b2.weight": "b1.weight"}
    older = {swapped.get(name, name): tensor for name, tensor in parts.items()}
    assert torch.allclose(layer_change(parts, layer.weight)[0], layer_change(older, layer.weight)[0])


@pytest.mark.parametrize("on_input", [True, False])
def test_ia3(on_input: bool) -> None:
    layer = LAYERS["linear"]()
    parts, merged = theirs("IA3", layer, train_on_input=on_input)
    check("IA3", parts, layer, merged)


@pytest.mark.parametrize("shape", ["linear", "kernel"])
@pytest.mark.parametrize("kind", ["OFT", "BOFT"])
@pytest.mark.parametrize("settings", [{}, {"rescaled": True}, {"constraint": 0.01}])
def test_orthogonal_turns(kind: str, shape: str, settings: dict[str, object]) -> None:
    layer = LAYERS[shape]()
    parts, merged = theirs(kind, layer, lora_dim=8, **settings)
    check(kind, parts, layer, merged)


def test_scale_is_the_files_own_then_alpha_over_rank_then_one() -> None:
    down, up = torch.ones(4, 24), torch.ones(32, 4)
    plain = {"lora_down.weight": down, "lora_up.weight": up}
    assert scale_of(plain, 4) == 1
    assert scale_of({**plain, "alpha": torch.tensor(2.0)}, 4) == 0.5
    assert scale_of({**plain, "alpha": torch.tensor(2.0), "scale": torch.tensor(0.25)}, 4) == 0.25
    assert scale_of({**plain, "alpha": torch.tensor(0.0)}, 4) == 0
    weight = torch.zeros(32, 24)
    change, _ = layer_change({**plain, "alpha": torch.tensor(2.0)}, weight)
    assert torch.equal(change, torch.full((32, 24), 2.0))


def test_a_sparse_bias_is_added_before_the_scale() -> None:
    parts = {"lora_down.weight": torch.zeros(4, 24), "lora_up.weight": torch.zeros(32, 4),
             "alpha": torch.tensor(2.0), "bias": torch.ones(32, 24)}  # fmt: skip
    change, _ = layer_change(parts, torch.zeros(32, 24))
    assert torch.equal(change, torch.full((32, 24), 0.5))


def test_dora_of_no_change_is_no_change() -> None:
    weight = torch.randn(8, 6)
    for magnitude in (weight.norm(dim=1, keepdim=True), weight.norm(dim=0, keepdim=True), weight.norm(dim=1)):
        assert decompose(weight, torch.zeros_like(weight), magnitude).abs().max() < 1e-6


def test_what_is_of_no_format_or_of_another_shape_is_refused() -> None:
    with pytest.raises(LoraFileError, match="x: odd is no format of adapter"):
        layer_change({"odd": torch.ones(1)}, torch.ones(2, 2), "x")
    with pytest.raises(LoraFileError, match=r"x: its LoRA does not fit \(3, 3\)"):
        layer_change({"lora_down.weight": torch.ones(2, 5), "lora_up.weight": torch.ones(5, 2)}, torch.ones(3, 3), "x")


def test_names_of_formats_and_their_tensors_are_one_to_one() -> None:
    assert len({one.name for one in FORMATS}) == len(FORMATS)
    for one in FORMATS:
        assert not any(name in COMMON for names in one.needs for name in names)
