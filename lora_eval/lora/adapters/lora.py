"""LoRA and LoCon: ``up @ down``; with ``lora_mid`` the kernel is a Tucker product.

Sources: Hu et al. 2021 (arXiv:2106.09685); LyCORIS' LoCon (Yeh et al. 2023, arXiv:2309.14859, section 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_eval.lora.adapters.base import Change, Format, Parts, product, tucker

if TYPE_CHECKING:
    import torch

UP, DOWN, MID = "lora_up.weight", "lora_down.weight", "lora_mid.weight"


def change(parts: Parts, weight: torch.Tensor) -> Change:
    """up (out, r[, 1, 1]), down (r, in[, kh, kw]); with mid (r, r, kh, kw) down is (r, in[, 1, 1])."""
    up, down = parts[UP], parts[DOWN]
    if MID in parts:
        return Change(tucker(parts[MID], up.flatten(1).T, down), int(down.shape[0]))
    return Change(product(up, down), int(down.shape[0]))


FORMAT = Format("LoRA", ((UP, DOWN),), change, (MID,))
