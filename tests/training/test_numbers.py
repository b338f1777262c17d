"""Schedules, losses, order and chance against closed forms and independent references."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.training.loss import (
    add_noise,
    draw_noise,
    min_snr_weights,
    squared_error,
    stratified_timesteps,
    training_target,
)
from lora_eval.training.optim import Ema
from lora_eval.training.order import Order
from lora_eval.training.randomness import torch_random
from lora_eval.training.schedule import lr_factor
from lora_eval.training.validation import TimestepReference

ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()


# -- schedules -------------------------------------------------------------------------------------


def reference_scheduler(kind: str, total: int, warmup: int, cycles: int) -> list[float]:
    """torch's own schedulers, stepped."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    rest = total - warmup
    lr = torch.optim.lr_scheduler
    after: torch.optim.lr_scheduler.LRScheduler
    if kind == "constant":
        after = lr.ConstantLR(optimizer, 1.0, total)
    elif kind == "linear":
        after = lr.LinearLR(optimizer, 1.0, 0.0, rest)
    elif kind == "cosine":
        after = lr.CosineAnnealingLR(optimizer, rest)
    else:
        after = lr.CosineAnnealingWarmRestarts(optimizer, rest // cycles)
    found = []
    for _ in range(rest):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        after.step()
    return [(i + 1) / warmup for i in range(warmup)] + found


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "cosine_with_restarts"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_schedules_are_those_of_torch(kind: str, warmup: int) -> None:
    total, cycles = 60 + warmup, 3
    ours = [lr_factor(step, total, warmup, kind, cycles) for step in range(total)]
    assert ours == pytest.approx(reference_scheduler(kind, total, warmup, cycles), abs=1e-6)


@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from(["constant", "linear", "cosine", "cosine_with_restarts"]))
def test_factors_stay_between_0_and_1_and_the_first_update_is_not_wasted(total: int, share: float, kind: str) -> None:
    warmup = int(total * share)
    factors = [lr_factor(step, total, warmup, kind, 2) for step in range(total)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] > 0


# -- loss ------------------------------------------------------------------------------------------


def test_noising_and_v_are_a_rotation() -> None:
    x, e = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    t = torch.tensor([0, 250, 600, 999])
    noisy = add_noise(x, e, t, ALPHAS)
    v = training_target("v_prediction", x, e, t, ALPHAS)
    a = ALPHAS[t].reshape(-1, 1, 1, 1)
    assert torch.allclose(a.sqrt() * noisy - (1 - a).sqrt() * v, x, atol=1e-5)
    assert torch.allclose((1 - a).sqrt() * noisy + a.sqrt() * v, e, atol=1e-5)
    assert training_target("epsilon", x, e, t, ALPHAS) is e


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_is_the_paper_s_weight_on_the_error_of_x(gamma: float) -> None:
    """min(SNR, gamma) |x - x'|^2, with x' written through epsilon or v, is the weighted loss of either."""
    t = torch.arange(0, 1000, 37)
    a = ALPHAS[t].double()
    snr = a / (1 - a)
    wanted = torch.minimum(snr, torch.tensor(gamma, dtype=torch.float64))
    # an error d in epsilon moves x by sqrt((1-a)/a) d, one in v by sqrt(1-a) d
    for prediction, moved in (("epsilon", (1 - a) / a), ("v_prediction", 1 - a)):
        weights = min_snr_weights(t, ALPHAS, gamma, prediction).double()
        assert torch.allclose(weights, wanted * moved, rtol=1e-3)


def test_min_snr_clips_only_where_snr_is_above_gamma() -> None:
    snr = ALPHAS / (1 - ALPHAS)
    t = torch.arange(1000)
    weights = min_snr_weights(t, ALPHAS, 5.0, "epsilon")
    assert torch.allclose(weights[snr <= 5], torch.ones(int((snr <= 5).sum())))
    assert (weights[snr > 5] < 1).all()


def test_squared_error_is_a_mean_for_each_sample_in_float32() -> None:
    a, b = torch.randn(3, 4, 5, 6), torch.randn(3, 4, 5, 6)
    expected = ((a.double() - b.double()) ** 2).mean((1, 2, 3))
    assert torch.allclose(squared_error(a, b).double(), expected)
    assert squared_error(a.half(), b.half()).dtype == torch.float32


def test_offset_noise_adds_one_constant_for_each_channel() -> None:
    shape = (64, 4, 16, 16)
    plain = draw_noise(shape, torch_random(0, "n"))
    offset = draw_noise(shape, torch_random(0, "n"), 0.1) - plain
    assert torch.allclose(offset, offset[:, :, :1, :1].expand(shape), atol=1e-6)
    assert offset[:, :, 0, 0].std().item() == pytest.approx(0.1, rel=0.2)


