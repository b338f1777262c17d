"""Validation, cached encodings, history and optimiser state, each by itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.dataset.encode import Encoded, Variations, encode, trim_cache
from lora_eval.dataset.folder import scan
from lora_eval.errors import RunError
from lora_eval.lora.layers import LoraNetwork, LoraOptions
from lora_eval.lora.targets import find_targets
from lora_eval.training.config import make_config
from lora_eval.training.history import History, read_rows
from lora_eval.training.loss import add_noise
from lora_eval.training.optim import make_optimizer, pack_state, unpack_state
from lora_eval.training.validation import FixedLoss
from tests.fakes import FakeBorrowed, drawing, make_unet, write_dataset


@pytest.fixture
def borrowed() -> FakeBorrowed:
    return FakeBorrowed(make_unet(), "sd1", "epsilon")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), 6)


@pytest.fixture
def encoded(borrowed: FakeBorrowed, data: Path) -> Encoded:
    return encode(scan(data).items, borrowed, (64, 64))


# -- validation ------------------------------------------------------------------------------------


def test_the_fixed_loss_is_the_plain_loss_of_its_probes(borrowed: FakeBorrowed, encoded: Encoded) -> None:
    fixed = FixedLoss(borrowed, encoded.pictures, encoded.texts, 0, 5)
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = borrowed.unet

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            out = real(x, t, c)
            for i in range(len(x)):
                asked.append((x[i], out[i]))
            return out

    borrowed.unet = Spy()  # type: ignore[assignment]
    result = fixed.measure()
    assert len(asked) == len(fixed) == len(result.losses)
    for (noisy, out), probe, loss in zip(asked, fixed.probes, result.losses, strict=True):
        latent = fixed.pictures[probe.picture].variants[0]
        a = borrowed.alphas_cumprod[probe.timestep]
        noise = (noisy - a.sqrt() * latent) / (1 - a).sqrt()
        assert ((out - noise) ** 2).mean().item() == pytest.approx(loss, rel=1e-3)


@given(order=st.permutations(range(6)), seed=st.integers(0, 3))
def test_probes_do_not_depend_on_the_order_of_the_pictures(data: Path, order: list[int], seed: int) -> None:
    borrowed = FakeBorrowed(make_unet(), "sd1", "epsilon")
    found = encode(scan(data).items, borrowed, (64, 64))
    plain = FixedLoss(borrowed, found.pictures, found.texts, seed, 4)
    mixed = FixedLoss(borrowed, [found.pictures[i] for i in order], found.texts, seed, 4)
    assert mixed.probes == plain.probes
    assert (mixed.measure().losses == plain.measure().losses).all()


def test_each_picture_is_asked_once_in_each_stratum(borrowed: FakeBorrowed, encoded: Encoded) -> None:
    fixed = FixedLoss(borrowed, encoded.pictures, encoded.texts, 0, 4)
    for picture in range(6):
        steps = [probe.timestep for probe in fixed.probes if probe.picture == picture]
        assert [step * fixed.strata // 1000 for step in steps] == list(range(fixed.strata))
    assert fixed.strata == 6 and len(fixed) == 36


def test_measuring_turns_dropout_off_and_on_again(borrowed: FakeBorrowed, encoded: Encoded) -> None:
    network = LoraNetwork(borrowed.unet, find_targets(borrowed.unet), 4, 4.0, seed=0, options=LoraOptions(dropout=0.5))
    with torch.no_grad():
        for layer in network.layers.values():
            layer.up.normal_(generator=torch.Generator().manual_seed(0))
    fixed = FixedLoss(borrowed, encoded.pictures, encoded.texts, 0, 4)
    with network:
        state = torch.get_rng_state()
        first, second = fixed.measure(network), fixed.measure(network)
        assert torch.equal(torch.get_rng_state(), state)
        assert network.training
    assert (first.losses == second.losses).all()
    assert (first.losses != fixed.measure().losses).any()


def test_the_standard_error_is_that_of_paired_changes(borrowed: FakeBorrowed, encoded: Encoded) -> None:
    fixed = FixedLoss(borrowed, encoded.pictures, encoded.texts, 0, 4)
    start = fixed.measure()
    shifted = type(start)(start.losses + 0.1, start.timesteps, start.pictures)
    assert shifted.standard_error(start) == pytest.approx(0, abs=1e-12)
    one = FixedLoss(borrowed, encoded.pictures[:1], encoded.texts, 0, 4).measure()
    assert one.standard_error(one) is None


# -- encodings -------------------------------------------------------------------------------------


def test_latents_are_those_of_the_picture_and_of_its_mirror(borrowed: FakeBorrowed, tmp_path: Path) -> None:
    data = write_dataset(tmp_path, 1)
    found = encode(scan(data).items, borrowed, (64, 64), variations=Variations(flip=True)).pictures[0]
    import numpy as np

    pixels = torch.from_numpy(np.asarray(drawing(0), dtype=np.float32).transpose(2, 0, 1) / 255)[None]
    assert torch.allclose(found.variants[0], borrowed.encode_images(pixels)[0])
    assert torch.allclose(found.variants[1], borrowed.encode_images(pixels.flip(-1))[0])


def test_random_crops_only_where_something_is_cut(borrowed: FakeBorrowed, tmp_path: Path) -> None:
    data = write_dataset(tmp_path, 1)
    drawing(5, (130, 64)).save(data / "wide.png")
    with open(data / "metadata.csv", "a") as file:
        file.write("wide.png,fox\n")
    exact, wide = encode(
        scan(data).items, borrowed, (64, 64), variations=Variations(random_crop=True, flip=True)
    ).pictures
    assert (exact.crops, len(exact.variants)) == (1, 2)
    assert (wide.crops, len(wide.variants)) == (5, 10)
    assert not torch.equal(wide.variants[1], wide.variants[2])


def test_enlarging_is_said(borrowed: FakeBorrowed, tmp_path: Path) -> None:
    data = write_dataset(tmp_path, 2, (40, 40))
    found = encode(scan(data).items, borrowed, (64, 64))
    assert found.notes and "2 of 2 pictures are enlarged" in found.notes[0]
    small = encode(scan(data).items, borrowed, (64, 64), variations=Variations(no_upscale=True))
    assert not small.notes and small.pictures[0].bucket == (40, 40)


def test_the_cache_misses_when_the_encoder_the_picture_or_the_caption_changes(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 3)

    def run(scale: float = 1.0, **options: Any) -> tuple[int, int]:
        borrowed = FakeBorrowed(make_unet(), "sd1", "epsilon")
        real = borrowed.encode_images
        borrowed.encode_images = lambda pixels: real(pixels) * scale  # type: ignore[method-assign]
        found = encode(scan(data).items, borrowed, (64, 64), "model", tmp_path / "cache", Variations(**options))
        found.texts.batch([p.item.caption for p in found.pictures], (64, 64))
        return found.cache.hits, found.cache.misses

    assert run() == (0, 6)
    assert run() == (6, 0)
    assert run(scale=2.0) == (3, 3), "another VAE: latents anew, captions kept"
    assert run(flip=True) == (6, 3)
    drawing(50).save(data / "01.png")
    assert run() == (5, 1)


def test_a_broken_cache_entry_is_made_again(borrowed: FakeBorrowed, data: Path, tmp_path: Path) -> None:
    first = encode(scan(data).items, borrowed, (64, 64), "m", tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:20])
    second = encode(scan(data).items, borrowed, (64, 64), "m", tmp_path)
    assert second.cache.hits == 0
    assert all(torch.equal(a.variants, b.variants) for a, b in zip(first.pictures, second.pictures, strict=True))


def test_shuffled_captions_are_not_kept_on_disk(borrowed: FakeBorrowed, data: Path, tmp_path: Path) -> None:
    texts = encode(scan(data).items, borrowed, (64, 64), "m", tmp_path).texts
    before = len(list(tmp_path.rglob("*.safetensors")))
    texts.batch(["a, b", "b, a"], (64, 64), keep=False)
    assert len(list(tmp_path.rglob("*.safetensors"))) == before
    texts.batch(["a fox"], (64, 64))
    assert len(list(tmp_path.rglob("*.safetensors"))) == before + 1


def test_the_cache_forgets_what_was_longest_unused(borrowed: FakeBorrowed, data: Path, tmp_path: Path) -> None:
    encode(scan(data).items, borrowed, (64, 64), "m", tmp_path)
    entries = sorted(tmp_path.rglob("*.safetensors"))
    for age, path in enumerate(entries):
        os.utime(path, (1000 - age, 1000 - age))
    size = entries[0].stat().st_size
    assert trim_cache(tmp_path, limit=4 * size) == 2
    assert sorted(tmp_path.rglob("*.safetensors")) == entries[:4], "the oldest two are gone"
    assert trim_cache(tmp_path, limit=4 * size) == 0


def test_sdxl_captions_are_encoded_for_each_bucket_size(data: Path) -> None:
    borrowed = FakeBorrowed(make_unet(), "sdxl", "epsilon")
    texts = encode(scan(data).items, borrowed, (64, 64)).texts
    one, other = texts.batch(["fox", "owl"], (64, 64)), texts.batch(["fox"], (48, 80))
    assert one.vector is not None and other.vector is not None
    assert one.vector.tolist() == [[pytest.approx(0.64)] * 2] * 2
    assert other.vector[0].tolist() == pytest.approx([0.48, 0.80])


# -- history and optimiser -------------------------------------------------------------------------


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20))
def test_numbers_read_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.mktemp("h") / "history.csv"
    with History(path) as history:
        for step, value in enumerate(values):
            history.append(step=step, epoch=1, loss=value)
    assert [row["loss"] for row in read_rows(path)] == values


def test_the_smooth_loss_is_a_bias_corrected_mean_and_goes_on_after_a_resume(tmp_path: Path) -> None:
    values = [1.0, 0.5, 2.0, 0.25, 0.75]
    with History(tmp_path / "a.csv") as history:
        whole = [history.append(step=i, loss_debiased=v)["loss_smooth"] for i, v in enumerate(values)]
    weights = [[0.95 ** (n - i) for i in range(n + 1)] for n in range(5)]
    expected = [sum(w * v for w, v in zip(ws, values, strict=False)) / sum(ws) for ws in weights]
    assert whole == pytest.approx(expected)
    with History(tmp_path / "a.csv", resume_at=2) as history:
        assert [row["step"] for row in read_rows(history.path)] == [0, 1, 2]
        again = [history.append(step=i, loss_debiased=values[i])["loss_smooth"] for i in (3, 4)]
    assert again == whole[3:]


def test_other_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,value\n1,2\n")
    with pytest.raises(RunError, match="no step column"):
        read_rows(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("step,loss\n1,low\n")
    with pytest.raises(RunError, match=r"line 2: loss is 'low'"):
        read_rows(tmp_path / "b.csv")


def test_optimiser_state_survives_safetensors_and_json() -> None:
    def fresh() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        parameter = torch.nn.Parameter(torch.ones(4, 3))
        return parameter, make_optimizer(make_config({"weight_decay": 0.1}), [parameter])

    def step(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, n: int) -> None:
        parameter.grad = torch.randn(4, 3, generator=torch.Generator().manual_seed(n))
        optimizer.step()

    whole, optimizer = fresh()
    for n in range(5):
        step(whole, optimizer, n)
    tensors, text = pack_state(optimizer)
    half, other = fresh()
    with torch.no_grad():
        half.copy_(whole)
    unpack_state(other, tensors, text)
    for n in range(5, 9):
        step(whole, optimizer, n)
        step(half, other, n)
    assert torch.equal(whole, half)


def test_event_files_are_read_by_tensorboard_itself(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from lora_eval.training.tensorboard import EventLog

    log = EventLog(tmp_path)
    log.write({"step": 0, "val_loss": 0.5})
    log.write({"step": 1, "loss": 0.25, "lr": 1e-4, "val_loss": None})
    log.close()
    read = accumulator.EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss/current")] == [(1, 0.25)]
    assert [(e.step, e.value) for e in read.Scalars("loss/validation")] == [(0, 0.5)]


def test_noise_at_the_end_of_the_schedule_hides_the_picture(borrowed: FakeBorrowed) -> None:
    latent, noise = torch.full((1, 4, 8, 8), 3.0), torch.randn(1, 4, 8, 8)
    last = add_noise(latent, noise, torch.tensor([999]), borrowed.alphas_cumprod)
    assert (last - noise).abs().max() < 0.3
