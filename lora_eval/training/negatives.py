"""Hard negatives: late in a run, prompts without the trigger are pulled to the base model's own prediction.

The target is what the same hooked network says at multiplier 0, so no second model is held. The idea is that of prior
preservation (Ruiz et al. 2023, "DreamBooth", https://arxiv.org/abs/2208.12242), by distillation of the prediction
instead of by drawn class pictures, as concept editing does (Gandikota et al. 2023, https://arxiv.org/abs/2303.07345).

Only the noisier half of the schedule is pulled. What a picture shows is decided there, where the prompt is all that the
network has to go by; at low noise it reads the content off the latents and hardly heeds the prompt (Balaji et al. 2022,
"eDiff-I", https://arxiv.org/abs/2211.01324). The latents being those of the concept's own pictures, a pull at low noise
would unlearn how the concept is drawn and lower no leak (figures: docs/benchmarks.md).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from lora_eval.dataset.captions import has_term, tidy
from lora_eval.dataset.encode import TextEncodings
from lora_eval.errors import ConfigError
from lora_eval.host.protocol import BorrowedModel, Conditioning
from lora_eval.lora.layers import LoraNetwork
from lora_eval.training.config import TrainConfig
from lora_eval.training.loss import add_noise, draw_noise, min_snr_weights, squared_error, stratified_timesteps
from lora_eval.training.randomness import python_random, torch_random

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_TIMESTEP, LAST_TIMESTEP = 500, 999

Denoise = Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]


def near_misses(captions: Iterable[str], trigger: str, class_word: str = "") -> list[str]:
    """Captions that miss the trigger alone: once the class word in its place, once nothing.

    Captions without the trigger give none: they describe the concept all the same, and pulling them to the base model
    would unlearn it. Each text comes once, in the order of the captions; the empty one only when there is no other.
    """
    pattern = re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)", re.IGNORECASE)
    words = [class_word, ""] if class_word else [""]
    # a function as replacement: a class word may hold a backslash
    found = [
        tidy(pattern.sub(lambda _, word=word: word, caption))  # type: ignore[misc]
        for caption in captions
        if has_term(caption, trigger)
        for word in words
    ]
    unique = list(dict.fromkeys(found))
    return [text for text in unique if text] or unique


def negative_prompts(config: TrainConfig, captions: Iterable[str]) -> list[str]:
    """The prompts to pull: ``hard_negative_prompts``, else near misses of the captions; [] when switched off.

    Raises:
        ConfigError: no prompts can be derived, or one of the list's calls the concept.
    """
    if not config.hard_negative_weight:
        return []
    trigger = config.trigger.strip()
    if config.hard_negative_prompts:
        texts = [tidy(one.replace("{class_word}", config.class_word)) for one in config.hard_negative_prompts]
        for text in texts:
            if "{trigger}" in text or (trigger and has_term(text, trigger)):
                raise ConfigError(f"hard_negative_prompts has {text!r}, which calls the concept; leave the trigger out")
        return list(dict.fromkeys(texts))
    if not trigger:
        raise ConfigError("hard_negative_weight needs trigger (or hard_negative_prompts): set one of them")
    found = near_misses(captions, trigger, config.class_word)
    if not found:
        raise ConfigError(
            f"hard_negative_weight needs captions with the trigger {trigger!r}, and none has it; "
            "put it in front of the captions or set hard_negative_prompts"
        )
    return found


@contextmanager
def base_model(network: LoraNetwork) -> Iterator[None]:
    """The hooked network as if it had no LoRA: multiplier 0, no gradients."""
    before = network.multiplier
    network.multiplier = 0.0
    try:
        with torch.no_grad():
            yield
    finally:
        network.multiplier = before


class HardNegatives:
    """The additional loss of a step.

    Args:
        borrowed, network: the borrowed model and the LoRA on it.
        config: the settings.
        prompts: from :func:`negative_prompts`.
        texts: their encodings.
        total: steps of the run.
        denoise: the model's prediction.

    Attributes:
        first: the first step (1-based) that has it.
    """

    def __init__(
        self,
        borrowed: BorrowedModel,
        network: LoraNetwork,
        config: TrainConfig,
        prompts: list[str],
        texts: TextEncodings,
        total: int,
        denoise: Denoise,
    ) -> None:
        self._borrowed, self._network, self._config = borrowed, network, config
        self._prompts, self._texts, self._denoise = prompts, texts, denoise
        self.first = math.floor(config.hard_negative_start * total) + 1

    def begun(self, step: int) -> bool:
        """Whether update ``step`` (1-based) has the loss."""
        return step >= self.first

    @staticmethod
    def count(pictures: int) -> int:
        """How many of a batch's pictures are also shown with a negative prompt: half of them, at least one."""
        return -(-pictures // 2)

    @staticmethod
    def timesteps(count: int, generator: torch.Generator) -> torch.Tensor:
        """(count,) int64 from FIRST_TIMESTEP to LAST_TIMESTEP, one in each of ``count`` equal parts, shuffled."""
        return FIRST_TIMESTEP + stratified_timesteps(count, generator, LAST_TIMESTEP + 1 - FIRST_TIMESTEP)

    def errors(
        self, step: int, part: int, latents: torch.Tensor, bucket: tuple[int, int], timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared distances to the base model's prediction, and their weights.

        Args:
            step, part: update and batch of it: they name the chance.
            latents: (n, 4, h, w) of training pictures, noised anew here.
            bucket: (width, height) of the pictures.
            timesteps: (n,) int64.

        Returns:
            (n,) float32 errors with gradient, (n,) weights: min-SNR's where that is on.
        """
        borrowed, config = self._borrowed, self._config
        device = borrowed.device
        rng = python_random(config.seed, "negatives", step, part)
        chosen = [rng.choice(self._prompts) for _ in range(len(latents))]
        noise = draw_noise(tuple(latents.shape), torch_random(config.seed, "negative noise", step, part))
        latents, noise, timesteps = latents.to(device), noise.to(device), timesteps.to(device)
        noisy = add_noise(latents, noise, timesteps, borrowed.alphas_cumprod)
        cond = self._texts.batch(chosen, bucket).to(device)
        with base_model(self._network):
            target = self._denoise(noisy, timesteps, cond)
        errors = squared_error(self._denoise(noisy, timesteps, cond), target)
        weights = torch.ones_like(errors.detach())
        if config.min_snr_gamma is not None:
            weights = min_snr_weights(timesteps, borrowed.alphas_cumprod, config.min_snr_gamma, borrowed.prediction)
        return errors, weights.to(errors.device)
