"""Optimisers: AdamW always; others where their package is already installed, never by installing it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import Any

import torch

from lora_eval.errors import ConfigError, RunError
from lora_eval.training.config import TrainConfig

# config name -> (module, class) in the order of preference
_PACKAGES = {
    "adamw8bit": (("bitsandbytes.optim", "AdamW8bit"),),
    "lion": (("lion_pytorch", "Lion"), ("bitsandbytes.optim", "Lion"), ("torch_optimizer", "Lion")),
    "prodigy": (("prodigyopt", "Prodigy"),),
}


def make_optimizer(config: TrainConfig, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that the config names.

    Raises:
        ConfigError: its package is not installed (the line says which, and that adamw needs none).
    """
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.betas[0], config.betas[1]),
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    if config.optimizer == "prodigy":
        # Prodigy finds the step size itself; its learning rate is a factor on that
        options |= {"decouple": True, "safeguard_warmup": True}
    for module, name in _PACKAGES[config.optimizer]:
        try:
            made = getattr(importlib.import_module(module), name)(parameters, **options)
        except (ImportError, AttributeError, RuntimeError):
            continue
        if isinstance(made, torch.optim.Optimizer):
            return made
    packages = " or ".join(dict.fromkeys(module.split(".")[0] for module, _ in _PACKAGES[config.optimizer]))
    raise ConfigError(
        f"optimizer {config.optimizer} needs {packages}, which is not installed; use adamw, it needs nothing"
    )


def pack_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], str]:
    """The optimiser's state as tensors by name and a JSON text for the rest, without pickle.

    Tensors may lie deeper (bitsandbytes keeps its quantised moments in a dictionary of their own) or among the groups'
    settings (Prodigy); the text then says which one belongs there.

    Raises:
        RunError: the optimiser keeps something that is neither tensor, number nor text.
    """
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{name}"] = value.detach().cpu().clone().contiguous()
            else:
                plain.setdefault(str(index), {})[name] = _without_tensors(value, f"{index}.{name}", tensors)
    groups = _without_tensors(state["param_groups"], "groups", tensors)
    try:
        return tensors, json.dumps({"plain": plain, "groups": groups})
    except TypeError as error:
        raise RunError(
            f"the state of {type(optimizer).__name__} cannot be saved ({error}); use adamw to resume"
        ) from None


_TENSOR, _DEEPER = "$tensor", "deeper."


def _without_tensors(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """``value`` with each tensor put into ``tensors`` and its name left in its place."""
    if isinstance(value, torch.Tensor):
        tensors[_DEEPER + name] = value.detach().cpu().clone().contiguous()
        return {_TENSOR: _DEEPER + name}
    if isinstance(value, dict):
        return {str(key): _without_tensors(one, f"{name}.{key}", tensors) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(one, f"{name}.{number}", tensors) for number, one in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if list(value) == [_TENSOR]:
            return tensors[value[_TENSOR]]
        return {key: _with_tensors(one, tensors) for key, one in value.items()}
    return [_with_tensors(one, tensors) for one in value] if isinstance(value, list) else value


def unpack_state(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], text: str) -> None:
    """Put back what :func:`pack_state` gave. Raises RunError when it does not fit."""
    try:
        stored = _with_tensors(json.loads(text), tensors)
    except KeyError as error:
        raise RunError(f"the saved optimiser state lacks {error}; start a new run") from None
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in stored["plain"].items()}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    try:
        for group, saved in zip(groups, stored["groups"], strict=True):
            # JSON has no tuples, and betas must be one again
            group.update({k: tuple(v) if isinstance(group.get(k), tuple) else v for k, v in saved.items()})
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (ValueError, KeyError) as error:
        raise RunError(f"the saved optimiser state does not fit ({error}); start a new run") from None


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Ema:
    """Exponential mean of parameters: ``m += (1 - d) (p - m)`` with ``d = min(decay, (1 + n) / (10 + n))``.

    The rising decay (TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``) forgets the random start.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._parameters = list(parameters)
        self.mean = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Count in the parameters as they are now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for mean, parameter in zip(self.mean, self._parameters, strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the means with the parameters; a second call puts them back exactly."""
        for mean, parameter in zip(self.mean, self._parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(kept)


class Averaged:
    """The EMA's weights in place of the trained ones, for looking and saving; nothing without an EMA."""

    def __init__(self, ema: Ema | None) -> None:
        self._ema = ema

    def __enter__(self) -> None:
        if self._ema is not None:
            self._ema.swap()

    def __exit__(self, *error: object) -> None:
        if self._ema is not None:
            self._ema.swap()
