"""Instruments that look at a host from inside: what lies in memory while it trains, gradients of a fixed step.

Bytes are those of storages, each counted once however many tensors share it. The probe uses them in a running WebUI,
``tests/contract`` on the standalone host.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

Storages = dict[int, int]


def storages(tensors: Iterable[Any]) -> Storages:
    """Address -> bytes."""
    found = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type != "meta":
            storage = tensor.untyped_storage()
            if storage.nbytes():
                found[storage.data_ptr()] = storage.nbytes()
    return found


def of_modules(roots: Sequence[torch.nn.Module]) -> Storages:
    """Storages of all parameters and buffers."""
    return storages(tensor for root in roots for tensor in (*root.parameters(), *root.buffers()))


def alive() -> Storages:
    """Storages of every tensor that Python knows."""
    # by type: asking some objects for their class runs code of theirs
    return storages(found for found in gc.get_objects() if issubclass(type(found), torch.Tensor))


def networks() -> list[Any]:
    """Every LoRA in training."""
    return [found for found in gc.get_objects() if type(found).__name__ == "LoraNetwork"]


def parts(roots: Sequence[torch.nn.Module]) -> dict[str, int]:
    """What lies in memory now, in bytes: the model, the LoRA in training, its optimiser, the rest; the largest of that.

    ``model_gradients`` counts parameters of the model that hold a gradient.
    """
    gc.collect()
    lora = [parameter for network in networks() for parameter in network.parameters()]
    own = {id(parameter) for parameter in lora}
    optimisers = [found for found in gc.get_objects() if issubclass(type(found), torch.optim.Optimizer)]
    optimisers = [o for o in optimisers if any(id(p) in own for group in o.param_groups for p in group["params"])]
    states = [value for optimiser in optimisers for state in optimiser.state.values() for value in state.values()]
    model, network, state = of_modules(roots), storages(lora), storages(states)
    gradients = storages(parameter.grad for parameter in lora)
    rest = {key: size for key, size in alive().items() if key not in {*model, *network, *state, *gradients}}
    weights = [parameter for root in roots for parameter in root.parameters()]
    return {
        "model": sum(model.values()),
        "lora": sum(network.values()),
        "lora_tensors": len(lora),
        "optimiser": sum(state.values()),
        "rest": sum(rest.values()),
        "largest": max(rest.values(), default=0),
        "model_gradients": sum(weight.grad is not None for weight in weights),
    }


class StepWatch:
    """Looks at one training step: what lies in memory when it begins, what it saves for backward, its peak.

    Args:
        roots: gives the networks of the host's model.
        step: which call of :meth:`denoise` that takes part in autograd, counted from 0.

    ``seen`` is :func:`parts`, and ``activations``: bytes saved for backward that are neither the model's nor the
    LoRA's; ``peak``: most bytes that the step held at once over what was there when it began, all that torch allocates
    counted; ``block``: the largest single allocation.
    """

    def __init__(self, roots: Callable[[], Sequence[torch.nn.Module]], step: int) -> None:
        self._roots, self._step, self._calls = roots, step, 0
        self._profiler: Any = None
        self.seen: dict[str, int] = {}

    def denoise(self, whole: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        """To be called in place of a loan's ``denoise``, ``whole``."""
        if not torch.is_grad_enabled():
            return whole(*args)
        self._calls += 1
        if self._calls == self._step + 2 and self._profiler is not None:
            self._profiler.stop()
            self.seen.update(_allocations(self._profiler))
            self._profiler = None
        if self._calls != self._step + 1:
            return whole(*args)
        roots = self._roots()
        self.seen = parts(roots)
        known, saved = of_modules(roots), {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            saved.update(storages([tensor]))
            return tensor

        self._profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
        self._profiler.start()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            predicted = whole(*args)
        lora = storages(parameter for network in networks() for parameter in network.parameters())
        self.seen["activations"] = sum(size for key, size in saved.items() if key not in known and key not in lora)
        return predicted


def _allocations(profiler: Any) -> dict[str, int]:
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    # microseconds up to torch 2.2, nanoseconds since
    events.sort(key=lambda event: event.start_ns() if hasattr(event, "start_ns") else event.start_us())
    held = peak = block = 0
    for event in events:
        held += event.nbytes()
        peak, block = max(peak, held), max(block, event.nbytes())
    return {"peak": peak, "block": block, "left": held, "allocations": len(events)}


def random_network(borrowed: Any, seed: int = 5) -> Any:
    """A LoRA strong enough to be seen: both halves random."""
    from lora_eval.lora.layers import LoraNetwork, Naming
    from lora_eval.lora.targets import find_targets

    unet = borrowed.unet
    network = LoraNetwork(
        unet,
        find_targets(unet, "attention"),
        rank=4,
        seed=seed,
        naming=Naming(layout=borrowed.layout, family=borrowed.family),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.layers.values():
            layer.up.copy_(torch.randn(layer.up.shape, generator=generator) * 0.3)
    return network


def training_batch(borrowed: Any, side: int = 64) -> tuple[torch.Tensor, torch.Tensor, Any, torch.Tensor]:
    """Noised latents, timesteps, conditioning and target of two fixed pictures of ``side`` pixels."""
    generator = torch.Generator().manual_seed(1)
    latents = borrowed.encode_images(torch.rand(2, 3, side, side, generator=generator)).cpu()
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.tensor([200, 700])
    alpha = borrowed.alphas_cumprod.cpu()[timesteps].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    target = noise if borrowed.prediction == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    device = borrowed.device
    cond = borrowed.encode_text(["a cat", "a dog"], side, side)
    return noisy.to(device), timesteps.to(device), cond, target.to(device)


def gradients(host: Any, checkpointing: bool) -> tuple[list[torch.Tensor], int]:
    """Gradients of a fixed random LoRA on a fixed batch, one a parameter; how often a block inside was run for it."""
    runs: list[int] = []
    with host.borrow_model() as borrowed:
        network = random_network(borrowed)
        borrowed.gradient_checkpointing(checkpointing)
        noisy, timesteps, cond, target = training_batch(borrowed)
        inside = next(module for name, module in borrowed.unet.named_modules() if name.endswith("attn1.to_q"))
        with network:
            counted = inside.register_forward_hook(lambda *_: runs.append(1))
            torch.nn.functional.mse_loss(borrowed.denoise(noisy, timesteps, cond), target).backward()
            counted.remove()
        return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None], len(runs)


def apart(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    """The relative distance of two lists of gradients taken as one vector each, by norm."""
    off = sum(float((a - b).double().square().sum()) for a, b in zip(first, second, strict=True))
    return (off / sum(float(a.double().square().sum()) for a in first)) ** 0.5


def furthest(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    """The largest relative distance of two lists of gradients, by norm of each parameter's."""
    return max(float((a - b).norm() / a.norm()) for a, b in zip(first, second, strict=True))
