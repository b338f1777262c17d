"""The only door to Stable Diffusion for the rest of the package.

A host draws pictures with its own sampler (:meth:`Host.generate`), gives its model out for training
(:meth:`Host.borrow_model`) and shows progress (:meth:`Host.job`). Everything else in the package
works with these few types and never sees diffusers or a WebUI.

Promise of every host: the same prompt and seed, drawn before and after a borrow, give the
pixel-identical picture, and every model tensor is bit-identical, however the borrow was left.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_eval.errors import Interrupted
from lora_eval.lora.adapter_match import LoraFit

if TYPE_CHECKING:
    import torch
    from PIL import Image

FAMILIES = ("sd1", "sd2", "sdxl")
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class HostInfo:
    """Which program holds the model: ``name`` is ``standalone``, ``a1111``, ``forge`` or ``reforge``."""

    name: str
    version: str
    device: str
    packages: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelInfo:
    """The checkpoint in memory. ``sha256`` is that of the file (hex, or "" where the host has none)."""

    name: str
    sha256: str
    family: str
    prediction: str
    path: Path | None = None


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn; the names are those of the WebUI's txt2img."""

    sampler: str = "Euler"
    scheduler: str = "Automatic"
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    clip_skip: int = 1


@dataclass(frozen=True)
class ImageRequest:
    """One picture to draw. The noise depends on ``seed`` alone, not on the batch it is drawn in."""

    prompt: str
    seed: int
    negative_prompt: str = ""


@dataclass(frozen=True)
class LoraUse:
    """A LoRA as users apply it: ``<lora:name:weight>``, ``name`` being the file's stem."""

    path: Path
    weight: float

    @property
    def tag(self) -> str:
        """The WebUI's prompt tag, with the weight in its shortest exact form."""
        return f"<lora:{self.path.stem}:{self.weight:g}>"


@dataclass(frozen=True)
class Drawn:
    """A finished picture (PIL, RGB) and its infotext in the WebUI's format."""

    image: Image.Image
    infotext: str


@dataclass
class Conditioning:
    """Text encodings of a batch.

    Attributes:
        context: (B, T, D) cross-attention states, T a multiple of the encoder's positions.
        vector: (B, V) pooled text and size embedding of SDXL, None for SD1 and SD2.
    """

    context: torch.Tensor
    vector: torch.Tensor | None = None

    def to(self, device: Any, dtype: Any = None) -> Conditioning:
        """The same on another device and, where given, in another dtype."""
        vector = None if self.vector is None else self.vector.to(device=device, dtype=dtype)
        return Conditioning(self.context.to(device=device, dtype=dtype), vector)

    def rows(self, index: Any) -> Conditioning:
        """Rows of the batch by slice or index tensor."""
        return Conditioning(self.context[index], None if self.vector is None else self.vector[index])


