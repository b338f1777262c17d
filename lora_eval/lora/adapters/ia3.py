"""IA3: every output (or input) feature is scaled by ``1 + w``.

Source: Liu et al. 2022 (arXiv:2205.05638), as LyCORIS stores it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_eval.lora.adapters.base import Change, Format, Parts

if TYPE_CHECKING:
    import torch


def change(parts: Parts, weight: torch.Tensor) -> Change:
    """weight holds (out,) values, or (in,) with on_input 1."""
    scale = parts["weight"].flatten()
    axis = 1 if bool(parts["on_input"].item()) else 0
    shape = [1] * weight.ndim
    shape[axis] = -1
    return Change(weight * scale.reshape(shape))


FORMAT = Format("IA3", (("weight", "on_input"),), change)
