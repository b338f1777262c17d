"""Ready configs: the source article's advice as files, one a kind and a low-memory variant of each."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_eval.errors import ConfigError
from lora_eval.files import ASSETS
from lora_eval.training.config import TrainConfig, make_config, read_yaml

FOLDER = ASSETS / "templates"


def template_names() -> list[str]:
    """Names of the shipped templates, for example ``style`` and ``style_low_vram``."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def template_path(name: str) -> Path:
    """Path of a shipped template. Raises ConfigError with the nearest name."""
    names = template_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else "choose one of " + ", ".join(names)
        raise ConfigError(f"there is no template {name!r}; {hint}")
    return FOLDER / f"{name}.yaml"


def load_template(name: str, values: Mapping[str, Any] | None = None) -> TrainConfig:
    """A config from a template with ``values`` laid over it. Raises ConfigError."""
    return make_config({**read_yaml(template_path(name)), **(values or {})})
