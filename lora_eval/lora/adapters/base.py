"""What all formats share: a layer's tensors, its change, and low-rank products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Parts = Mapping[str, "torch.Tensor"]
"""The tensors of one layer by what follows the layer's name in the file: ``lora_down.weight``, ``alpha``, ..."""


@dataclass(frozen=True)
class Change:
    """What a format adds to a layer, before alpha.

    Attributes:
        weight: in the shape of the layer's weight, or one that reshapes to it.
        rank: alpha is divided by it; None where the format has no alpha and its scale is 1.
        bias: added to the layer's bias, None without.
    """

    weight: torch.Tensor
    rank: int | None = None
    bias: torch.Tensor | None = None


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as its makers call it.
        needs: sets of tensors of which one must be there whole.
        change: (parts, weight of the layer in fp32) -> Change.
        optional: further tensors that are read where they are there.
    """

    name: str
    needs: tuple[tuple[str, ...], ...]
    change: Callable[[Parts, torch.Tensor], Change]
    optional: tuple[str, ...] = ()

    def accepts(self, parts: Parts) -> bool:
        """Whether the layer's tensors are of this format."""
        return any(all(name in parts for name in names) for names in self.needs)

    def reads(self, name: str) -> bool:
        """Whether the format reads a tensor of this name."""
        return name in self.optional or any(name in names for names in self.needs)


def product(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """``up @ down``: (out, rank[, ...]) and (rank, in[, kh, kw]) -> (out, in[, kh, kw])."""
    flat = up.flatten(1) @ down.flatten(1)
    return flat.reshape(up.shape[0], *down.shape[1:])


def tucker(core: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """A kernel from its Tucker factors: core (r1, r2, kh, kw), first (r1, out), second (r2, in)."""
    import torch

    return torch.einsum("a b k l, a o, b i -> o i k l", core, first.flatten(1), second.flatten(1))
