"""How the layers of a UNet are called in LoRA files.

A kohya key is ``lora_unet_`` and the layer's path with ``_`` for ``.``. Files for SD1 and SD2 use
the paths of diffusers, files for SDXL those of the original code (kohya-ss/sd-scripts,
``networks/lora.py``, trains SD1 on a diffusers UNet and SDXL on an original one; the WebUI's Lora
extension maps the former back in ``convert_diffusers_name_to_compvis``).

Both spellings count the same blocks. With two ResNet blocks a level, as in all three families::

    input_blocks.{1+3b+i}   down_blocks.b, layer i; i = 2 is the downsampler
    middle_block.{0,1,2}    mid_block: resnets.0, attentions.0, resnets.1
    output_blocks.{3b+i}    up_blocks.b, layer i; the upsampler comes last in i = 2
"""

from __future__ import annotations

import re

from lora_eval.errors import LoraFileError

LAYOUTS = ("diffusers", "ldm")
PREFIX = "lora_unet_"

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_RESNET_BACK = {diffusers: ldm for ldm, diffusers in _RESNET.items()}
_OUTER = {
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}
_OUTER_BACK = {diffusers: ldm for ldm, diffusers in _OUTER.items()}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_MIDDLE_BACK = {diffusers: ldm for ldm, diffusers in _MIDDLE.items()}


def to_diffusers_path(path: str) -> str:
    """A layer's path in the original code -> its path in diffusers.

    Raises:
        LoraFileError: the path is not one of such a UNet.
    """
    if path in _OUTER:
        return _OUTER[path]
    if match := re.fullmatch(r"input_blocks\.(\d+)\.(\d)\.(.+)", path):
        block, layer = divmod(int(match[1]) - 1, 3)
        if layer == 2 and match[3] == "op":
            return f"down_blocks.{block}.downsamplers.0.conv"
        if block >= 0 and layer < 2:
            return f"down_blocks.{block}.{_member(match[2], layer, match[3])}"
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", path):
        kind = _MIDDLE[match[1]]
        return f"mid_block.{kind}.{_RESNET.get(match[2], match[2]) if kind.startswith('resnets') else match[2]}"
    if match := re.fullmatch(r"output_blocks\.(\d+)\.(\d)\.(.+)", path):
        block, layer = divmod(int(match[1]), 3)
        if match[3] == "conv":
            return f"up_blocks.{block}.upsamplers.0.conv"
        return f"up_blocks.{block}.{_member(match[2], layer, match[3])}"
    raise LoraFileError(f"{path} is not a layer of an SD1, SD2 or SDXL UNet in the original spelling")


def _member(slot: str, layer: int, rest: str) -> str:
    return f"resnets.{layer}.{_RESNET.get(rest, rest)}" if slot == "0" else f"attentions.{layer}.{rest}"


def to_ldm_path(path: str, family: str) -> str:
    """A layer's path in diffusers -> its path in the original code.

    ``family`` matters for the upsampler alone: it follows the attention, which the lowest level of
    SD1 and SD2 lacks and that of SDXL has.

    Raises:
        LoraFileError: the path is not one of such a UNet.
    """
    if path in _OUTER_BACK:
        return _OUTER_BACK[path]
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d)\.(.+)", path):
        number = 3 * int(match[2]) + int(match[4])
        start = f"input_blocks.{1 + number}" if match[1] == "down" else f"output_blocks.{number}"
        if match[3] == "resnets":
            return f"{start}.0.{_RESNET_BACK.get(match[5], match[5])}"
        return f"{start}.1.{match[5]}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", path):
        return f"input_blocks.{3 + 3 * int(match[1])}.0.op"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", path):
        slot = 1 if int(match[1]) == 0 and family != "sdxl" else 2
        return f"output_blocks.{2 + 3 * int(match[1])}.{slot}.conv"
    if match := re.fullmatch(r"mid_block\.((?:resnets|attentions)\.\d)\.(.+)", path):
        kind = match[1]
        if kind in _MIDDLE_BACK:
            rest = _RESNET_BACK.get(match[2], match[2]) if kind.startswith("resnets") else match[2]
            return f"middle_block.{_MIDDLE_BACK[kind]}.{rest}"
    raise LoraFileError(f"{path} is not a layer of an SD1, SD2 or SDXL UNet in diffusers' spelling")


def kohya_name(path: str, layout: str, family: str) -> str:
    """The key that a file for ``family`` uses for the layer at ``path`` of a UNet in ``layout``.

    Args:
        path: dotted path inside the UNet.
        layout: ``diffusers`` or ``ldm``, the spelling of ``path``.
        family: ``sd1``, ``sd2`` or ``sdxl``; anything else is written as SD1 is.

    Raises:
        LoraFileError: the path is not one of such a UNet.
        ValueError: unknown layout.

    >>> kohya_name("input_blocks.1.1.proj_in", "ldm", "sd1")
    'lora_unet_down_blocks_0_attentions_0_proj_in'
    >>> kohya_name("input_blocks.1.1.proj_in", "ldm", "sdxl")
    'lora_unet_input_blocks_1_1_proj_in'
    """
    return kohya_names(path, layout, family)[0]


def kohya_names(path: str, layout: str, family: str) -> tuple[str, str]:
    """The key to write and the other spelling, which the hosts read as well.

    Raises: as :func:`kohya_name`.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, expected one of {', '.join(LAYOUTS)}")
    diffusers = to_diffusers_path(path) if layout == "ldm" else path
    ldm = to_ldm_path(path, family) if layout == "diffusers" else path
    ordered = (ldm, diffusers) if family == "sdxl" else (diffusers, ldm)
    return PREFIX + ordered[0].replace(".", "_"), PREFIX + ordered[1].replace(".", "_")
