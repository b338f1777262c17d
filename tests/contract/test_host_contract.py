"""What every host promises (lora_eval.host.protocol), checked from outside.

Bounds: pictures drawn by one call twice are identical; a batch may differ from single pictures by
rounding (``Subject.batch_bound``); everything about restoring is exact.
"""

from __future__ import annotations

import pickle
import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_eval.errors import HostError, Interrupted, LoraFileError
from lora_eval.host.protocol import FAMILIES, PREDICTIONS, Drawn, Host, ImageRequest, LoraUse
from lora_eval.reading.infotext import read_infotext
from tests.contract.subjects import Subject
from tests.live.probe.lora_eval_probe_tools import (
    StepWatch,
    furthest,
    gradients,
    parts,
    random_network,
    training_batch,
)

CAT, DOG = ImageRequest("a cat", 11, "blurry"), ImageRequest("a dog", 12)
LONG = ImageRequest("a drawing of a cat, a dog and a bird on a very long wall", 13)


def pixels(drawn: Drawn) -> np.ndarray:
    return np.asarray(drawn.image).astype(int)


def distance(first: Drawn, second: Drawn) -> int:
    """Largest difference of any channel of any pixel, of 255."""
    return int(np.abs(pixels(first) - pixels(second)).max())


# -- identity ----------------------------------------------------------------------------------------


def test_says_which_model_it_holds(subject: Subject) -> None:
    model = subject.host.model()
    assert (model.family, model.prediction) == (subject.expected.family, subject.expected.prediction)
    assert model.family in FAMILIES and model.prediction in PREDICTIONS
    assert len(model.sha256) in (0, 64)
    assert subject.host.info().name and subject.host.info().version


# -- drawing -----------------------------------------------------------------------------------------


def test_same_request_gives_the_same_pixels(subject: Subject) -> None:
    first, second = (subject.host.generate([CAT], subject.sampling)[0] for _ in range(2))
    assert distance(first, second) == 0
    assert first.infotext == second.infotext


def test_pictures_have_the_size_asked_and_the_order_asked(subject: Subject) -> None:
    wide = replace(subject.sampling, width=128, height=64)
    drawn = subject.host.generate([DOG, CAT], wide)
    assert [one.image.size for one in drawn] == [(128, 64)] * 2
    assert [read_infotext(one.infotext).prompt for one in drawn] == ["a dog", "a cat"]


@pytest.mark.parametrize("what", ["prompt", "seed", "negative_prompt"])
def test_each_part_of_the_request_matters(subject: Subject, what: str) -> None:
    other = replace(CAT, **{what: 99 if what == "seed" else "a house"})
    first, second = subject.host.generate([CAT, other], subject.sampling)
    assert distance(first, second) > 8


def test_a_picture_does_not_depend_on_its_batch(subject: Subject) -> None:
    requests = [CAT, DOG, LONG, replace(CAT, seed=14)]
    together = subject.host.generate(requests, subject.sampling)
    for request, in_batch in zip(requests, together, strict=True):
        alone = subject.host.generate([request], subject.sampling)[0]
        assert distance(alone, in_batch) <= subject.batch_bound


def test_every_sampler_draws_reproducibly(subject: Subject) -> None:
    for name in subject.host.samplers():
        sampling = replace(subject.sampling, sampler=name)
        alone = subject.host.generate([CAT], sampling)[0]
        again = subject.host.generate([DOG, CAT], sampling)[1]
        assert distance(alone, again) <= subject.batch_bound, name


def test_nothing_asked_nothing_drawn(host: Host, subject: Subject) -> None:
    assert host.generate([], subject.sampling) == []


def test_drawing_leaves_the_random_numbers_alone(subject: Subject) -> None:
    before = random_states()
    subject.host.generate([CAT], replace(subject.sampling, sampler="Euler a"))
    assert random_states() == before


def test_unknown_sampler_is_refused_by_name(subject: Subject) -> None:
    with pytest.raises(HostError, match="Eulre"):
        subject.host.generate([CAT], replace(subject.sampling, sampler="Eulre"))


def test_infotext_tells_how_to_draw_it_again(subject: Subject, lora_file: Path) -> None:
    drawn = subject.host.generate([CAT], subject.sampling, LoraUse(lora_file, 0.5))[0]
    read = read_infotext(drawn.infotext)
    assert read.prompt == "a cat <lora:strong:0.5>"
    assert read.negative_prompt == "blurry"
    assert read.parameters["Seed"] == "11"
    assert read.parameters["Sampler"] == "Euler"
    assert read.parameters["Steps"] == str(subject.sampling.steps)
    assert float(read.parameters["CFG scale"]) == subject.sampling.cfg_scale
    assert read.parameters["Size"] == "64x64"
    assert list(read.lora_hashes) == ["strong"]
    digest = subject.host.model().sha256
    assert not digest or read.parameters["Model hash"] == digest[:10]


