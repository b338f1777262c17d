"""The low-rank pair of one layer: its output, its weight, its change of rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lora_eval.lora.match import Pair
from lora_eval.lora.targets import Target


@dataclass
class LoraLayer:
    """The two matrices of one layer, fp32, in the shapes of the file.

    Attributes:
        target: the host's layer.
        name: kohya key without its ending.
        rank: inner dimension.
        scale: what ``up @ down`` is multiplied with at multiplier 1.
        down: (rank, in[, kh, kw]).
        up: (out, rank[, 1, 1]).
    """

    target: Target
    name: str
    rank: int
    scale: float
    down: nn.Parameter
    up: nn.Parameter

    def delta(self, x: torch.Tensor, factor: float, dropout: float) -> torch.Tensor:
        """``factor * up(down(x))``, in the dtype of ``x`` or of autocast where that is on.

        A convolution takes the stride, padding and dilation that the layer has at this moment: the
        WebUI's tiling option changes ``padding_mode`` between calls.
        """
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        if dropout:
            x = F.dropout(x, dropout)
        if self.target.is_linear:
            return F.linear(F.linear(x, down) * factor, up)
        module: Any = self.target.module
        padding = module.padding
        if getattr(module, "padding_mode", "zeros") != "zeros":
            x = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
            padding = 0
        return F.conv2d(F.conv2d(x, down, None, module.stride, padding, module.dilation) * factor, up)

    def weight_delta(self) -> torch.Tensor:
        """``scale * up @ down`` in the shape of the layer's weight: what merging would add."""
        flat = self.up.detach().flatten(1) @ self.down.detach().flatten(1)
        shape = (self.target.out_size, *self.down.shape[1:])
        return (flat * self.scale).reshape(shape)


def resize_into(layer: LoraLayer, stored: Pair) -> float:
    """Put the best approximation of ``stored`` at the layer's rank into ``layer``.

    Truncated singular value decomposition, taken from the QR factors of the halves, so that the full
    matrix is never made. See :meth:`lora_eval.lora.layers.LoraNetwork.load_resized`. ``layer.up`` must
    be zero beforehand; call it under ``torch.no_grad``.

    Returns:
        Share of the squared Frobenius norm kept, in [0, 1].
    """
    down = stored.down.flatten(1).to(layer.down.device, torch.float64)
    up = stored.up.flatten(1).to(layer.up.device, torch.float64)
    left, left_core = torch.linalg.qr(up)
    right, right_core = torch.linalg.qr(down.T)
    u, s, vh = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    count = min(layer.rank, len(s))
    total = float((s**2).sum())
    # the ratio of scales is shared by both halves; its sign goes with up
    ratio = stored.scale / layer.scale
    root = (s[:count] * abs(ratio)).sqrt()
    new_up = left @ u[:, :count] * root * math.copysign(1.0, ratio)
    new_down = root[:, None] * (vh[:count] @ right.T)
    layer.up[:, :count] = new_up.reshape(layer.up.shape[0], count, *layer.up.shape[2:]).to(layer.up.dtype)
    # directions of no energy keep the random A: with both halves zero no gradient would ever flow
    alive = s[:count] > 1e-12 * max(float(s[0]), 1e-300)
    fresh = new_down.reshape(count, *layer.down.shape[1:]).to(layer.down.dtype)
    layer.down[:count][alive] = fresh[alive]
    layer.up[:, :count][:, ~alive] = 0
    return 1.0 if total == 0 else min(float((s[:count] ** 2).sum()) / total, 1.0)
