"""OFT and BOFT: the weight's output features turned by orthogonal blocks.

Sources: Qiu et al. 2023 (arXiv:2306.07280), Cayley's form and the constraint of section 4; Liu et al. 2023, BOFT
(arXiv:2311.06243), the butterfly of section 4. ``oft_diag`` is LyCORIS' older file, which holds the blocks themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_eval.lora.adapters.base import Change, Format, Parts

if TYPE_CHECKING:
    import torch


def change(parts: Parts, weight: torch.Tensor) -> Change:
    """oft_blocks (blocks, n, n), or (stages, blocks, n, n) of BOFT; oft_diag (blocks, n, n); rescale (out, 1...)."""
    import torch

    out = weight.shape[0]
    if "oft_diag" in parts:
        turns = parts["oft_diag"]
    else:
        blocks = parts["oft_blocks"]
        skew = blocks - blocks.transpose(-1, -2)
        limit = float(parts["alpha"]) * out if "alpha" in parts else 0.0
        if limit:
            norm = skew.norm()
            skew = skew * ((norm.clamp(max=limit) + 1e-8) / (norm + 1e-8))
        eye = torch.eye(blocks.shape[-1], dtype=skew.dtype, device=skew.device)
        turns = (eye + skew) @ (eye - skew).inverse()
    turned = _butterfly(turns, weight) if turns.ndim == 4 else _blocks(turns, weight)
    if "rescale" in parts:
        turned = turned * parts["rescale"].reshape(-1, *[1] * (weight.ndim - 1))
    return Change(turned - weight)


def _blocks(turns: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Each block of n output features turned by its matrix, transposed as in the programs that train it."""
    import torch

    count, size = turns.shape[0], turns.shape[1]
    cut = weight.reshape(count, size, -1)
    return torch.einsum("b n m, b n i -> b m i", turns, cut).reshape(weight.shape)


def _butterfly(turns: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Stages of turns, each over features that lie 2^stage half blocks apart."""
    import torch

    found = weight.reshape(weight.shape[0], -1)
    rest = found.shape[1]
    for stage in range(turns.shape[0]):
        size = turns.shape[2]
        stride = 2**stage * (size // 2)
        # rows (c, 2, stride) -> (c, stride, 2): what is turned together lies together
        mixed = found.reshape(-1, 2, stride, rest).transpose(1, 2).reshape(-1, size, rest)
        mixed = torch.einsum("b i j, b j r -> b i r", turns[stage], mixed)
        found = mixed.reshape(-1, stride, 2, rest).transpose(1, 2).reshape(-1, rest)
    return found.reshape(weight.shape)


FORMAT = Format("OFT", (("oft_blocks",), ("oft_diag",)), change, ("rescale",))
