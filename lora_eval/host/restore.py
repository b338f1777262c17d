"""Leaving random generators and a WebUI's modules as they were found.

A snapshot of a WebUI's modules holds flags, modes, hooks and patched forwards by reference, never a tensor: the
hosts move and replace their tensors meanwhile (offloading, merging), and a kept reference would cost the model's
memory again. The standalone host replaces nothing and keeps a stricter one (``standalone_borrow.ModuleState``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
"""Where a module keeps the hooks that run with it."""
_MISSING = object()

CHECKPOINTED_BLOCKS = ("BasicTransformerBlock", "ResBlock")
"""Class names of the blocks whose activations are made again in the backward pass (ldm, sgm and Forge alike)."""


class RandomState:
    """The state of every random generator that a borrower may move: Python's, numpy's, torch's on each device."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    def restore(self) -> None:
        """Put all of them back."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)


@contextmanager
def kept_random() -> Iterator[None]:
    """Put every random generator back on leaving."""
    state = RandomState()
    try:
        yield
    finally:
        state.restore()


class _Flags:
    """What one module may be left with: mode, hooks, a forward of its own, flags and gradients by name."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.training = module.training
        self.forward = module.__dict__.get("forward", _MISSING)
        self.hooks = {table: list(getattr(module, table)) for table in HOOKS if hasattr(module, table)}
        self.flags = {name: p.requires_grad for name, p in module._parameters.items() if p is not None}

    def restore(self) -> None:
        self.module.training = self.training
        if self.forward is _MISSING:
            self.module.__dict__.pop("forward", None)
        else:
            self.module.__dict__["forward"] = self.forward
        for table, known in self.hooks.items():
            entries = getattr(self.module, table)
            for key in [key for key in entries if key not in known]:
                del entries[key]
        for name, flag in self.flags.items():
            parameter = self.module._parameters.get(name)
            if parameter is not None and parameter.requires_grad != flag:
                # outside inference mode torch refuses to set the flag of a tensor made inside it
                with torch.inference_mode(parameter.is_inference()):
                    parameter.requires_grad_(flag)
            if parameter is not None:
                parameter.grad = None


@contextmanager
def kept_modules(roots: Iterable[nn.Module]) -> Iterator[None]:
    """On leaving, hooks added inside are gone and modes, flags and forwards are as before.

    Parameters are found by name again, since hosts replace them; gradients are dropped (hosts keep none).
    """
    seen: dict[int, nn.Module] = {id(module): module for root in roots for module in root.modules()}
    found = [_Flags(module) for module in seen.values()]
    try:
        yield
    finally:
        for flags in found:
            flags.restore()


def freeze(root: nn.Module) -> None:
    """Take every parameter out of autograd, inference tensors too."""
    for parameter in root.parameters():
        if parameter.requires_grad:
            with torch.inference_mode(parameter.is_inference()):
                parameter.requires_grad_(False)


def make_ordinary(root: nn.Module) -> int:
    """Replace parameters and buffers made in inference mode by equal ordinary tensors. Returns how many.

    Autograd cannot save inference tensors for backward. The values stay bit by bit, so there is nothing to undo.
    """
    changed = 0
    with torch.inference_mode(False):
        for module in root.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter.is_inference():
                    module._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
                    changed += 1
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_inference():
                    module._buffers[name] = buffer.clone()
                    changed += 1
    return changed


def clone_before_norms(root: nn.Module) -> list[Any]:
    """Hooks that hand every LayerNorm a copy of its input. Returns their handles.

    Forge's transformer blocks add to their input in place (``x += n``), which would overwrite what the LayerNorm
    before saved for the backward pass.
    """

    def copy(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].clone(), *args[1:])

    return [m.register_forward_pre_hook(copy) for m in root.modules() if isinstance(m, nn.LayerNorm)]


class GradientCheckpointing:
    """Shadows the ``forward`` of a UNet's blocks by one that recomputes (Chen et al. 2016, arXiv:1604.06174).

    The hosts' own switch either fails (Forge) or differs by model family (A1111); a forward of the instance hides
    the class's and comes off without a trace. With ``clone`` the block works on a copy of its input, which blocks
    that add in place need.
    """

    def __init__(self, root: nn.Module, clone: bool = False) -> None:
        self._root, self._clone = root, clone
        self._undo: ExitStack | None = None

    def set(self, enabled: bool) -> None:
        """On or off; a second call with the same value changes nothing."""
        if enabled == (self._undo is not None):
            return
        if self._undo is not None:
            self._undo.close()
            self._undo = None
            return
        self._undo = ExitStack()
        for module in self._root.modules():
            if type(module).__name__ in CHECKPOINTED_BLOCKS:
                self._undo.callback(self._shadow(module))

    def _shadow(self, module: nn.Module) -> Callable[[], None]:
        # at the first use: it brings torch's compiler along, which would lengthen a WebUI's start
        from torch.utils.checkpoint import checkpoint

        own = module.__dict__.get("forward", _MISSING)
        forward, clone = module.forward, self._clone

        def run(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            return forward(x.clone() if clone else x, *args, **kwargs)

        def recomputed(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return checkpoint(run, *args, use_reentrant=False, **kwargs)

        module.__dict__["forward"] = recomputed

        def undo() -> None:
            if own is _MISSING:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own

        return undo
