"""All formats, in the order in which they are tried, and a layer's whole change: scale, DoRA, sparse bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_eval.errors import LoraFileError
from lora_eval.lora.adapters import full, glora, ia3, loha, lokr, lora, norm, oft
from lora_eval.lora.adapters.base import Change, Format, Parts

if TYPE_CHECKING:
    import torch

FORMATS = (lora.FORMAT, loha.FORMAT, ia3.FORMAT, lokr.FORMAT, full.FORMAT, norm.FORMAT, glora.FORMAT, oft.FORMAT)
# what any format may have beside its own tensors
COMMON = ("alpha", "scale", "dora_scale", "bias")


def format_of(parts: Parts) -> Format | None:
    """The format of a layer's tensors, None where they are of none."""
    return next((one for one in FORMATS if one.accepts(parts)), None)


def is_plain(parts: Parts) -> bool:
    """Whether the layer is LoRA as it is trained here: ``up @ down`` and alpha alone."""
    return format_of(parts) is lora.FORMAT and not any(
        name in parts for name in (lora.MID, *(name for name in COMMON if name != "alpha"))
    )


def scale_of(parts: Parts, rank: int | None) -> float:
    """What the change is multiplied with at weight 1: ``scale`` where the file has it, else alpha / rank, else 1."""
    if "scale" in parts:
        return float(parts["scale"])
    if rank is None or "alpha" not in parts:
        return 1.0
    return float(parts["alpha"]) / rank


def layer_change(parts: Parts, weight: torch.Tensor, where: str = "LoRA") -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the layer's weight and bias gain at weight 1 (other weights scale it).

    Args:
        parts: the layer's tensors.
        weight: the layer's weight, (out, in[, kh, kw]) or (channels,), floating point.

    Returns:
        (change of the weight, in its shape and in fp32; change of the bias or None).

    Raises:
        LoraFileError: of no format, or of a shape that does not fit the layer.
    """
    found = format_of(parts)
    if found is None:
        raise LoraFileError(f"{where}: {', '.join(parts)} is no format of adapter that is known")
    original = weight.detach().float()
    held = {name: tensor.detach().to(original.device).float() for name, tensor in parts.items()}
    try:
        made: Change = found.change(held, original)
        change = made.weight
        if "bias" in held:
            # LyCORIS' sparse remainder: added before the scale, in the shape of the change
            change = change + held["bias"].reshape(change.shape)
        change = change.reshape(original.shape) * scale_of(held, made.rank)
        if "dora_scale" in held:
            change = decompose(original, change, held["dora_scale"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:100]
        raise LoraFileError(f"{where}: its {found.name} does not fit {tuple(weight.shape)} ({reason})") from None
    return change, made.bias


def decompose(weight: torch.Tensor, change: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """DoRA: the changed weight keeps its direction and takes the length ``magnitude``.

    Source: Liu et al. 2024 (arXiv:2402.09353, equation 5). A magnitude of (out, 1, ...) is the length of each output
    feature (peft, LyCORIS since 3.0), one of (1, in, ...) that of each input feature (LyCORIS before). A1111 1.10 takes
    every magnitude for the second kind.
    """
    merged = weight + change
    axis = 0 if magnitude.shape[0] == weight.shape[0] and weight.shape[0] > 1 else 1
    shape = [1] * weight.ndim
    shape[axis] = -1
    length = merged.transpose(0, axis).flatten(1).norm(dim=1)
    return merged * (magnitude.reshape(shape) / length.reshape(shape)) - weight
