"""GLoRA: ``B + W @ A``, a low-rank change beside one that acts through the weight.

Source: Chavan et al. 2023 (arXiv:2306.07967, equation 7), in the two-term form that LyCORIS trains. LyCORIS names the
factors in one order up to 2.x (which the WebUI reads) and in the other since; their shapes tell which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_eval.lora.adapters.base import Change, Format, Parts

if TYPE_CHECKING:
    import torch

_FACTORS = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")


def change(parts: Parts, weight: torch.Tensor) -> Change:
    """a1 (r, in), a2 (in, r), b1 (r, in), b2 (out, r), or each pair the other way round; kernels of 1x1 as linear."""
    a1, a2, b1, b2 = (parts[name].flatten(1) for name in _FACTORS)
    if a1.shape[0] > a1.shape[1]:
        a1, a2, b1, b2 = a2, a1, b2, b1
    return Change(b2 @ b1 + weight.flatten(1) @ a2 @ a1, int(a1.shape[0]))


FORMAT = Format("GLoRA", (_FACTORS,), change)
