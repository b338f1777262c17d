"""The standalone host's model borrowed for training, and putting everything back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lora_eval.errors import HostError
from lora_eval.host.borrow import Loan, half_precision
from lora_eval.host.protocol import Conditioning, Drawn, ImageRequest, Sampling
from lora_eval.host.restore import HOOKS, kept_random
from lora_eval.host.standalone.model import LoadedModel
from lora_eval.host.standalone.text import TextCache, conditioning, unet_arguments

_HOOKS = (
    *HOOKS,
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_TABLES = ("_modules", "_parameters", "_buffers")


class ModuleState:
    """Everything about a network that a borrower could leave changed, apart from the numbers themselves.

    Holds references, no copies: tables of submodules, parameters, buffers and hooks, the storage,
    dtype and device behind each tensor, flags, and the other attributes (``training``,
    ``gradient_checkpointing``, a patched ``forward``). :meth:`restore` puts them back and reports the
    tensors whose numbers were written to, by autograd's own version counter.
    """

    def __init__(self, name: str, root: torch.nn.Module) -> None:
        self._name = name
        self._modules = [(path, module, self._attributes(module)) for path, module in root.named_modules()]
        self._tensors = [
            (f"{name}.{path}", tensor, tensor.data, tensor.requires_grad, tensor.grad, tensor._version)
            for path, tensor in (*root.named_parameters(), *root.named_buffers())
        ]

    @staticmethod
    def _attributes(module: torch.nn.Module) -> dict[str, Any]:
        kept = dict(module.__dict__)
        for table in (*_TABLES, *_HOOKS):
            if kept.get(table) is not None:
                kept[table] = kept[table].copy()
        return kept

    def restore(self) -> list[str]:
        """Put everything back. Returns the names of tensors that were written to in place."""
        for _, module, kept in self._modules:
            now = module.__dict__
            for name in [name for name in now if name not in kept]:
                del now[name]
            for name, value in kept.items():
                table = now.get(name)
                if name in (*_TABLES, *_HOOKS) and value is not None and table is not None:
                    # the same dictionary object: handles of hooks hold on to it
                    table.clear()
                    table.update(value)
                else:
                    now[name] = value
        written = []
        for name, tensor, data, requires_grad, grad, version in self._tensors:
            if tensor._version != version:
                written.append(name)
            if tensor.data_ptr() != data.data_ptr() or tensor.dtype != data.dtype or tensor.shape != data.shape:
                tensor.data = data
            tensor.requires_grad_(requires_grad)
            tensor.grad = grad
        return written


class StandaloneModel(Loan[LoadedModel]):
    """See :class:`~lora_eval.host.protocol.BorrowedModel`; made by ``StandaloneHost.borrow_model``."""

    layout = "diffusers"

    def __init__(
        self,
        model: LoadedModel,
        texts: TextCache,
        draw: Callable[[Sequence[ImageRequest], Sampling], list[Drawn]],
    ) -> None:
        super().__init__(model, model.info)
        self._texts = texts
        self._draw = draw
        self.unet = model.unet
        # a copy: the schedule is not to be changed through the loan
        self.alphas_cumprod = model.alphas_cumprod.clone()
        self.device = model.device
        self.compute_dtype = model.dtype

    def encode_text(self, prompts: Sequence[str], width: int, height: int) -> Conditioning:
        self._staged()
        chunks = max(self._texts.chunks(prompt) for prompt in prompts)
        return conditioning([self._texts.get(prompt, chunks) for prompt in prompts], width, height)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        model = self._staged()
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % 8 or pixels.shape[3] % 8:
            raise HostError(
                f"pictures to encode have shape {tuple(pixels.shape)}, expected (B, 3, H, W), H and W multiples of 8"
            )
        vae = model.vae
        with torch.inference_mode(False), torch.no_grad():
            scaled = pixels.to(device=model.device, dtype=torch.float32).clone().mul_(2).sub_(1)
            mean = vae.encode(scaled.to(vae.dtype)).latent_dist.mean.float()
            return (mean - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor

    def denoise(self, noisy: torch.Tensor, timesteps: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        model = self._staged()
        with half_precision(model.device, model.dtype):
            output = model.unet(
                noisy.to(model.dtype), timesteps, return_dict=False, **unet_arguments(cond, model.dtype)
            )[0]
        return output.to(noisy.dtype)

    def draw(self, requests: Sequence[ImageRequest], sampling: Sampling) -> list[Drawn]:
        model = self._staged()
        modes = [(module, module.training) for module in model.unet.modules()]
        try:
            for module, _ in modes:
                module.training = False
            with kept_random(), torch.no_grad():
                return self._draw(requests, sampling)
        finally:
            for module, mode in modes:
                module.training = mode

    def gradient_checkpointing(self, enabled: bool) -> None:
        unet = self._staged().unet
        if not enabled:
            unet.disable_gradient_checkpointing()
            unet.eval()
            return
        unet.enable_gradient_checkpointing()
        # releases of diffusers differ in whether checkpointing asks for train mode; with the
        # dropouts left in eval mode the two modes compute the same
        unet.train()
        for module in unet.modules():
            if isinstance(module, torch.nn.modules.dropout._DropoutNd):
                module.eval()