class Job:
    """One piece of exclusive work: progress, ETA and interrupt.

    A host subclasses this to mirror it into its own progress bar. ``check`` is called often (each
    training step, each batch) and raises :class:`Interrupted` when the user asked to stop.

    Attributes:
        paused: why the host stopped it by itself (one line with the mend), "" when it did not.
    """

    def __init__(self, title: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.title = title
        self.total = max(int(total), 1)
        self.done = 0
        self.text = ""
        self.paused = ""
        self._clock = clock
        self._started = clock()
        self._already = 0
        self._stop = False

    def resume_from(self, done: int) -> None:
        """Work found finished: it counts as done and is left out of the speed."""
        self.done = self._already = int(done)
        self._started = self._clock()
        self.report()

    def advance(self, amount: int = 1, text: str | None = None) -> None:
        """Count ``amount`` more units as done, optionally with a line of status."""
        self.done = min(self.done + amount, self.total)
        if text is not None:
            self.text = text
        self.report()

    def say(self, text: str) -> None:
        """Change the line of status alone."""
        self.text = text
        self.report()

    @property
    def seconds(self) -> float:
        """Seconds since the start (or since :meth:`resume_from`)."""
        return self._clock() - self._started

    @property
    def eta(self) -> float | None:
        """Seconds left at the measured speed, None before the first unit is done."""
        new = self.done - self._already
        return None if new <= 0 else self.seconds / new * (self.total - self.done)

    def interrupt(self) -> None:
        """Ask the job to stop at its next :meth:`check`."""
        self._stop = True

    def pause(self, why: str) -> None:
        """Stop like :meth:`interrupt`, for something that a person has to mend before the work can go on."""
        if not self._stop:
            self.paused, self._stop = why, True

    @property
    def interrupted(self) -> bool:
        """Whether a stop was asked for, here or in the host."""
        return self._stop

    def check(self) -> None:
        """Raise :class:`Interrupted` when a stop was asked for."""
        if self.interrupted:
            raise Interrupted(self.paused or self.title)

    def report(self) -> None:
        """Show the state; the host's own bar where there is one. Nothing by default."""


class BorrowedModel(ABC):
    """The borrowed model, ready for autograd; valid only inside :meth:`Host.borrow_model`.

    Attributes:
        unet: the host's own module; hooks go on it, it is never copied, cast or moved for good.
        layout: ``diffusers`` or ``ldm``, how its module paths are spelt (``lora.names``).
        family, prediction: as in :class:`ModelInfo`.
        alphas_cumprod: (1000,) float32 on ``device``, the noise schedule.
        device: where LoRA parameters belong.
        compute_dtype: dtype the UNet computes in.
        latent_scale: pixels per latent cell along a side (8).
    """

    unet: torch.nn.Module
    layout: str
    family: str
    prediction: str
    alphas_cumprod: torch.Tensor
    device: torch.device
    compute_dtype: torch.dtype
    latent_scale: int = 8

    @abstractmethod
    def encode_text(self, prompts: Sequence[str], width: int, height: int) -> Conditioning:
        """Encode prompts as the host does for drawing. Ordinary tensors without grad.

        ``width`` and ``height`` (pixels) matter to SDXL alone. LoRA tags must not be in the text.
        """

    @abstractmethod
    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 4, H/8, W/8) scaled latents, the mean of the posterior."""

    @abstractmethod
    def denoise(self, noisy: torch.Tensor, timesteps: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        """The UNet's prediction, shape of ``noisy``; differentiable through the hooks.

        ``timesteps`` (B,) int64 in [0, 1000). Mixed precision is applied inside.
        """

    @abstractmethod
    def draw(self, requests: Sequence[ImageRequest], sampling: Sampling) -> list[Drawn]:
        """Draw with the host's own sampler and the hooks that are on now (live preview).

        Leaves RNG state, train/eval mode and grad flags as they were.
        """

    @abstractmethod
    def gradient_checkpointing(self, enabled: bool) -> None:
        """Trade time for memory in the UNet's blocks; undone when the borrow ends."""


class Host(ABC):
    """Who holds Stable Diffusion. See the module's docstring for the promise."""

    @abstractmethod
    def info(self) -> HostInfo:
        """Name, version and device of the program."""

    @abstractmethod
    def model(self) -> ModelInfo:
        """The checkpoint that the next draw or borrow uses. Loads it when none is loaded yet."""

    @property
    @abstractmethod
    def lora_folder(self) -> Path:
        """Where finished LoRAs go so that users can apply them."""

    @property
    @abstractmethod
    def output_folder(self) -> Path:
        """Where run folders go: ``<output_folder>/<run id>/``."""

    @abstractmethod
    def samplers(self) -> list[str]:
        """Names that :attr:`Sampling.sampler` accepts."""

    def native_size(self) -> tuple[int, int]:
        """(width, height) in pixels the checkpoint was made for."""
        side = {"sd1": 512, "sd2": 768 if self.model().prediction == "v_prediction" else 512, "sdxl": 1024}
        return (side[self.model().family],) * 2

    @abstractmethod
    def generate(
        self, requests: Sequence[ImageRequest], sampling: Sampling, lora: LoraUse | None = None
    ) -> list[Drawn]:
        """Draw one picture a request, all at one LoRA and weight, in one batch.

        ``lora`` None draws the base model (weight 0). The pictures come in the order asked.

        Raises:
            HostError: the LoRA did not load, matched in part, or the model changed meanwhile.
            Interrupted: the user stopped it; partial pictures are thrown away.
        """

    @abstractmethod
    def check_lora(self, path: Path) -> LoraFit:
        """How many layers of this model the LoRA changes by the host's own count, and what of it is not applied.

        Raises:
            LoraFileError: broken file, other family, or a file of which the host applies too little (the reason).
        """

    @abstractmethod
    def job(self, title: str, total: int) -> AbstractContextManager[Job]:
        """Work of ``total`` units shown in the host's progress bar, interruptible there."""

    def waiting(self) -> int:
        """Requests of the host's own users that wait for the running job to release the model."""
        return 0

    @abstractmethod
    def borrow_model(self) -> AbstractContextManager[BorrowedModel]:
        """Exclusive loan of the model for training; everything is put back on leaving."""

    def interrogators(self) -> dict[str, Callable[[Image.Image], str]]:
        """The host's own programs that say what is in a picture, by name; none by default.

        Each loads (and perhaps downloads) its model at its first call and raises HostError when it cannot be had.
        """
        return {}

    @abstractmethod
    def refresh_loras(self) -> None:
        """Make the host list files that were just written to its LoRA folder."""
