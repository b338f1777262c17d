"""Norm difference: the change of scale and shift of a normalisation layer (LyCORIS' ``train_norm``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_eval.lora.adapters.base import Change, Format, Parts

if TYPE_CHECKING:
    import torch


def change(parts: Parts, weight: torch.Tensor) -> Change:
    """w_norm (channels,), b_norm (channels,)."""
    return Change(parts["w_norm"], None, parts["b_norm"])


FORMAT = Format("norm difference", (("w_norm", "b_norm"),), change)
