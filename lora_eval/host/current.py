"""The host that this process works with: set by whoever starts the package, asked for by the tabs and routes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lora_eval.errors import HostError
from lora_eval.host.protocol import Host


@dataclass
class Settings:
    """What a person set for the whole program.

    Attributes:
        batch_size: pictures drawn at once in a sweep.
        encoder: of the scorecard, as in :func:`lora_eval.encoders.registry.load_encoder`.
        allowed: folders besides the host's own that requests from outside may name.
        output: where run folders go; None: the host's own place for them.
        language: what reports and sentences are written in, see ``lora_eval.i18n.language``.
        size: side in pixels where a run names no size, 64 to 2048, a multiple of 8; 0: what the model was made for.
    """

    batch_size: int = 4
    encoder: str = "auto"
    allowed: list[Path] = field(default_factory=list)
    output: Path | None = None
    language: str = "en"
    size: int = 0


_make: Callable[[], Host] | None = None
_settings: Callable[[], Settings] = Settings
_host: Host | None = None


def install(make: Callable[[], Host], settings: Callable[[], Settings] | None = None) -> None:
    """Say how the host is made (once, at first use) and where the settings come from."""
    global _make, _settings
    _make = make
    if settings is not None:
        _settings = settings


def current_host() -> Host:
    """The host. Raises HostError when none can be had."""
    global _host
    if _host is None:
        if _make is None:
            raise HostError("no host is running; start the WebUI, or the standalone program")
        _host = _make()
    return _host


def current_settings() -> Settings:
    """The settings as they are now."""
    return _settings()
