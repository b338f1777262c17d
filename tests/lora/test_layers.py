"""LoRA on hooks: what it computes, and what it leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_eval.errors import ConfigError, LoraFileError
from lora_eval.lora.layers import LoraNetwork, LoraOptions
from lora_eval.lora.targets import Target, as_target, find_targets

Fill = Callable[[Any], Any]
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def merged(unet: nn.Module, tensors: dict[str, torch.Tensor], weight: float = 1.0) -> nn.Module:
    """A copy with the LoRA in its weights, from the file's tensors alone: W + weight * alpha/rank * up @ down."""
    twin = copy.deepcopy(unet)
    for path, module in twin.named_modules():
        name = "lora_unet_" + path.replace(".", "_")
        if name + ".lora_up.weight" not in tensors:
            continue
        up, down = tensors[name + ".lora_up.weight"].double(), tensors[name + ".lora_down.weight"].double()
        scale = tensors[name + ".alpha"].double() / down.shape[0]
        product = torch.einsum("or...,ri...->oi...", up.reshape(up.shape[0], -1), down) if down.ndim == 2 else None
        if product is None:
            product = torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down)
        module.weight = nn.Parameter(module.weight.double() + weight * scale * product, requires_grad=False)
    return twin.double()


@pytest.mark.parametrize("preset", ["attention", "transformer", "full", "all"])
@pytest.mark.parametrize("weight", [1.0, -0.5, 2.0])
def test_hooks_equal_merged_weights(
    unet: nn.Module, inputs: Inputs, randomise: Fill, preset: str, weight: float
) -> None:
    network = randomise(
        LoraNetwork(
            unet, find_targets(unet, preset), rank=3, alpha=2.0, options=LoraOptions(conv_rank=2, conv_alpha=1.0)
        )
    )
    network.multiplier = weight
    expected = merged(unet, network.state_dict(), weight)(*(x.double() for x in inputs))
    base = unet(*inputs)
    with network:
        got = unet(*inputs)
    assert (got - base).abs().max() > 1e-2
    assert torch.allclose(got.double(), expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 3), (5, 5)]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    mode=st.sampled_from(["zeros", "circular", "replicate"]),
    rank=st.integers(1, 6),
    alpha=st.floats(0.25, 16),
)
def test_a_convolution_keeps_its_stride_padding_and_dilation(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    dilation: int,
    mode: str,
    rank: int,
    alpha: float,
) -> None:
    conv = nn.Conv2d(*size, kernel, stride, padding, dilation, padding_mode=mode)
    target = as_target("down_blocks.0.downsamplers.0.conv", conv)
    assert target is not None
    network = LoraNetwork(conv, [target], rank=rank, alpha=alpha, seed=0)
    layer = network.layers[target.path]
    nn.init.normal_(layer.up)
    x = torch.randn(2, size[0], 11, 10)
    twin = copy.deepcopy(conv)
    twin.weight.data += alpha / rank * torch.einsum("or,rikl->oikl", layer.up[:, :, 0, 0], layer.down)
    assert torch.allclose(layer.weight_delta(), twin.weight - conv.weight, atol=1e-5)
    with network:
        assert torch.allclose(conv(x), twin(x), atol=1e-4, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 9), st.floats(0.1, 10), st.floats(-2, 2))
def test_a_linear_layer_of_any_shape(inside: int, outside: int, rank: int, alpha: float, weight: float) -> None:
    linear = nn.Linear(inside, outside)
    target = Target("mid_block.attentions.0.proj_in", linear, inside, outside)
    network = LoraNetwork(linear, [target], rank=rank, alpha=alpha, seed=1)
    layer = network.layers[target.path]
    nn.init.normal_(layer.up)
    network.multiplier = weight
    x = torch.randn(3, 2, inside)
    with network:
        got = linear(x)
    expected = F.linear(x, linear.weight + weight * alpha / rank * layer.up @ layer.down, linear.bias)
    assert torch.allclose(got, expected, atol=1e-4, rtol=1e-4)


# -- what it leaves alone ---------------------------------------------------------------------------


def test_a_new_network_changes_nothing(unet: nn.Module, inputs: Inputs) -> None:
    base = unet(*inputs)
    with LoraNetwork(unet, find_targets(unet, "full"), seed=0):
        assert torch.equal(unet(*inputs), base)


