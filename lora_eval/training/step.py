"""One update: batches in, gradients, clipping, optimiser."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from lora_eval.dataset.captions import vary
from lora_eval.dataset.encode import EncodedPicture, TextEncodings
from lora_eval.errors import ConfigError, HostError
from lora_eval.host.protocol import BorrowedModel, Conditioning
from lora_eval.lora.layers import LoraNetwork
from lora_eval.training.config import TrainConfig
from lora_eval.training.loss import (
    add_noise,
    draw_noise,
    min_snr_weights,
    squared_error,
    stratified_timesteps,
    training_target,
)
from lora_eval.training.negatives import HardNegatives
from lora_eval.training.optim import Ema, set_learning_rate
from lora_eval.training.order import Batch, Order
from lora_eval.training.randomness import derive, python_random, torch_random
from lora_eval.training.schedule import lr_factor
from lora_eval.training.validation import TimestepReference

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class StepResult:
    """What an update gave. ``applied`` False: gradients overflowed in fp16 and the step was left out.

    ``negative_loss`` is None before hard negatives begin.
    """

    epoch: int
    lr: float
    loss: float
    loss_debiased: float
    grad_norm: float
    applied: bool = True
    negative_loss: float | None = None

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def precision(config: TrainConfig, borrowed: BorrowedModel) -> Callable[[], AbstractContextManager[Any]]:
    """The autocast to put round the UNet: the config's, or nothing where the host's own is wanted.

    Raises:
        ConfigError: float32 is asked for and the host holds the model in half precision, or the device cannot
            compute in the precision asked for.
    """
    if config.mixed_precision == "auto":
        return nullcontext
    kind = borrowed.device.type
    if config.mixed_precision == "no":
        if borrowed.compute_dtype != torch.float32:
            raise ConfigError(
                f"mixed_precision is no, but the host computes in {borrowed.compute_dtype}; "
                "set it to auto, or start the host in full precision (--no-half)"
            )
        return nullcontext
    dtype = _HALF[config.mixed_precision]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with torch.autocast(kind, dtype=dtype):
                pass
    except (RuntimeError, UserWarning):
        raise ConfigError(
            f"mixed_precision is {config.mixed_precision}, which torch {torch.__version__} cannot compute on {kind}; "
            "set it to auto"
        ) from None
    return lambda: torch.autocast(kind, dtype=dtype)


def make_scaler(config: TrainConfig, borrowed: BorrowedModel) -> Any:
    """A gradient scaler when gradients are computed in fp16, else one that does nothing."""
    half = config.mixed_precision == "fp16" or (
        config.mixed_precision == "auto" and borrowed.compute_dtype == torch.float16
    )
    kind = borrowed.device.type
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(kind, enabled=half and kind in ("cuda", "cpu"))
    return torch.cuda.amp.GradScaler(enabled=half and kind == "cuda")


@dataclass(frozen=True)
class TrainingData:
    """What is learnt: encoded pictures, their texts, and which pictures a step sees."""

    pictures: Sequence[EncodedPicture]
    texts: TextEncodings
    order: Order


@dataclass(frozen=True)
class Optimisation:
    """What turns gradients into changes: the optimiser, the gradient scaler of fp16, the average of the weights."""

    optimizer: torch.optim.Optimizer
    scaler: Any
    ema: Ema | None = None


class Stepper:
    """Makes updates. Keeps no state of its own: step n gives the same whatever was called before.

    Attributes:
        clean: names that the caller may use in messages: parameters, optimiser, EMA.
    """

    def __init__(
        self,
        borrowed: BorrowedModel,
        network: LoraNetwork,
        config: TrainConfig,
        data: TrainingData,
        optimisation: Optimisation,
        total: int,
        reference: TimestepReference,
        negatives: Sequence[str] = (),
    ) -> None:
        self.borrowed, self.network, self.config = borrowed, network, config
        self.pictures, self.texts, self.order, self.total = data.pictures, data.texts, data.order, total
        self.optimizer, self.scaler, self.ema = optimisation.optimizer, optimisation.scaler, optimisation.ema
        self.reference = reference
        self.parameters = network.parameters()
        self.autocast = precision(config, borrowed)
        self.negatives = None
        if negatives:
            self.negatives = HardNegatives(borrowed, network, config, list(negatives), data.texts, total, self._denoise)

    def learning_rate(self, step: int) -> float:
        """Rate of update ``step`` (1-based)."""
        config = self.config
        warmup = config.warmup(self.total)
        return config.learning_rate * lr_factor(step - 1, self.total, warmup, config.lr_scheduler, config.lr_cycles)

    def update(self, step: int) -> StepResult:
        """Do update ``step`` (1-based). A result that is not finite has changed no parameter."""
        config = self.config
        accumulation = config.gradient_accumulation
        batches = [self.order.batch((step - 1) * accumulation + k) for k in range(accumulation)]
        shown = sum(len(batch.indices) for batch in batches)
        timesteps = stratified_timesteps(shown, torch_random(config.seed, "timesteps", step))
        rate = self.learning_rate(step)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        losses, debiased = [], []
        start = 0
        negatives = self._negative_timesteps(step, batches)
        pulled: list[torch.Tensor] = []
        with self._dropout(step):
            for part, batch in enumerate(batches):
                own = timesteps[start : start + len(batch.indices)]
                start += len(batch.indices)
                errors, weights, latents = self._errors(step, part, batch, own)
                # a sum over the shown pictures: a smaller last batch counts by its pictures
                loss = (errors * weights).sum() / shown
                self.scaler.scale(loss).backward()
                losses.append(loss.detach())
                debiased.append((errors.detach() / self.reference(own).to(errors.device)).sum() / shown)
                if self.negatives is not None and negatives:
                    # a backward pass of its own: the memory of the larger batch, not of both
                    bucket = self.pictures[batch.indices[0]].bucket
                    count = len(negatives[part])
                    errors, weights = self.negatives.errors(step, part, latents[:count], bucket, negatives[part])
                    pull = (errors * weights).sum() / sum(len(one) for one in negatives)
                    self.scaler.scale(config.hard_negative_weight * pull).backward()
                    pulled.append(pull.detach())
        sums = [torch.stack(values).sum() for values in (losses, debiased, pulled) if values]
        return self._apply(rate, batches[0].epoch + 1, *sums)

    def _denoise(self, noisy: torch.Tensor, timesteps: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        with self.autocast():
            return self.borrowed.denoise(noisy, timesteps, cond)

    def _negative_timesteps(self, step: int, batches: Sequence[Batch]) -> list[torch.Tensor]:
        """Timesteps of the hard negatives of each batch, stratified over the step; [] before they begin."""
        if self.negatives is None or not self.negatives.begun(step):
            return []
        counts = [self.negatives.count(len(batch.indices)) for batch in batches]
        drawn = self.negatives.timesteps(sum(counts), torch_random(self.config.seed, "negative timesteps", step))
        return list(drawn.split(counts))

    def _errors(
        self, step: int, part: int, batch: Batch, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        borrowed, config = self.borrowed, self.config
        device = borrowed.device
        latents, cond, mask, kinds = self._batch(step, part, batch)
        noise = draw_noise(tuple(latents.shape), torch_random(config.seed, "noise", step, part), config.noise_offset)
        latents, noise, timesteps = latents.to(device), noise.to(device), timesteps.to(device)
        noisy = add_noise(latents, noise, timesteps, borrowed.alphas_cumprod)
        predicted = self._denoise(noisy, timesteps, cond.to(device))
        if not predicted.requires_grad:
            raise HostError(
                "the model's prediction does not depend on the LoRA (no gradient); the host drew it without its hooks"
            )
        target = training_target(borrowed.prediction, latents, noise, timesteps, borrowed.alphas_cumprod)
        errors = squared_error(predicted, target, None if mask is None else mask.to(device))
        weights = kinds.to(errors.device)
        if config.min_snr_gamma is not None:
            snr = min_snr_weights(timesteps, borrowed.alphas_cumprod, config.min_snr_gamma, borrowed.prediction)
            weights = weights * snr.to(errors.device)
        return errors, weights, latents

    def _batch(
        self, step: int, part: int, batch: Batch
    ) -> tuple[torch.Tensor, Conditioning, torch.Tensor | None, torch.Tensor]:
        """Latents, conditioning, masks where a picture has one, and the weight of each picture's kind."""
        config = self.config
        rng = python_random(config.seed, "pictures", step, part)
        latents, texts, masks = [], [], []
        for index in batch.indices:
            picture = self.pictures[index]
            variant = rng.randrange(len(picture.variants))
            latents.append(picture.variants[variant])
            masks.append(None if picture.masks is None else picture.masks[variant])
            caption = vary(
                picture.item.caption,
                rng,
                config.shuffle_caption,
                config.keep_tokens,
                config.caption_dropout,
                config.tag_dropout,
            )
            texts.append(caption)
        mask = None
        if any(one is not None for one in masks):
            whole = torch.ones(1, *latents[0].shape[1:], device=latents[0].device)
            mask = torch.stack([whole if one is None else one.to(whole) for one in masks])
        prior = config.prior_loss_weight
        kinds = torch.tensor([prior if self.pictures[i].item.regular else 1.0 for i in batch.indices])
        keep = not (config.shuffle_caption or config.tag_dropout)
        cond = self.texts.batch(texts, self.pictures[batch.indices[0]].bucket, keep)
        return torch.stack(latents), cond, mask, kinds

    @contextlib.contextmanager
    def _dropout(self, step: int) -> Iterator[None]:
        """Dropout draws from torch's global generator: seed it for the step and put it back afterwards."""
        if not self.config.dropout:
            yield
            return
        device = self.borrowed.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive(self.config.seed, "dropout", step))
            yield

    def _apply(
        self, rate: float, epoch: int, loss: torch.Tensor, debiased: torch.Tensor, pull: torch.Tensor | None = None
    ) -> StepResult:
        scaled = self.scaler.is_enabled()
        if scaled:
            self.scaler.unscale_(self.optimizer)
        limit = self.config.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        # one transfer from the device a step, not three
        several = [loss, debiased, norm.to(loss), *([] if pull is None else [pull.to(loss)])]
        loss_value, debiased_value, norm_value, *pulls = torch.stack(several).tolist()
        result = StepResult(epoch, rate, loss_value, debiased_value, norm_value, True, pulls[0] if pulls else None)
        if not math.isfinite(loss_value):
            return result
        if scaled:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if not math.isfinite(norm_value):
                return replace(result, applied=False)
        elif math.isfinite(norm_value):
            self.optimizer.step()
        if self.ema is not None and math.isfinite(norm_value):
            self.ema.update()
        return result
