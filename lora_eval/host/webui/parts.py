"""What A1111 and Forge each know for themselves: how the model is held, and how a LoRA gets on it."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_eval.host.protocol import Host, ModelInfo
from lora_eval.lora.adapter_match import LoraFit

if TYPE_CHECKING:
    from lora_eval.host.borrow import WebuiLoan


class WebuiParts(Host):
    """The part of :class:`~lora_eval.host.webui.host.WebuiHost` that differs from WebUI to WebUI."""

    @abstractmethod
    def _loaded(self) -> Any | None:
        """The model in memory when it is the one that the next picture uses, else None. Takes no lock."""

    @abstractmethod
    def _load(self) -> Any:
        """Load what is pending and return the model. Called with the queue held."""

    @abstractmethod
    def _describe(self, model: Any) -> ModelInfo:
        """Raises HostError for models that the package does not work with."""

    @abstractmethod
    def _identity(self) -> tuple[str, ...]:
        """Names what the next picture is drawn with: checkpoint and VAE. Takes no lock, loads nothing."""

    @abstractmethod
    def _chunks(self, text: str) -> int:
        """Number of 75-token chunks that the host cuts ``text`` into."""

    @abstractmethod
    def _forget_loras(self) -> None:
        """Un-merge and drop what the host caches by LoRA name. Called with the queue held."""

    @abstractmethod
    def _fit(self, path: Path) -> LoraFit:
        """See :meth:`check_lora`. Called with the queue held and a model loaded."""

    @abstractmethod
    def _check_applied(self, path: Path, name: str, weight: float, layers: int) -> None:
        """Raise HostError unless the host's last picture had the LoRA on."""

    @abstractmethod
    def _pinned(self) -> AbstractContextManager[None]:
        """While inside, the host draws with the model in memory even when the user chose another meanwhile."""

    @abstractmethod
    def _refuse(self, model: Any) -> None:
        """Raise HostError for a way of holding the model that training cannot work with."""

    @abstractmethod
    def _lend(self, model: Any, info: ModelInfo) -> AbstractContextManager[WebuiLoan]:
        """The loaded model without any LoRA, frozen, as a loan; put back on leaving. Called with the queue held."""