def test_multiplier_zero_is_the_base_model_bit_by_bit(unet: nn.Module, inputs: Inputs, randomise: Fill) -> None:
    base = unet(*inputs)
    network = randomise(LoraNetwork(unet, find_targets(unet, "all")))
    with torch.no_grad():
        network.parameters()[0].fill_(float("nan"))  # 0 * NaN would show
    network.multiplier = 0
    with network:
        assert torch.equal(unet(*inputs), base)


def fingerprint(unet: nn.Module) -> tuple[Any, ...]:
    hooks = [(p, len(m._forward_hooks), len(m._forward_hooks_with_kwargs)) for p, m in unet.named_modules()]
    classes = [(p, type(m), m.forward.__func__) for p, m in unet.named_modules()]
    tensors = [(k, v.data_ptr(), v.dtype, v.requires_grad, v.clone()) for k, v in unet.named_parameters()]
    return hooks, classes, [t[:4] for t in tensors], [t[4] for t in tensors], unet.training


def test_detached_leaves_no_trace(unet: nn.Module, inputs: Inputs, randomise: Fill) -> None:
    before = fingerprint(unet)
    base = unet(*inputs)
    network = randomise(LoraNetwork(unet, find_targets(unet, "all"), options=LoraOptions(dropout=0.1)))
    network.attach().train()
    unet(*inputs).square().mean().backward()
    network.detach()
    after = fingerprint(unet)
    assert after[:3] == before[:3] and after[4] == before[4]
    assert all(torch.equal(a, b) for a, b in zip(before[3], after[3], strict=True))
    assert torch.equal(unet(*inputs), base)
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_attached_it_is_no_part_of_the_unet(unet: nn.Module) -> None:
    names, modules = list(unet.state_dict()), list(unet.modules())
    with LoraNetwork(unet, find_targets(unet, "all")):
        assert list(unet.state_dict()) == names
        assert list(unet.modules()) == modules


def test_attaching_and_detaching_twice_is_once(unet: nn.Module, inputs: Inputs, randomise: Fill) -> None:
    network = randomise(LoraNetwork(unet, find_targets(unet)))
    network.attach()
    once = unet(*inputs)
    network.attach()
    assert torch.equal(unet(*inputs), once) and network.attached
    network.detach()
    network.detach()
    assert not network.attached
    assert not any(module._forward_hooks for module in unet.modules())


def test_an_exception_inside_takes_the_hooks_off(unet: nn.Module) -> None:
    with pytest.raises(RuntimeError, match="stop"), LoraNetwork(unet, find_targets(unet)):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in unet.modules())


def test_other_hooks_stay(unet: nn.Module) -> None:
    layer = unet.conv_in
    seen = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    with LoraNetwork(unet, find_targets(unet, "all")):
        pass
    layer(torch.zeros(1, 4, 2, 2))
    assert seen == [1]


def test_a_layer_called_by_keyword(unet: nn.Module, randomise: Fill) -> None:
    target = find_targets(unet)[0]
    network = randomise(LoraNetwork(unet, [target]))
    x = torch.randn(1, target.in_size)
    with network:
        assert torch.equal(target.module(input=x), target.module(x))


# -- start ------------------------------------------------------------------------------------------


def test_a_is_uniform_within_one_over_root_fan_in_and_b_is_zero() -> None:
    conv = nn.Conv2d(16, 64, 3)
    target = as_target("conv_in", conv)
    assert target is not None
    layer = LoraNetwork(conv, [target], rank=256, seed=3).layers["conv_in"]
    bound = (16 * 9) ** -0.5
    assert 0.98 * bound < layer.down.abs().max() <= bound
    assert abs(float(layer.down.detach().std()) / (bound / 3**0.5) - 1) < 0.02
    assert torch.count_nonzero(layer.up) == 0
    reference = nn.init.kaiming_uniform_(torch.empty(256, 16, 3, 3), a=5**0.5)
    assert abs(float(reference.std() / layer.down.detach().std()) - 1) < 0.02


def test_the_seed_decides_and_the_global_generator_is_left_alone(unet: nn.Module) -> None:
    before = torch.get_rng_state()
    first, same, other = (LoraNetwork(unet, find_targets(unet), seed=s) for s in (5, 5, 6))
    unseeded = [LoraNetwork(unet, find_targets(unet)).parameters()[0] for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.parameters()[0], other.parameters()[0])
    assert not torch.equal(*unseeded)


