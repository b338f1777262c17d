"""Everything a stopped run needs to go on as if nothing had happened, in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lora_eval.errors import ConfigError, RunError
from lora_eval.files import atomic_path
from lora_eval.lora.layers import LoraNetwork
from lora_eval.training.config import TrainConfig, make_config, to_dict
from lora_eval.training.optim import Ema, pack_state, unpack_state

FORMAT = 1
# what may change between the parts of a run without changing what a step computes
MAY_CHANGE = frozenset(
    {
        "train_data_dir",
        "metadata_path",
        "base_model",
        "output_dir",
        "name",
        "epochs",
        "max_steps",
        "save_steps",
        "save_epochs",
        "save_dtype",
        "early_stop",
        "validation_steps",
        "sample_prompts",
        "sample_steps",
        "samples_per_prompt",
        "sample_seed",
        "sample_negative",
        "sampler",
        "sampler_steps",
        "sample_cfg",
        "measure_samples",
        "sample_early_stop",
        "cache_latents_to_disk",
        "publish",
        "gradient_checkpointing",
        "on_out_of_memory",
        "kind",
        "trigger",
        "class_word",
        "init_lora",
    }
)


@dataclass
class Progress:
    """Where a run is. No RNG state: all chance is derived from seed and step (``randomness``).

    Attributes:
        step: updates done.
        dataset: fingerprint of pictures, captions, repeats and split.
        model: identity of the checkpoint trained on.
        start: what was measured at step 0: validation by probe, timestep reference.
        best: (step, loss) of the best validation so far.
        stale: validations since then.
        high: steps in a row with a loss far above that of step 0.
    """

    step: int
    dataset: str
    model: str
    start: dict[str, Any] = field(default_factory=dict)
    best: tuple[int, float] | None = None
    stale: int = 0
    high: int = 0


def save_state(
    path: Path,
    progress: Progress,
    config: TrainConfig,
    network: LoraNetwork,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    scaler: dict[str, Any] | None,
) -> None:
    """Write the state atomically. Raises RunError (full disk, or an optimiser whose state cannot be written)."""
    tensors, text = pack_state(optimizer)
    for name, parameter in network.named_parameters():
        tensors[f"lora.{name}"] = parameter.detach().cpu().clone().contiguous()
    if ema is not None:
        tensors.update({f"ema.{i}": mean.cpu().clone().contiguous() for i, mean in enumerate(ema.mean)})
    about = {
        "format": FORMAT,
        "config": to_dict(config),
        "progress": progress.__dict__,
        "ema_updates": ema.updates if ema else 0,
        "scaler": scaler,
        # a LoRA continued from a file keeps that file's scales
        "scales": [layer.scale for layer in network.layers.values()],
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"about": json.dumps(about), "optimizer": text})


@dataclass
class State:
    """A state as read: still only numbers, put in place by :func:`restore`."""

    path: Path
    config: TrainConfig
    progress: Progress
    tensors: dict[str, torch.Tensor]
    optimizer: str
    ema_updates: int
    scaler: dict[str, Any] | None
    scales: list[float]


def load_state(path: Path) -> State:
    """Read a state. Raises RunError naming the file when it is missing, broken or of another version."""
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(metadata["about"])
        if about["format"] != FORMAT:
            raise RunError(f"{path} was written by another version (format {about['format']}); start a new run")
        progress = Progress(**about["progress"])
        progress.best = tuple(progress.best) if progress.best else None  # type: ignore[assignment]
        return State(
            path,
            make_config(about["config"]),
            progress,
            tensors,
            metadata["optimizer"],
            about["ema_updates"],
            about["scaler"],
            about["scales"],
        )
    except FileNotFoundError:
        raise RunError(f"{path} is missing; start the run without resume") from None
    except RunError:
        raise
    except Exception as error:  # safetensors, JSON and key errors alike mean a file that is not ours
        raise RunError(
            f"{path} cannot be read ({error}); start a new run from the last checkpoint (init_lora)"
        ) from error


def check_same(state: State, config: TrainConfig, dataset: str, model: str) -> None:
    """Make sure that the run goes on with what it was started with.

    Raises:
        ConfigError: a setting that changes the steps differs (named, with both values).
        RunError: pictures, captions or the checkpoint differ.
    """
    before, now = to_dict(state.config), to_dict(config)
    for key, value in now.items():
        if key not in MAY_CHANGE and before[key] != value:
            raise ConfigError(
                f"{key} is {value!r}, but the run to resume was started with {before[key]!r}; "
                "set it back or start a new run"
            )
    if state.progress.model != model:
        raise RunError(
            f"the run was started on {state.progress.model}, loaded is {model}; load that checkpoint to resume"
        )
    if state.progress.dataset != dataset:
        raise RunError(
            "pictures or captions have changed since the run was started; put them back, or start a new run with "
            "init_lora set to its last checkpoint"
        )


def restore(state: State, network: LoraNetwork, optimizer: torch.optim.Optimizer, ema: Ema | None) -> None:
    """Put the numbers back into network, optimiser and average. Raises RunError when they do not fit."""
    if len(state.scales) != len(network.layers):
        raise RunError(f"{state.path} has {len(state.scales)} layers, this LoRA {len(network.layers)}; start a new run")
    for layer, scale in zip(network.layers.values(), state.scales, strict=True):
        layer.scale = scale
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            stored = state.tensors.get(f"lora.{name}")
            if stored is None or stored.shape != parameter.shape:
                raise RunError(f"{state.path} does not fit this LoRA ({name}); start a new run")
            parameter.copy_(stored)
        if ema is not None:
            ema.updates = state.ema_updates
            for i, mean in enumerate(ema.mean):
                mean.copy_(state.tensors[f"ema.{i}"])
    unpack_state(optimizer, state.tensors, state.optimizer)
