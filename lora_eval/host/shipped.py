"""The tiny Stable Diffusion that the package ships."""

from __future__ import annotations

from pathlib import Path

from lora_eval.files import ASSETS
from lora_eval.host.protocol import ModelInfo

TINY_MODEL = ASSETS / "tiny-sd"


def is_shipped_model(model: ModelInfo) -> bool:
    """Whether the model is the shipped tiny Stable Diffusion."""
    return model.path is not None and Path(model.path).resolve() == TINY_MODEL.resolve()