def test_parameters_are_fp32_leaves_in_a_fixed_order(unet: nn.Module) -> None:
    network = LoraNetwork(unet.half(), find_targets(unet), seed=0)
    names = [name for name, _ in network.named_parameters()]
    assert names[:2] == [
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight",
    ]
    assert len(names) == len(set(names)) == 2 * 48
    assert all(p.dtype == torch.float32 and p.is_leaf and p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2000}, "2000"),
        ({"rank": 2.5}, "2.5"),
        ({"rank": True}, "True"),
        ({"options": LoraOptions(conv_rank=-1)}, "conv_rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("nan")}, "nan"),
        ({"options": LoraOptions(dropout=1.0)}, "dropout"),
    ],
)
def test_impossible_settings_are_named(unet: nn.Module, setting: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        LoraNetwork(unet, find_targets(unet), **setting)


def test_no_targets_is_an_error(unet: nn.Module) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        LoraNetwork(unet, [])


# -- training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["attention", "full"])
def test_gradients_equal_those_through_merged_weights(
    unet: nn.Module, inputs: Inputs, randomise: Fill, preset: str
) -> None:
    targets = find_targets(unet, preset)
    network = randomise(LoraNetwork(unet.double(), targets, rank=2, alpha=3.0))
    inputs64 = tuple(x.double() for x in inputs)
    network.layers = {p: _as_double(layer) for p, layer in network.layers.items()}
    with network:
        unet(*inputs64).square().mean().backward()

    halves = {}
    weights = {}
    for path, layer in network.layers.items():
        down, up = (h.detach().clone().requires_grad_() for h in (layer.down, layer.up))
        halves[path] = (down, up)
        product = (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
        weights[path + ".weight"] = layer.target.module.weight + 3.0 / 2 * product
    torch.func.functional_call(unet, weights, inputs64).square().mean().backward()
    for path, (down, up) in halves.items():
        layer = network.layers[path]
        assert torch.allclose(layer.down.grad, down.grad, rtol=1e-8, atol=1e-12), path
        assert torch.allclose(layer.up.grad, up.grad, rtol=1e-8, atol=1e-12), path


def _as_double(layer: Any) -> Any:
    layer.down, layer.up = nn.Parameter(layer.down.detach().double()), nn.Parameter(layer.up.detach().double())
    return layer


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(
    unet: nn.Module, inputs: Inputs, randomise: Fill, reentrant: bool
) -> None:
    network = randomise(LoraNetwork(unet, find_targets(unet, "full"), options=LoraOptions(dropout=0.3)))

    def gradients(run: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        for parameter in network.parameters():
            parameter.grad = None
        torch.manual_seed(11)
        with network:
            run().square().mean().backward()
        return [p.grad.clone() for p in network.parameters()]

    x = inputs[0].clone().requires_grad_()  # the re-entrant kind needs an input with a gradient
    plain = gradients(lambda: unet(x, *inputs[1:]))
    again = gradients(lambda: checkpoint(unet, x, *inputs[1:], use_reentrant=reentrant))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_a_few_steps_learn_what_a_merged_change_does(unet: nn.Module, inputs: Inputs, randomise: Fill) -> None:
    teacher = randomise(LoraNetwork(unet, find_targets(unet), rank=2))
    with torch.no_grad(), teacher:
        wanted = unet(*inputs)
    student = LoraNetwork(unet, find_targets(unet), rank=4, seed=0).attach()
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(unet(*inputs), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    student.detach()
    assert losses[-1] < 0.05 * losses[0]


def test_dropout_is_for_training_alone_and_keeps_the_mean(randomise: Fill) -> None:
    linear = nn.Linear(64, 4)
    target = Target("mid_block.attentions.0.proj_in", linear, 64, 4)
    network = randomise(LoraNetwork(linear, [target], rank=4, options=LoraOptions(dropout=0.5)))
    x = torch.randn(1, 64)
    base = linear(x)
    with torch.no_grad(), network:
        network.eval()
        calm = linear(x) - base
        assert torch.equal(linear(x) - base, calm)
        network.train()
        noisy = linear(x.expand(20000, 64)) - base
    assert noisy.std(0).min() > 0.01
    error = noisy.std(0) / 20000**0.5
    assert ((noisy.mean(0) - calm[0]).abs() < 5 * error).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_output_keeps_the_models_dtype_and_gradients_are_fp32(
    unet: nn.Module, inputs: Inputs, randomise: Fill, dtype: torch.dtype
) -> None:
    unet.to(dtype)
    network = randomise(LoraNetwork(unet, find_targets(unet, "transformer")))
    with network:
        out = unet(*(x.to(dtype) for x in inputs))
        out.float().square().mean().backward()
    assert out.dtype == dtype
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


def test_a_layer_that_answers_in_another_dtype_keeps_it() -> None:
    class Narrowing(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).bfloat16()

    layer = Narrowing(4, 4)
    with LoraNetwork(layer, [Target("mid_block.attentions.0.proj_in", layer, 4, 4)], seed=0):
        assert layer(torch.randn(1, 4)).dtype == torch.bfloat16


def test_autocast_computes_in_its_own_dtype(unet: nn.Module, inputs: Inputs, randomise: Fill) -> None:
    network = randomise(LoraNetwork(unet, find_targets(unet, "transformer")))
    seen = set()
    layer = next(iter(network.layers.values()))
    layer.target.module.register_forward_hook(lambda m, a, out: seen.add(out.dtype))
    plain = unet(*inputs)
    with network, torch.autocast("cpu", dtype=torch.bfloat16):
        out = unet(*inputs)
        out.float().square().mean().backward()
    with network:
        exact = unet(*inputs)
    assert seen >= {torch.bfloat16}
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
    assert (out.float() - exact).abs().max() < 0.2 * (exact - plain).abs().max()


# -- tensors ----------------------------------------------------------------------------------------


def test_state_dict_has_kohya_keys_and_an_alpha_a_layer(unet: nn.Module) -> None:
    targets = find_targets(unet, "full")
    tensors = LoraNetwork(
        unet, targets, rank=4, alpha=2.0, options=LoraOptions(conv_rank=3, conv_alpha=1.0)
    ).state_dict()
    assert len(tensors) == 3 * len(targets)
    stem = "lora_unet_down_blocks_0_attentions_0_"
    assert tensors[stem + "proj_in.lora_down.weight"].shape == (4, 8, 1, 1)
    assert tensors[stem + "proj_in.lora_up.weight"].shape == (8, 4, 1, 1)
    assert tensors[stem + "transformer_blocks_0_attn2_to_k.lora_down.weight"].shape == (4, 6)
    assert tensors["lora_unet_down_blocks_0_downsamplers_0_conv.lora_down.weight"].shape == (3, 8, 3, 3)
    assert tensors["lora_unet_down_blocks_0_downsamplers_0_conv.alpha"].shape == ()
    # alpha / rank is what hosts multiply with
    assert float(tensors[stem + "proj_in.alpha"]) == 2.0
    assert float(tensors["lora_unet_down_blocks_0_downsamplers_0_conv.alpha"]) == pytest.approx(1.0)


def test_rank_stabilised_stores_an_alpha_that_gives_hosts_the_same_scale(
    unet: nn.Module, inputs: Inputs, randomise: Fill
) -> None:
    network = randomise(
        LoraNetwork(unet, find_targets(unet), rank=4, alpha=3.0, options=LoraOptions(rank_stabilised=True))
    )
    tensors = network.state_dict()
    alpha = next(value for key, value in tensors.items() if key.endswith(".alpha"))
    assert float(alpha) / 4 == pytest.approx(3.0 / 4**0.5)
    with network:
        got = unet(*inputs)
    assert torch.allclose(got.double(), merged(unet, tensors)(*(x.double() for x in inputs)), atol=1e-4)


def test_loading_gives_the_same_bits(unet: nn.Module, inputs: Inputs, randomise: Fill) -> None:
    targets = find_targets(unet, "full")
    network = randomise(LoraNetwork(unet, targets, rank=3, alpha=5.0))
    twin = LoraNetwork(unet, targets, rank=3, alpha=1.0, seed=9)
    report = twin.load(network.state_dict())
    assert (report.layers, report.untouched, report.text_encoder) == (len(targets), [], 0)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), twin.state_dict().values(), strict=True)
    )
    with network:
        expected = unet(*inputs)
    with twin:
        assert torch.equal(unet(*inputs), expected)


def test_layers_that_the_file_lacks_become_zero_and_are_reported(unet: nn.Module, randomise: Fill) -> None:
    part = randomise(LoraNetwork(unet, find_targets(unet, "attention", "mid")))
    whole = randomise(LoraNetwork(unet, find_targets(unet, "attention")))
    tensors = part.state_dict() | {
        "lora_te_x.lora_down.weight": torch.ones(1, 1),
        "lora_te_x.lora_up.weight": torch.ones(1, 1),
    }
    report = whole.load(tensors)
    assert (report.layers, len(report.untouched), report.text_encoder) == (8, 40, 1)
    assert all(torch.count_nonzero(whole.layers[p].up) == 0 for p in whole.layers if not p.startswith("mid"))


def test_another_rank_is_refused_and_nothing_is_changed(unet: nn.Module, randomise: Fill) -> None:
    small = randomise(LoraNetwork(unet, find_targets(unet), rank=2))
    large = LoraNetwork(unet, find_targets(unet), rank=4, seed=0)
    before = large.state_dict()
    with pytest.raises(LoraFileError, match=r"my\.safetensors: lora_unet_\S+ has rank 2, expected 4"):
        large.load(small.state_dict(), "my.safetensors")
    assert all(torch.equal(before[key], value) for key, value in large.state_dict().items())


def test_resizing_keeps_the_best_approximation(unet: nn.Module, randomise: Fill) -> None:
    targets = find_targets(unet, "full")
    source = randomise(LoraNetwork(unet, targets, rank=6, alpha=3.0))
    small = LoraNetwork(unet, targets, rank=2, alpha=7.0, seed=0)
    report = small.load_resized(source.state_dict())
    for path, layer in small.layers.items():
        full = source.layers[path].weight_delta().flatten(1).double()
        u, s, vh = torch.linalg.svd(full)
        best = (u[:, :2] * s[:2]) @ vh[:2]
        assert torch.allclose(layer.weight_delta().flatten(1).double(), best, atol=1e-4), path
        assert report.kept_energy[layer.name] == pytest.approx(float((s[:2] ** 2).sum() / (s**2).sum()), rel=1e-4)
        assert layer.scale == 7.0 / 2


def test_resizing_upwards_is_exact_and_stays_trainable(unet: nn.Module, inputs: Inputs, randomise: Fill) -> None:
    source = randomise(LoraNetwork(unet, find_targets(unet), rank=2))
    large = LoraNetwork(unet, find_targets(unet), rank=5, seed=0)
    report = large.load_resized(source.state_dict())
    assert set(report.kept_energy.values()) == {1.0}
    for path, layer in large.layers.items():
        assert torch.allclose(layer.weight_delta(), source.layers[path].weight_delta(), atol=1e-5)
    with large:
        unet(*inputs).square().mean().backward()
    assert all((layer.up.grad[:, 2:] != 0).any() for layer in large.layers.values())


def test_directions_without_energy_stay_trainable_after_resizing(
    unet: nn.Module, inputs: Inputs, randomise: Fill
) -> None:
    """A and B both zero would never move again: B is zero there, and A keeps its random start."""
    source = randomise(LoraNetwork(unet, find_targets(unet), rank=3))
    with torch.no_grad():
        for layer in source.layers.values():
            layer.up[:, 1:] = 0
    twin = LoraNetwork(unet, find_targets(unet), rank=3, seed=0)
    start = {path: layer.down.detach().clone() for path, layer in twin.layers.items()}
    twin.load_resized(source.state_dict())
    for path, layer in twin.layers.items():
        assert torch.count_nonzero(layer.up[:, 1:]) == 0
        assert torch.equal(layer.down[1:], start[path][1:])
        assert torch.allclose(layer.weight_delta(), source.layers[path].weight_delta(), atol=1e-5)
    with twin:
        unet(*inputs).square().mean().backward()
    assert all((layer.up.grad[:, 1:] != 0).any() for layer in twin.layers.values())


def test_a_network_from_a_file_has_its_layers_ranks_and_alphas(
    unet: nn.Module, inputs: Inputs, randomise: Fill
) -> None:
    source = randomise(
        LoraNetwork(
            unet, find_targets(unet, "full", "out"), rank=3, alpha=2.0, options=LoraOptions(conv_rank=1, conv_alpha=0.5)
        )
    )
    twin = LoraNetwork.from_tensors(unet, find_targets(unet, "all"), source.state_dict())
    assert [(p, x.rank, x.scale) for p, x in twin.layers.items()] == [
        (p, x.rank, pytest.approx(x.scale)) for p, x in source.layers.items()
    ]
    with source:
        expected = unet(*inputs)
    with twin:
        assert torch.allclose(unet(*inputs), expected, atol=1e-6)


def test_a_file_without_unet_layers_gives_no_network(unet: nn.Module) -> None:
    text = {"lora_te_x.lora_down.weight": torch.ones(1, 1), "lora_te_x.lora_up.weight": torch.ones(1, 1)}
    with pytest.raises(LoraFileError, match="text encoder layers only"):
        LoraNetwork.from_tensors(unet, find_targets(unet, "all"), text)