# -- LoRA --------------------------------------------------------------------------------------------


def test_weight_changes_the_picture_step_by_step(subject: Subject, lora_file: Path) -> None:
    drawn = [
        subject.host.generate([CAT], subject.sampling, LoraUse(lora_file, weight))[0] for weight in (0.2, 0.6, 1.0)
    ]
    base = subject.host.generate([CAT], subject.sampling)[0]
    assert distance(base, drawn[0]) > 0
    assert len({one.image.tobytes() for one in (base, *drawn)}) == 4


def test_weight_zero_is_the_base_model(subject: Subject, lora_file: Path) -> None:
    base = subject.host.generate([CAT, DOG], subject.sampling)
    zero = subject.host.generate([CAT, DOG], subject.sampling, LoraUse(lora_file, 0.0))
    assert [distance(*pair) for pair in zip(base, zero, strict=True)] == [0, 0]


def test_a_lora_leaves_nothing_behind(subject: Subject, lora_file: Path) -> None:
    base, prints, habits = subject.host.generate([CAT], subject.sampling)[0], subject.fingerprint(), subject.habits()
    subject.host.generate([CAT], subject.sampling, LoraUse(lora_file, 1.0))
    assert distance(base, subject.host.generate([CAT], subject.sampling)[0]) == 0
    assert (subject.fingerprint(), subject.habits()) == (prints, habits)


