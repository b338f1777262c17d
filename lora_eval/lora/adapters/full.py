"""Full difference: the change of the weight itself (LyCORIS' "full", kohya's ``.diff``), and of the bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_eval.lora.adapters.base import Change, Format, Parts

if TYPE_CHECKING:
    import torch


def change(parts: Parts, weight: torch.Tensor) -> Change:
    """diff in the shape of the weight, diff_b (out,)."""
    return Change(parts["diff"], None, parts.get("diff_b"))


FORMAT = Format("full difference", (("diff",),), change, ("diff_b",))
