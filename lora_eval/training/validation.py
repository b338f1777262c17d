"""Loss that can be compared between steps: the same pictures, noise and timesteps every time.

The training loss jumps by orders of magnitude with the random timestep (0.002 to 1), so its curve says little. Here
each picture is asked at the same stratified timesteps with the same noise, from step 0 on, and the answer is also
given relative to step 0. The idea is that of kohya's validation loss (sd-scripts pull request 1903) and ai-toolkit's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from lora_eval.dataset.encode import EncodedPicture, TextEncodings
from lora_eval.host.protocol import BorrowedModel
from lora_eval.lora.layers import LoraNetwork
from lora_eval.training.loss import add_noise, draw_noise, squared_error, training_target
from lora_eval.training.randomness import derive, torch_random

MAX_PICTURES = 32
BINS = 10
Denoise = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Probe:
    """One question: this picture, at this timestep, with the noise that its key and stratum name."""

    picture: int
    stratum: int
    timestep: int


@dataclass(frozen=True)
class FixedResult:
    """Answers to all probes, in the order of the probes.

    Attributes:
        losses: (N,) float64 mean squared error of each probe.
        timesteps: (N,) int64.
        pictures: (N,) int64, index of the picture.
    """

    losses: np.ndarray
    timesteps: np.ndarray
    pictures: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over all probes (each picture has equally many)."""
        return float(self.losses.mean())

    def by_picture(self) -> np.ndarray:
        """(P,) mean of each picture."""
        return np.array([self.losses[self.pictures == p].mean() for p in np.unique(self.pictures)])

    def standard_error(self, start: FixedResult) -> float | None:
        """Standard error over pictures of the mean change since ``start``; None for one picture."""
        change = self.by_picture() - start.by_picture()
        return float(change.std(ddof=1) / math.sqrt(len(change))) if len(change) > 1 else None


class FixedLoss:
    """A fixed set of probes on some pictures.

    Args:
        borrowed: the borrowed model.
        pictures: encoded pictures; at most 32 of them are asked, chosen by their content hash.
        texts: the captions' encodings.
        seed: of noise and timesteps.
        batch_size: probes in one pass; does not change the probes, only rounding.
        denoise: the model's prediction; default the borrowed model's.
        probes: about how many to ask in all; each picture gets 4 to 16 timesteps.

    The probes depend on the seed and each picture's content alone: neither on the order of the pictures nor on any
    other generator.
    """

    def __init__(
        self,
        borrowed: BorrowedModel,
        pictures: Sequence[EncodedPicture],
        texts: TextEncodings,
        seed: int,
        batch_size: int,
        denoise: Denoise | None = None,
        probes: int = 32,
    ) -> None:
        self._borrowed, self._texts, self._seed, self._batch_size = borrowed, texts, seed, batch_size
        self._denoise = denoise or borrowed.denoise
        chosen = sorted(pictures, key=lambda p: (derive(seed, "fixed", p.sha256), p.sha256, p.item.caption))
        self.pictures = chosen[:MAX_PICTURES]
        self.strata = min(max(-(-probes // max(len(self.pictures), 1)), 4), 16)
        self.probes = [probe for index in range(len(self.pictures)) for probe in self._probes_of(index)]

    def _probes_of(self, index: int) -> Iterator[Probe]:
        generator = torch_random(self._seed, "fixed timesteps", self.pictures[index].sha256)
        inside = torch.rand(self.strata, generator=generator, dtype=torch.float64).tolist()
        for stratum, share in enumerate(inside):
            yield Probe(index, stratum, min(int((stratum + share) / self.strata * 1000), 999))

    def __len__(self) -> int:
        return len(self.probes)

    @torch.no_grad()
    def measure(self, network: LoraNetwork | None = None) -> FixedResult:
        """Ask all probes. Weights, RNG and train/eval modes are afterwards as they were."""
        losses = np.zeros(len(self.probes))
        with evaluating(network):
            for batch in self._batches():
                losses[batch] = self._ask([self.probes[i] for i in batch])
        timesteps = np.array([probe.timestep for probe in self.probes], dtype=np.int64)
        return FixedResult(losses, timesteps, np.array([probe.picture for probe in self.probes], dtype=np.int64))

    def _batches(self) -> Iterator[list[int]]:
        by_bucket: dict[tuple[int, int], list[int]] = {}
        for number, probe in enumerate(self.probes):
            by_bucket.setdefault(self.pictures[probe.picture].bucket, []).append(number)
        for bucket in sorted(by_bucket):
            numbers = by_bucket[bucket]
            for start in range(0, len(numbers), self._batch_size):
                yield numbers[start : start + self._batch_size]

    def _ask(self, probes: list[Probe]) -> np.ndarray:
        device = self._borrowed.device
        alphas = self._borrowed.alphas_cumprod
        pictures = [self.pictures[probe.picture] for probe in probes]
        latents = torch.stack([picture.variants[0] for picture in pictures]).to(device)
        noise = torch.cat(
            [
                draw_noise((1, *latents.shape[1:]), torch_random(self._seed, "fixed noise", p.sha256, probe.stratum))
                for p, probe in zip(pictures, probes, strict=True)
            ]
        ).to(device)
        timesteps = torch.tensor([probe.timestep for probe in probes], device=device)
        cond = self._texts.batch([p.item.caption for p in pictures], pictures[0].bucket).to(device)
        predicted = self._denoise(add_noise(latents, noise, timesteps, alphas), timesteps, cond)
        target = training_target(self._borrowed.prediction, latents, noise, timesteps, alphas)
        whole = torch.ones(1, *latents.shape[2:], device=device)
        masks = [whole if p.masks is None else p.masks[0].to(whole) for p in pictures]
        mask = None if all(p.masks is None for p in pictures) else torch.stack(masks)
        return squared_error(predicted, target, mask).cpu().double().numpy()


@contextmanager
def evaluating(network: LoraNetwork | None) -> Iterator[None]:
    """Turn the LoRA's dropout off for looking, and back as it was."""
    if network is None:
        yield
        return
    before = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(before)


class TimestepReference:
    """The loss that the untrained model has at each timestep, to divide training losses by.

    Means of log loss in ten equal bins of the schedule, joined by straight lines; bins without an answer are filled
    from their neighbours. Dividing by it makes losses of different timesteps comparable (TrainTrain z-scores each bin
    to the same end).
    """

    def __init__(self, table: np.ndarray) -> None:
        self.table = np.asarray(table, dtype=np.float64)

    @classmethod
    def measure(cls, timesteps: np.ndarray, losses: np.ndarray, steps: int = 1000) -> TimestepReference:
        """From answers at step 0; at least one finite, positive loss is needed (ValueError)."""
        usable = np.isfinite(losses) & (losses > 0)
        if not usable.any():
            raise ValueError("no usable loss")
        which = np.minimum(timesteps[usable] * BINS // steps, BINS - 1)
        logs = np.log(losses[usable])
        means = np.array([logs[which == b].mean() if (which == b).any() else np.nan for b in range(BINS)])
        known = np.isfinite(means)
        filled = np.interp(np.arange(BINS), np.flatnonzero(known), means[known])
        return cls(np.exp(filled))

    def __call__(self, timesteps: torch.Tensor, steps: int = 1000) -> torch.Tensor:
        """(B,) float32 reference losses on the timesteps' device."""
        centres = (np.arange(BINS) + 0.5) * steps / BINS
        values = np.exp(np.interp(timesteps.cpu().numpy(), centres, np.log(self.table)))
        return torch.from_numpy(values.astype(np.float32)).to(timesteps.device)
