"""Out of memory: what it looks like, and the next smaller settings."""

from __future__ import annotations

import gc
import math
from dataclasses import replace
from typing import Any

import torch

from lora_eval.errors import HostError
from lora_eval.log import logger
from lora_eval.training.config import TrainConfig
from lora_eval.training.run import RunPaths


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is used up (CUDA has a type for it, MPS a text)."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    )


def free_memory() -> None:
    """Give unused blocks back to the device. Call it when no exception holds on to tensors any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def next_smaller(
    config: TrainConfig, paths: RunPaths, resume: bool, notes: list[str], error: BaseException
) -> TrainConfig:
    """The config to try next. Raises HostError when the user wants none, or when work would be lost."""
    changes = smaller_settings(config)
    if not changes:
        raise HostError(
            "out of memory with the smallest settings; set a lower resolution, or close other programs that use the "
            "graphics card"
        ) from error
    words = ", ".join(f"{key}: {str(value).lower()}" for key, value in changes.items())
    if config.on_out_of_memory == "stop" or resume or paths.checkpoints():
        # the steps already done belong to the settings they were done with
        raise HostError(f"out of memory; set {words}") from error
    note = f"out of memory with batch_size {config.batch_size}: went on with {words}"
    logger.warning("%s: %s", paths.name, note)
    notes.append(note)
    return replace(config, **changes)


def keep_smaller(config: TrainConfig, started: TrainConfig) -> TrainConfig:
    """The config for resuming a run that went on with smaller settings: those, where the rest is the same."""
    same = config.batch_size * config.gradient_accumulation <= started.batch_size * started.gradient_accumulation
    if config.on_out_of_memory == "stop" or not same or started.batch_size >= config.batch_size:
        return config
    return replace(
        config,
        batch_size=started.batch_size,
        gradient_accumulation=started.gradient_accumulation,
        gradient_checkpointing=started.gradient_checkpointing,
    )


def smaller_settings(config: TrainConfig) -> dict[str, Any]:
    """The next smaller settings that train the same thing: checkpointing, then half the batch. Empty: none left.

    The effective batch (batch_size x gradient_accumulation) stays the same or grows by one part.
    """
    if not config.gradient_checkpointing:
        return {"gradient_checkpointing": True}
    if config.batch_size > 1:
        half = config.batch_size // 2
        whole = config.batch_size * config.gradient_accumulation
        return {"batch_size": half, "gradient_accumulation": math.ceil(whole / half)}
    return {}
