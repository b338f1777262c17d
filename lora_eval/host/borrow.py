"""What every host's loan of its model has in common: it knows whose model it holds, and it ends."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import torch

from lora_eval.errors import HostError
from lora_eval.host.protocol import BorrowedModel, Drawn, ImageRequest, ModelInfo, Sampling
from lora_eval.host.restore import GradientCheckpointing

Held = TypeVar("Held")


class Loan(BorrowedModel, Generic[Held]):
    """A loan that refuses every call once it has ended.

    Args:
        model: what the host holds; the loan keeps it no longer than it lasts.
        info: see :class:`~lora_eval.host.protocol.ModelInfo`.
    """

    def __init__(self, model: Held, info: ModelInfo) -> None:
        self._model: Held | None = model
        self.family, self.prediction = info.family, info.prediction

    def close(self) -> None:
        """End the loan; every later call is refused."""
        self._model = None

    def _staged(self) -> Held:
        if self._model is None:
            raise HostError("the loan of the model has ended; borrow it again")
        return self._model


class WebuiLoan(Loan[Any]):
    """The half of a WebUI's loan that A1111 and Forge share.

    Args:
        preview: draws with the model as it is now, ``WebuiHost.preview``.
        unet: the host's UNet in LDM layout.
        alphas_cumprod: (1000,) noise schedule of the host; a copy is kept.
        adds_in_place: the UNet's blocks write into their input, see :class:`GradientCheckpointing`.
    """

    layout = "ldm"

    def __init__(
        self,
        preview: Callable[[Sequence[ImageRequest], Sampling], list[Drawn]],
        model: Any,
        info: ModelInfo,
        unet: torch.nn.Module,
        alphas_cumprod: torch.Tensor,
        device: torch.device,
        compute_dtype: torch.dtype,
        adds_in_place: bool = False,
    ) -> None:
        super().__init__(model, info)
        self._preview = preview
        self.unet, self.device, self.compute_dtype = unet, device, compute_dtype
        self.alphas_cumprod = alphas_cumprod.detach().to(device, torch.float32).clone()
        self._checkpointing = GradientCheckpointing(unet, clone=adds_in_place)

    @abstractmethod
    def _back_on_device(self) -> None:
        """Make the UNet ready again after the host drew or encoded with other parts of the model."""

    def draw(self, requests: Sequence[ImageRequest], sampling: Sampling) -> list[Drawn]:
        self._staged()
        drawn = self._preview(requests, sampling)
        self._back_on_device()
        return drawn

    def gradient_checkpointing(self, enabled: bool) -> None:
        self._staged()
        self._checkpointing.set(enabled)

    def close(self) -> None:
        self._checkpointing.set(False)
        super().close()


def half_precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Autocast on a GPU for a UNet in fp16 or bf16; elsewhere nothing is cast.

    The LoRA's parameters are fp32: the matrix products run in ``dtype``, their gradients stay fp32.
    """
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        return torch.autocast("cuda", dtype=dtype)
    return nullcontext()
