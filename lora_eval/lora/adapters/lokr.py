"""LoKr: the Kronecker product of a small matrix with a matrix or kernel, either of them whole or low-rank.

Source: Edalati et al. 2022, KronA (arXiv:2212.10650); Yeh et al. 2023 (arXiv:2309.14859, section 3.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_eval.lora.adapters.base import Change, Format, Parts, product, tucker

if TYPE_CHECKING:
    import torch

_FACTORS = tuple(
    (*first, *second)
    for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
    for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
)


def change(parts: Parts, weight: torch.Tensor) -> Change:
    """w1 (o1, i1) and w2 (o2, i2[, kh, kw]) with o1 o2 = out and i1 i2 = in; each may come as wN_a @ wN_b."""
    import torch

    rank = None
    factors = []
    for number in (1, 2):
        whole = parts.get(f"lokr_w{number}")
        if whole is None:
            first, second = parts[f"lokr_w{number}_a"], parts[f"lokr_w{number}_b"]
            core = parts.get(f"lokr_t{number}")
            whole = product(first, second) if core is None else tucker(core, first, second)
            rank = int(second.shape[0])
        factors.append(whole)
    small, large = factors
    if large.ndim == 4 and small.ndim == 2:
        small = small[:, :, None, None]
    return Change(torch.kron(small, large.contiguous()), rank)


FORMAT = Format("LoKr", _FACTORS, change, ("lokr_t2",))
