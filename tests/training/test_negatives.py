"""Hard negatives: prompts without the trigger go back to the base model, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_eval.dataset.captions import has_term
from lora_eval.errors import ConfigError
from lora_eval.lora.layers import LoraNetwork
from lora_eval.lora.targets import find_targets
from lora_eval.training.config import TrainConfig, make_config
from lora_eval.training.history import read_rows
from lora_eval.training.loop import TrainResult, train
from lora_eval.training.negatives import HardNegatives, base_model, near_misses, negative_prompts
from lora_eval.training.randomness import python_random, torch_random
from tests.fakes import TOY, FakeBorrowed, FakeHost, hooks_on, make_unet, write_dataset

STEPS = 12
ON: dict[str, Any] = {"hard_negative_weight": 2.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), 8, trigger="zorp")


def config(data: Path | str, **values: Any) -> TrainConfig:
    ends = {"train_data_dir": str(data), "max_steps": STEPS, "save_steps": 2, "validation_steps": 4}
    words = {"trigger": "zorp", "class_word": "fox"}
    return make_config({**TOY, **ends, **words, **values})


def tensors(path: Path) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in load_file(path).items()}


# -- prompts ---------------------------------------------------------------------------------------


def test_near_misses_lack_the_trigger_alone() -> None:
    captions = ["a red Zorp at noon", "zorp, blue, night", "a red zorp at noon", "zorpish tree"]
    assert near_misses(captions, "zorp", "fox") == [
        "a red fox at noon", "a red at noon", "fox, blue, night", "blue, night",
    ]  # fmt: skip
    assert near_misses(["zorp"], "zorp", "fox") == ["fox"]
    assert near_misses(["zorp"], "zorp") == [""], "the trigger alone leaves the empty prompt"
    assert near_misses(["c++ dog", "a c++"], "c++", r"\1") == [r"\1 dog", "dog", r"a \1", "a"]


def test_the_list_wins_over_the_captions() -> None:
    own = config("d", **ON, hard_negative_prompts=["a {class_word}", "a tree", "a tree"])
    assert negative_prompts(own, ["zorp"]) == ["a fox", "a tree"]
    assert negative_prompts(config("d", hard_negative_prompts=["a tree"]), ["zorp"]) == [], "weight 0 is off"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trigger": ""}, "needs trigger"),
        ({"trigger": "mave"}, "needs captions with the trigger 'mave'"),
        ({"hard_negative_prompts": ["a ZORP here"]}, "'a ZORP here', which calls the concept"),
        ({"hard_negative_prompts": ["a {trigger}"]}, "which calls the concept"),
    ],
)
def test_prompts_that_cannot_serve_stop_the_run_before_its_first_step(
    data: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    host = FakeHost(tmp_path)
    with pytest.raises(ConfigError, match=message):
        train(host, config(data, **ON, **values))
    assert not list(tmp_path.rglob("toy*.safetensors")) and hooks_on(host.unet) == 0


# -- the loss --------------------------------------------------------------------------------------


def trained_network(unet: torch.nn.Module) -> LoraNetwork:
    network = LoraNetwork(unet, find_targets(unet, "attention"), rank=2, alpha=2, seed=0).requires_grad_(True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


class PlainTexts:
    """``TextEncodings`` without a cache."""

    def __init__(self, borrowed: FakeBorrowed) -> None:
        self.borrowed = borrowed
        self.asked: list[list[str]] = []

    def batch(self, captions: list[str], size: tuple[int, int], keep: bool = True) -> Any:
        self.asked.append(list(captions))
        return self.borrowed.encode_text(captions, *size)


def test_the_errors_are_the_distance_to_an_unhooked_model() -> None:
    """Against a second model with the LoRA merged into its weights, and the formulas written out."""
    unet, merged, untouched = make_unet(), make_unet(), make_unet()
    borrowed, network = FakeBorrowed(unet, "sd1", "epsilon"), trained_network(unet)
    by_path = dict(merged.named_modules())
    with torch.no_grad():
        for path, layer in network.layers.items():
            by_path[path].weight += layer.weight_delta()
    texts = PlainTexts(borrowed)
    settings = config("d", **ON, min_snr_gamma=5, noise_offset=0.3)
    prompts = ["a fox", "a tree", "an owl at noon"]
    part = HardNegatives(borrowed, network, settings, prompts, texts, 10, borrowed.denoise)  # type: ignore[arg-type]
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    timesteps = torch.tensor([50, 500, 950])
    with network:
        errors, weights = part.errors(7, 1, latents, (64, 64), timesteps)

    rng = python_random(0, "negatives", 7, 1)
    chosen = [rng.choice(prompts) for _ in range(3)]
    assert texts.asked == [chosen]
    noise = torch.randn(latents.shape, generator=torch_random(0, "negative noise", 7, 1))
    a = borrowed.alphas_cumprod[timesteps].reshape(3, 1, 1, 1)
    noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
    context = borrowed.encode_text(chosen, 64, 64).context
    with torch.no_grad():
        difference = merged(noisy, timesteps, context) - untouched(noisy, timesteps, context)
    assert torch.allclose(errors, difference.square().mean((1, 2, 3)), rtol=1e-4)
    snr = (a / (1 - a)).flatten()
    assert torch.allclose(weights, snr.clamp(max=5) / snr)
    assert errors.requires_grad and network.multiplier == 1.0


def test_the_base_model_is_the_network_at_multiplier_0_even_after_an_error() -> None:
    unet = make_unet()
    network = trained_network(unet)
    network.multiplier = 0.7
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 8, 16)
    plain = unet(*inputs)
    with network, pytest.raises(ZeroDivisionError), base_model(network):
        assert torch.equal(unet(*inputs), plain) and not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert network.multiplier == 0.7 and torch.is_grad_enabled()


def test_half_of_a_batch_is_shown_again() -> None:
    assert [HardNegatives.count(n) for n in (1, 2, 3, 4, 16)] == [1, 1, 2, 2, 8]


# -- in a run --------------------------------------------------------------------------------------


def test_until_they_begin_a_run_is_that_without_them_bit_by_bit(data: Path, tmp_path: Path) -> None:
    plain = train(FakeHost(tmp_path / "off"), config(data))
    late = train(FakeHost(tmp_path / "on"), config(data, **ON, hard_negative_start=0.5))
    pairs = list(zip(plain.checkpoints, late.checkpoints, strict=True))
    same = {step: tensors(path) == tensors(other) for (step, path), (_, other) in pairs}
    assert same == {2: True, 4: True, 6: True, 8: False, 10: False, 12: False}
    rows, plain_rows = read_rows(late.history), read_rows(plain.history)
    assert [row["negative_loss"] is not None for row in rows] == [False] * 7 + [True] * 6
    assert rows[:7] == plain_rows[:7]
    assert all(row["negative_loss"] is None for row in plain_rows)


def test_their_chance_is_their_own(data: Path, tmp_path: Path) -> None:
    """At a weight too small to change a float the run computes what a run without them does."""
    plain = train(FakeHost(tmp_path / "off"), config(data, max_grad_norm=0))
    tiny = train(
        FakeHost(tmp_path / "on"),
        config(data, max_grad_norm=0, hard_negative_weight=1e-30, hard_negative_start=0),
    )
    assert tensors(plain.lora) == tensors(tiny.lora)


@pytest.mark.parametrize("stop", [3, 6, 9])
def test_an_interrupted_run_goes_on_to_the_bit(data: Path, tmp_path: Path, stop: int) -> None:
    from tests.training.test_loop import StopAt

    rich = {**ON, "dropout": 0.2, "gradient_accumulation": 2, "caption_dropout": 0.2, "min_snr_gamma": 5}
    whole = train(FakeHost(tmp_path / "whole"), config(data, **rich))
    host = FakeHost(tmp_path / "parts")
    assert train(host, config(data, **rich), StopAt(stop)).steps == stop
    resumed = train(host, config(data, **rich), resume=True)
    assert tensors(resumed.lora) == tensors(whole.lora)
    assert resumed.history.read_bytes() == whole.history.read_bytes()


def test_the_pull_brings_other_prompts_back_and_keeps_the_concept(data: Path, tmp_path: Path) -> None:
    """Distance to the base model on prompts that the training never names, and the loss of the concept."""
    long = {"max_steps": 150, "save_steps": 0, "validation_steps": 150}
    off = train(FakeHost(tmp_path / "off"), config(data, **long))
    on = train(FakeHost(tmp_path / "on"), config(data, **long, **ON))
    prompts = ["a small tree in spring", "fox", "two boats", "an old house by night"]
    assert not any(has_term(prompt, "zorp") for prompt in prompts)
    concept = ["zorp owl standing street noon", "zorp fox waiting snow fog"]
    left, kept = (distance(on, texts) / distance(off, texts) for texts in (prompts, concept))
    assert left < 0.3
    assert kept > 2 * left, "the trigger still calls what is no longer there without it"


def distance(result: TrainResult, prompts: list[str]) -> float:
    """Mean squared distance of the LoRA's prediction to the base model's on noise."""
    unet = make_unet()
    targets = find_targets(unet, "attention")
    network = LoraNetwork.from_tensors(unet, targets, load_file(result.lora))
    context = FakeBorrowed(unet, "sd1", "epsilon").encode_text(prompts, 64, 64).context
    noise = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(3))
    steps = torch.linspace(100, 900, len(prompts)).long()
    with torch.no_grad():
        base = unet(noise, steps, context)
        with network:
            return float((unet(noise, steps, context) - base).square().mean())


def test_only_the_noisier_half_of_the_schedule_is_pulled() -> None:
    drawn = HardNegatives.timesteps(100, torch_random(0, "negative timesteps", 1))
    assert drawn.dtype == torch.int64 and (drawn.min() >= 500) and (drawn.max() <= 999)
    parts = (drawn - 500) // 5
    assert sorted(parts.tolist()) == list(range(100)), "one in each equal part"
