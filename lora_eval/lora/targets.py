"""Which layers of a UNet get a LoRA.

Layers are found by module path and by the shape of their weight, never by class: Forge's ``Linear``
is not ``torch.nn.Linear``, and quantised layers keep their weight packed, so that only
``in_features`` and ``out_features`` tell the true shape. Paths may be spelt as in diffusers
(``down_blocks.0.attentions.0...``) or as in the original code (``input_blocks.1.1...``).

The presets follow kohya-ss/sd-scripts, ``networks/lora.py``: ``transformer`` is what it trains by
default (``Transformer2DModel``), ``full`` what it trains with ``conv_dim`` (also ``ResnetBlock2D``,
``Downsample2D``, ``Upsample2D``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_eval.errors import ConfigError

if TYPE_CHECKING:
    import torch

PRESETS = ("attention", "transformer", "full", "all")
"""``all`` is for reading files of other trainers, which may also touch ``conv_in`` or ``time_embed``."""

BLOCKS = {
    "in": r"^(down_blocks|input_blocks)\.",
    "mid": r"^(mid_block|middle_block)\.",
    "out": r"^(up_blocks|output_blocks)\.",
}

_ATTENTION = re.compile(r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$")
_CONVOLUTION = re.compile(
    r"\.resnets\.\d+\.(conv1|conv2|conv_shortcut|time_emb_proj)$"
    r"|\.(downsamplers|upsamplers)\.\d+\.conv$"
    r"|^(input_blocks\.\d+|output_blocks\.\d+|middle_block)\.\d+"
    r"\.(in_layers\.2|out_layers\.3|emb_layers\.1|skip_connection|op|conv)$"
)


@dataclass(frozen=True)
class Target:
    """One layer of the UNet that a LoRA can sit on.

    Attributes:
        path: dotted path inside the UNet.
        module: the host's own layer; it is only ever hooked.
        in_size, out_size: features of a linear layer, channels of a convolution.
        kernel: (height, width) of a convolution's kernel, None for a linear layer.
    """

    path: str
    module: torch.nn.Module
    in_size: int
    out_size: int
    kernel: tuple[int, int] | None = None

    @property
    def is_linear(self) -> bool:
        """Whether the layer is linear (a 1x1 convolution is not)."""
        return self.kernel is None

    @property
    def is_wide(self) -> bool:
        """Whether the kernel is larger than 1x1: these take ``conv_rank`` and ``conv_alpha``."""
        return self.kernel is not None and self.kernel != (1, 1)

    def down_shape(self, rank: int) -> tuple[int, ...]:
        """Shape of ``lora_down.weight``."""
        return (rank, self.in_size) if self.kernel is None else (rank, self.in_size, *self.kernel)

    def up_shape(self, rank: int) -> tuple[int, ...]:
        """Shape of ``lora_up.weight``."""
        return (self.out_size, rank) if self.kernel is None else (self.out_size, rank, 1, 1)


def find_targets(
    unet: torch.nn.Module, preset: str = "attention", blocks: str | Collection[str] | None = None
) -> list[Target]:
    """The layers of ``unet`` that ``preset`` trains, in the order of the UNet's modules.

    Args:
        unet: UNet of SD1, SD2 or SDXL, in either spelling.
        preset: ``attention`` (to_q, to_k, to_v, to_out.0 of attn1 and attn2), ``transformer`` (every
            linear layer and 1x1 convolution of the transformer blocks; 192 in SD1), ``full`` (also
            the convolutions and time projections of the ResNet blocks and the samplers) or ``all``
            (every linear layer and 2D convolution).
        blocks: names out of ``in``, ``mid``, ``out``, or regular expressions searched in the path;
            a layer is kept when any of them fits. None keeps all.

    Raises:
        ConfigError: unknown preset, bad expression, or no layer found (says what was looked for).
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown LoRA target preset {preset!r}; use one of {', '.join(PRESETS)}")
    wanted = _block_patterns(blocks)
    modules = dict(unet.named_modules())
    roots = tuple(name[: -len("transformer_blocks")] for name in modules if name.endswith(".transformer_blocks"))
    found = []
    for path, module in modules.items():
        if not _chosen(path, preset, roots) or (wanted and not any(p.search(path) for p in wanted)):
            continue
        target = as_target(path, module)
        if target is not None:
            found.append(target)
    if not found:
        where = "" if blocks is None else f" in blocks {blocks!r}"
        raise ConfigError(
            f"no layer for LoRA preset {preset!r}{where} in {type(unet).__name__}: looked for {_LOOKED_FOR[preset]}; "
            "is this the UNet of SD1, SD2 or SDXL?"
        )
    return found


_LOOKED_FOR = {
    "attention": "paths ending in attn1|attn2.to_q|to_k|to_v|to_out.0",
    "transformer": "linear layers and 1x1 convolutions beside or under transformer_blocks",
    "full": "transformer_blocks, resnets|in_layers|out_layers and down- and upsamplers",
    "all": "linear layers and 2D convolutions",
}


def as_target(path: str, module: torch.nn.Module) -> Target | None:
    """``module`` as a target, None when it is neither linear nor an ungrouped 2D convolution."""
    inside, outside = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(inside, int) and isinstance(outside, int):
        return Target(path, module, inside, outside)
    weight: Any = getattr(module, "weight", None)
    kernel = getattr(module, "kernel_size", None)
    if getattr(weight, "ndim", 0) != 4 or not isinstance(kernel, tuple) or getattr(module, "groups", 1) != 1:
        return None
    if getattr(module, "transposed", False):
        return None
    in_size = getattr(module, "in_channels", weight.shape[1])
    out_size = getattr(module, "out_channels", weight.shape[0])
    return Target(path, module, int(in_size), int(out_size), (int(kernel[0]), int(kernel[1])))


def _chosen(path: str, preset: str, roots: tuple[str, ...]) -> bool:
    if preset == "all":
        return True
    if preset == "attention":
        return _ATTENTION.search(path) is not None
    if path.startswith(roots):
        return True
    return preset == "full" and _CONVOLUTION.search(path) is not None


def _block_patterns(blocks: str | Collection[str] | None) -> list[re.Pattern[str]]:
    if blocks is None:
        return []
    names = [blocks] if isinstance(blocks, str) else list(blocks)
    if not names:
        raise ConfigError("LoRA blocks is empty; name some of in, mid, out, or leave it out for all")
    patterns = []
    for name in names:
        try:
            patterns.append(re.compile(BLOCKS.get(name, name)))
        except re.error as error:
            raise ConfigError(
                f"LoRA block {name!r} is neither in, mid, out nor a regular expression ({error})"
            ) from None
    return patterns