@given(st.integers(1, 64), st.integers(0, 2**31))
def test_each_stratum_holds_one_timestep(count: int, seed: int) -> None:
    t = stratified_timesteps(count, torch_random(seed)).numpy()
    assert t.min() >= 0 and t.max() <= 999
    # one in each of the equal parts, up to the rounding of a part's edge
    edges = np.sort(t) - np.arange(count) * 1000 / count
    assert (edges > -1).all() and (edges < 1000 / count + 1e-9).all()


def test_each_place_in_the_batch_is_uniform() -> None:
    drawn = np.array([stratified_timesteps(4, torch_random(0, "t", i)).numpy() for i in range(4000)])
    for place in range(4):
        counts = np.histogram(drawn[:, place], bins=10, range=(0, 1000))[0]
        chi2 = ((counts - 400) ** 2 / 400).sum()
        assert chi2 < 27.9  # 0.1 % point of chi-squared with 9 degrees of freedom


# -- order -----------------------------------------------------------------------------------------

BUCKETS = st.sampled_from([(64, 64), (48, 80), (80, 48)])


@given(st.lists(st.tuples(BUCKETS, st.integers(1, 5)), min_size=1, max_size=15), st.integers(1, 6), st.integers(0, 5))
def test_an_epoch_shows_every_picture_as_often_as_it_repeats(
    pictures: list[tuple[tuple[int, int], int]], batch_size: int, seed: int
) -> None:
    buckets, repeats = [b for b, _ in pictures], [r for _, r in pictures]
    order = Order(buckets, repeats, batch_size, seed)
    for epoch in (0, 1, 7):
        shown: Counter[int] = Counter()
        for place in range(order.batches_per_epoch):
            batch = order.batch(epoch * order.batches_per_epoch + place)
            assert batch.epoch == epoch and 1 <= len(batch.indices) <= batch_size
            assert len({buckets[i] for i in batch.indices}) == 1
            shown.update(batch.indices)
        assert [shown[i] for i in range(len(pictures))] == repeats


def test_with_one_bucket_an_epoch_is_the_sum_of_repeats_over_the_batch_rounded_up() -> None:
    order = Order([(64, 64)] * 7, [3, 1, 1, 1, 1, 1, 2], 4, 0)
    assert order.batches_per_epoch == math.ceil(10 / 4)
    assert order.total_steps(10, 1) == 30
    assert order.total_steps(10, 4) == 8
    assert order.total_steps(10, 1, max_steps=7) == 7


def test_any_place_is_found_without_what_was_before() -> None:
    def fresh() -> Order:
        return Order([(64, 64)] * 9, [1] * 9, 2, 3)

    walked = fresh()
    assert [walked.batch(n) for n in range(20)] == [fresh().batch(n) for n in range(20)]


def test_epochs_and_seeds_differ() -> None:
    order = Order([(64, 64)] * 9, [1] * 9, 9, 0)
    seen = {order.batch(n).indices for n in range(6)} | {
        Order([(64, 64)] * 9, [1] * 9, 9, s).batch(0).indices for s in range(1, 6)
    }
    assert len(seen) == 11


# -- average and reference -------------------------------------------------------------------------


def test_ema_is_its_recurrence_and_swaps_back_exactly() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    ema = Ema([parameter], 0.9)
    mean = np.zeros(3)
    for n in range(1, 30):
        with torch.no_grad():
            parameter.copy_(torch.randn(3, generator=torch_random(n)))
        ema.update()
        decay = min(0.9, (1 + n) / (10 + n))
        mean = decay * mean + (1 - decay) * parameter.detach().double().numpy()
    assert np.allclose(ema.mean[0].numpy(), mean, atol=1e-6)
    before = parameter.detach().clone()
    ema.swap()
    assert np.allclose(parameter.detach().numpy(), mean, atol=1e-6)
    ema.swap()
    assert torch.equal(parameter.detach(), before)


def test_the_reference_undoes_a_timestep_s_own_loss() -> None:
    t = np.arange(0, 1000, 3)
    truth = np.exp(-t / 200)
    reference = TimestepReference.measure(t, truth)
    ratio = truth / reference(torch.from_numpy(t)).numpy()
    inner = (t > 50) & (t < 950)
    assert np.allclose(ratio[inner], 1, atol=0.03)


def test_bins_without_an_answer_are_filled_from_their_neighbours() -> None:
    reference = TimestepReference.measure(np.array([150, 850]), np.array([1.0, 0.01]))
    assert np.isfinite(reference.table).all()
    assert reference.table[0] == pytest.approx(1.0) and reference.table[9] == pytest.approx(0.01)
    with pytest.raises(ValueError):
        TimestepReference.measure(np.array([5]), np.array([np.nan]))
