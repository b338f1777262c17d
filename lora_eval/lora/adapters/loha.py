"""LoHa: the elementwise (Hadamard) product of two low-rank matrices.

Source: Hyeon-Woo et al. 2021, FedPara (arXiv:2108.06098, equation 3); the Tucker form of kernels is LyCORIS'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_eval.lora.adapters.base import Change, Format, Parts, product, tucker

if TYPE_CHECKING:
    import torch

_HALVES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def change(parts: Parts, weight: torch.Tensor) -> Change:
    """wN_a (out, r), wN_b (r, in); with cores tN (r, r, kh, kw) wN_a is (r, out)."""
    halves = []
    for number in (1, 2):
        first, second = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
        core = parts.get(f"hada_t{number}")
        halves.append(product(first, second) if core is None else tucker(core, first, second))
    return Change(halves[0] * halves[1], int(parts["hada_w1_b"].shape[0]))


FORMAT = Format("LoHa", (_HALVES,), change, ("hada_t1", "hada_t2"))