def test_overwritten_file_is_noticed(subject: Subject, lora_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "changing.safetensors"
    tensors = load_file(lora_file)
    save_file(tensors, path)
    first = subject.host.generate([CAT], subject.sampling, LoraUse(path, 1.0))[0]
    save_file({key: value * 0.5 if "lora_up" in key else value for key, value in tensors.items()}, path)
    second = subject.host.generate([CAT], subject.sampling, LoraUse(path, 1.0))[0]
    half = subject.host.generate([CAT], subject.sampling, LoraUse(lora_file, 0.5))[0]
    assert distance(first, second) > 0
    assert distance(second, half) <= 1


def test_check_counts_the_layers(subject: Subject, lora_file: Path) -> None:
    layers = sum(key.endswith("lora_down.weight") for key in load_file(lora_file))
    assert subject.host.check_lora(lora_file).layers == layers


def test_layer_that_the_model_lacks_is_named_and_the_rest_is_drawn(
    subject: Subject, lora_file: Path, tmp_path: Path
) -> None:
    tensors = load_file(lora_file)
    strange = "lora_unet_down_blocks_9_attentions_0_transformer_blocks_0_attn1_to_q"
    sample = next(key for key in tensors if key.endswith("lora_down.weight"))
    stem = sample.removesuffix(".lora_down.weight")
    for ending in (".lora_down.weight", ".lora_up.weight", ".alpha"):
        tensors[strange + ending] = tensors[stem + ending].clone()
    path = tmp_path / "partly.safetensors"
    save_file(tensors, path)
    fit = subject.host.check_lora(path)
    assert fit.layers == subject.host.check_lora(lora_file).layers
    assert len(fit.notes) == 1 and "down_blocks_9" in fit.notes[0]
    partly = subject.host.generate([CAT], subject.sampling, LoraUse(path, 1.0))[0]
    whole = subject.host.generate([CAT], subject.sampling, LoraUse(lora_file, 1.0))[0]
    assert distance(partly, whole) == 0


def test_layer_of_another_width_is_named(subject: Subject, lora_file: Path, tmp_path: Path) -> None:
    tensors = load_file(lora_file)
    wrong = next(key for key in tensors if "attn2_to_k" in key and key.endswith("lora_down.weight"))
    tensors[wrong] = torch.zeros(4, 7)
    path = tmp_path / "other.safetensors"
    save_file(tensors, path)
    with pytest.raises(LoraFileError, match=r"attn2_to_k.*7"):
        subject.host.check_lora(path)


def test_missing_lora_is_an_error_not_a_base_picture(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises((LoraFileError, HostError), match="nowhere"):
        subject.host.generate([CAT], subject.sampling, LoraUse(tmp_path / "nowhere.safetensors", 1.0))


# -- jobs --------------------------------------------------------------------------------------------


def test_job_counts_and_ends(host: Host) -> None:
    with host.job("count", 3) as job:
        job.advance()
        job.advance(2, "done")
        assert (job.done, job.total, job.text) == (3, 3, "done")
        assert job.eta == 0


def test_interrupt_stops_drawing_and_the_next_job_is_free(subject: Subject) -> None:
    with pytest.raises(Interrupted), subject.host.job("drawing", 2) as job:
        subject.host.generate([CAT], subject.sampling)
        job.interrupt()
        subject.host.generate([DOG], subject.sampling)
    with subject.host.job("next", 1) as job:
        job.check()
        assert len(subject.host.generate([DOG], subject.sampling)) == 1


def test_one_job_at_a_time(host: Host) -> None:
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with host.job("first", 1):
            inside.set()
            leave.wait(30)
            order.append("first ends")

    def second() -> None:
        with host.job("second", 1):
            order.append("second starts")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join(30)
    assert order == ["first ends", "second starts"]


# -- the loan ----------------------------------------------------------------------------------------


def test_conditioning_has_the_shapes_promised(subject: Subject) -> None:
    with subject.host.borrow_model() as borrowed:
        short = borrowed.encode_text(["a cat", ""], 64, 64)
        long = borrowed.encode_text(["a cat", LONG.prompt], 64, 64)
        positions = short.context.shape[1]
        assert short.context.shape == (2, positions, subject.context_width)
        assert long.context.shape[1] > positions and long.context.shape[1] % positions == 0
        assert (None if short.vector is None else short.vector.shape) == (
            None if subject.vector_width is None else (2, subject.vector_width)
        )
        for tensor in (short.context, short.vector):
            assert tensor is None or not (tensor.requires_grad or tensor.is_inference())
        assert torch.equal(short.rows(slice(0, 1)).context, short.context[:1])
        if short.vector is not None:
            other = borrowed.encode_text(["a cat", ""], 128, 64).vector
            assert other is not None and not torch.equal(other, short.vector)


def test_latents_are_scaled_means_of_the_posterior(subject: Subject) -> None:
    picture = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    kept = picture.clone()
    with subject.host.borrow_model() as borrowed:
        latents = borrowed.encode_images(picture)
        assert latents.shape == (2, 4, 64 // borrowed.latent_scale, 128 // borrowed.latent_scale)
        assert torch.equal(latents, borrowed.encode_images(picture))
        assert not (latents.requires_grad or latents.is_inference())
    assert torch.equal(picture, kept)


def test_noise_schedule_is_stable_diffusions(subject: Subject) -> None:
    # scaled linear betas from 0.00085 to 0.012 (Rombach et al. 2022, configs/stable-diffusion)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    with subject.host.borrow_model() as borrowed:
        assert borrowed.alphas_cumprod.dtype == torch.float32
        expected = torch.cumprod(1 - betas, 0)
        assert torch.allclose(borrowed.alphas_cumprod.cpu().double(), expected, rtol=1e-5, atol=0)


def test_training_by_hooks_falls_in_loss(subject: Subject) -> None:
    with subject.host.borrow_model() as borrowed:
        network = random_network(borrowed)
        optimiser = torch.optim.SGD(network.parameters(), lr=1e-2)
        noisy, timesteps, cond, target = training_batch(borrowed)
        losses = []
        with network:
            for _ in range(4):
                loss = torch.nn.functional.mse_loss(borrowed.denoise(noisy, timesteps, cond), target)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_gradients_with_checkpointing_are_those_without(subject: Subject) -> None:
    (plain, once), (checkpointed, twice) = (gradients(subject.host, on) for on in (False, True))
    assert (once, twice) == (1, 2), "with checkpointing a block runs again in the backward pass"
    assert len(plain) == len(checkpointed) > 0
    assert furthest(plain, checkpointed) <= 1e-5


def test_training_takes_the_lora_its_optimiser_and_the_activations(subject: Subject) -> None:
    roots = list(subject.modules().values())
    before = parts(roots)
    with subject.host.borrow_model() as borrowed:
        network = random_network(borrowed)
        numbers = sum(parameter.numel() for parameter in network.parameters())
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
        batch = training_batch(borrowed)
        watch = StepWatch(lambda: roots, 2)
        with network:
            for _ in range(5):
                loss = torch.nn.functional.mse_loss(watch.denoise(borrowed.denoise, *batch[:3]), batch[3])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    seen = watch.seen
    assert seen["model"] == before["model"] and seen["model_gradients"] == 0
    assert seen["lora"] == 4 * numbers
    # two moments in fp32, and the count of updates of each parameter
    assert seen["optimiser"] == 8 * numbers + 4 * seen["lora_tensors"]
    assert seen["rest"] - before["rest"] < 1 << 20, "the batch and nothing else"
    assert 0 < seen["activations"] <= seen["peak"] < 1.5 * seen["activations"] + 4 * seen["lora"]
    print(seen, before)
    assert abs(seen["left"]) <= seen["lora"] + (64 << 10), "a step leaves the gradients of the LoRA and its loss"
    del network, optimiser, batch, loss, borrowed, watch
    assert parts(roots)["lora"] == 0


def test_live_preview_is_what_the_saved_file_draws(subject: Subject, lora_file: Path) -> None:
    with subject.host.borrow_model() as borrowed, random_network(borrowed):
        live = borrowed.draw([CAT, DOG], subject.sampling)
    applied = subject.host.generate([CAT, DOG], subject.sampling, LoraUse(lora_file, 1.0))
    assert max(distance(*pair) for pair in zip(live, applied, strict=True)) <= 1


def test_preview_leaves_modes_and_random_numbers_alone(subject: Subject) -> None:
    with subject.host.borrow_model() as borrowed:
        borrowed.gradient_checkpointing(True)
        torch.manual_seed(3)
        before, habits = random_states(), subject.habits()
        borrowed.draw([CAT], replace(subject.sampling, sampler="Euler a"))
        assert random_states() == before
        assert subject.habits() == habits
        assert torch.is_grad_enabled()


STAGES = ("start", "text", "latents", "hooks", "checkpointing", "forward", "backward", "step", "preview", "end")


LEAVINGS: list[tuple[str, type[BaseException] | None]] = [
    *((stage, RuntimeError) for stage in STAGES),
    *((stage, kind) for stage in ("text", "backward", "preview") for kind in (Interrupted, KeyboardInterrupt)),
    ("nowhere", None),
]


@pytest.mark.parametrize(("stage", "error"), LEAVINGS)
def test_everything_is_put_back(subject: Subject, stage: str, error: type[BaseException] | None) -> None:
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    picture = subject.host.generate([CAT], subject.sampling)[0]
    prints, habits, states = subject.fingerprint(), subject.habits(), random_states()
    if error is None:
        careless_training(subject, stage, error)
    else:
        with pytest.raises(error):
            careless_training(subject, stage, error)
    assert random_states() == states
    assert subject.habits() == habits
    assert subject.fingerprint() == prints
    assert distance(picture, subject.host.generate([CAT], subject.sampling)[0]) == 0


def careless_training(subject: Subject, stage: str, error: type[BaseException] | None) -> None:
    """A training step that tidies up nothing, broken off at ``stage``."""

    def reached(name: str) -> None:
        if name == stage and error is not None:
            raise error("broken off")

    with subject.host.borrow_model() as borrowed:
        reached("start")
        torch.manual_seed(99)
        random.random()
        np.random.rand()
        cond = borrowed.encode_text(["a cat", "a dog"], 64, 64)
        reached("text")
        latents = borrowed.encode_images(torch.rand(2, 3, 64, 64))
        reached("latents")
        network = random_network(borrowed)
        network.attach()
        borrowed.unet.register_forward_pre_hook(lambda module, inputs: None)
        borrowed.unet.train()
        reached("hooks")
        borrowed.gradient_checkpointing(True)
        reached("checkpointing")
        output = borrowed.denoise(latents + torch.randn_like(latents), torch.tensor([100, 800]), cond)
        reached("forward")
        output.square().mean().backward()
        reached("backward")
        torch.optim.AdamW(network.parameters(), lr=1e-2).step()
        reached("step")
        borrowed.draw([CAT], subject.sampling)
        reached("preview")
        next(borrowed.unet.parameters()).requires_grad_(True)
        reached("end")


def test_drawing_on_the_side_is_refused_during_a_loan(subject: Subject) -> None:
    with subject.host.borrow_model(), pytest.raises(HostError, match="loan"):
        subject.host.generate([CAT], subject.sampling)


def test_a_loan_that_has_ended_is_refused(subject: Subject) -> None:
    with subject.host.borrow_model() as borrowed:
        kept = borrowed
    with pytest.raises(HostError, match="ended"):
        kept.encode_text(["a cat"], 64, 64)


# -- helpers -----------------------------------------------------------------------------------------


def random_states() -> list[bytes]:
    """The generators of Python, numpy and torch, comparable."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    tensors = [torch.get_rng_state(), *cuda]
    return [pickle.dumps(random.getstate()), pickle.dumps(np.random.get_state())] + [
        tensor.numpy().tobytes() for tensor in tensors
    ]
