"""Test pictures during training, by the host's own sampler with the live LoRA."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_eval.dataset.captions import tidy
from lora_eval.errors import LoraEvalError
from lora_eval.files import atomic_path
from lora_eval.host.protocol import BorrowedModel, ImageRequest, Sampling
from lora_eval.log import logger
from lora_eval.training.config import TrainConfig


def sample_prompts(config: TrainConfig) -> list[str]:
    """The prompts with ``{trigger}`` and ``{class_word}`` filled in."""
    return _filled(config, config.trigger)


def class_prompts(config: TrainConfig) -> list[str]:
    """The same with the class word in place of the trigger: what an encoder that knows no trigger is asked."""
    texts = _filled(config, config.class_word)
    if not config.trigger:
        return texts
    return [tidy(re.sub(rf"(?<!\w){re.escape(config.trigger)}(?!\w)", config.class_word, text)) for text in texts]


def _filled(config: TrainConfig, trigger: str) -> list[str]:
    prompts = (prompt.replace("{trigger}", trigger) for prompt in config.sample_prompts)
    return [tidy(prompt.replace("{class_word}", config.class_word)) for prompt in prompts]


def draw_samples(
    borrowed: BorrowedModel, config: TrainConfig, size: tuple[int, int], folder: Path, name: str, step: int
) -> list[list[Image.Image]]:
    """Draw every prompt, write ``<name>-<step>-<number>.png`` with its infotext, and return the pictures by prompt.

    Each picture keeps its own seed over the whole run, so pictures of two steps differ by the LoRA alone. A sampler
    that fails does not end the training: the failure is logged and no picture is written. Raises RunError when a
    picture cannot be written, Interrupted when the user stopped it.
    """
    prompts = sample_prompts(config)
    if not prompts:
        return []
    sampling = Sampling(
        sampler=config.sampler,
        steps=config.sampler_steps,
        cfg_scale=config.sample_cfg,
        width=size[0],
        height=size[1],
    )
    each = config.samples_per_prompt
    requests = [
        ImageRequest(prompt, config.sample_seed + i * each + k, config.sample_negative)
        for i, prompt in enumerate(prompts)
        for k in range(each)
    ]
    try:
        drawn = borrowed.draw(requests, sampling)
    except LoraEvalError as error:
        logger.warning("no test pictures at step %d: %s", step, error)
        return []
    for number, one in enumerate(drawn):
        about = PngInfo()
        about.add_text("parameters", one.infotext)
        path = folder / f"{name}-{step:06d}-{number:02d}.png"
        with atomic_path(path) as temporary:
            one.image.save(temporary, format="PNG", pnginfo=about)
    return [[one.image for one in drawn[i : i + each]] for i in range(0, len(drawn), each)]
