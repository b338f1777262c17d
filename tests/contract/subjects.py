"""A host under test, seen from inside as far as the promise needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lora_eval.host.protocol import Host, ModelInfo, Sampling


@dataclass
class Subject:
    """A host under test.

    Attributes:
        modules: the networks of the loaded checkpoint by name.
        expected: what :meth:`Host.model` must say; ``name`` and ``path`` are not compared.
        sampling: quick settings at which the prompt is heard.
        context_width: size of a cross-attention state.
        vector_width: size of SDXL's pooled vector, None elsewhere.
        batch_bound: largest difference (of 255) that drawing in a batch may make.
    """

    host: Host
    modules: Callable[[], dict[str, torch.nn.Module]]
    expected: ModelInfo
    sampling: Sampling
    context_width: int
    vector_width: int | None
    batch_bound: int = 2

    def fingerprint(self) -> dict[str, str]:
        """Name of every parameter and buffer -> SHA-256 over dtype, shape and bytes."""
        prints = {}
        for name, network in self.modules().items():
            for path, tensor in (*network.named_parameters(), *network.named_buffers()):
                data = tensor.detach().cpu().contiguous()
                head = f"{data.dtype} {tuple(data.shape)}".encode()
                prints[f"{name}.{path}"] = hashlib.sha256(head + data.numpy().tobytes()).hexdigest()
        return prints

    def habits(self) -> dict[str, tuple[object, ...]]:
        """Name of every module -> its flags, hooks and children: what a loan must leave as it was."""
        found = {}
        for name, network in self.modules().items():
            for path, module in network.named_modules():
                hooks = tuple(len(getattr(module, kind)) for kind in ("_forward_hooks", "_forward_pre_hooks"))
                back = tuple(len(getattr(module, kind)) for kind in ("_backward_hooks", "_backward_pre_hooks"))
                flags = tuple(parameter.requires_grad for parameter in module.parameters(recurse=False))
                grads = tuple(parameter.grad is None for parameter in module.parameters(recurse=False))
                children = tuple(child for child, _ in module.named_children())
                extra = (getattr(module, "gradient_checkpointing", None), "forward" in module.__dict__)
                found[f"{name}.{path}"] = (module.training, hooks, back, flags, grads, children, *extra)
        return found
