"""LoRA tensors (kohya keys) against the layers of a UNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_eval.errors import LoraFileError
from lora_eval.lora.names import kohya_names
from lora_eval.lora.targets import Target

if TYPE_CHECKING:
    import torch

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"


@dataclass(frozen=True)
class Pair:
    """The LoRA of one layer as stored in a file.

    Attributes:
        name: kohya key without its ending.
        down, up: as stored, (rank, in[, kh, kw]) and (out, rank[, 1, 1]).
        alpha: stored value; the rank where the file has none, as the hosts do.
    """

    name: str
    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Inner dimension."""
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        """What hosts multiply ``up @ down`` with at weight 1: alpha / rank."""
        return self.alpha / self.rank


def is_text_encoder(key: str) -> bool:
    """Whether a kohya key belongs to a text encoder."""
    return key.startswith("lora_te")


def pairs(tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, Pair]:
    """Group kohya-named tensors by layer, in the order of the file.

    Args:
        tensors: kohya keys; all formats but plain LoRA were refused before.
        where: what to call the source in errors.

    Raises:
        LoraFileError: an unknown key, a missing half, or halves of different rank.
    """
    found: dict[str, Pair] = {}
    for key in tensors:
        name, _, part = key.partition(".")
        if f".{part}" not in (DOWN, UP, ALPHA):
            raise LoraFileError(f"{where}: unexpected key {key!r}; expected endings {DOWN}, {UP} and {ALPHA}")
        if name in found:
            continue
        down, up = _half(tensors, name + DOWN, key, where), _half(tensors, name + UP, key, where)
        alpha = tensors.get(name + ALPHA)
        if down.shape[0] != up.shape[1]:
            raise LoraFileError(
                f"{where}: {name} has rank {down.shape[0]} in lora_down and {up.shape[1]} in lora_up, "
                "expected the same; the file is damaged"
            )
        if down.shape[0] == 0:
            raise LoraFileError(f"{where}: {name} has rank 0, expected at least 1")
        if alpha is not None and alpha.numel() != 1:
            raise LoraFileError(f"{where}: {name + ALPHA} has shape {tuple(alpha.shape)}, expected one number")
        found[name] = Pair(name, down, up, float(down.shape[0]) if alpha is None else float(alpha.item()))
    return found


def _half(tensors: Mapping[str, torch.Tensor], wanted: str, beside: str, where: str) -> torch.Tensor:
    half = tensors.get(wanted)
    if half is None:
        raise LoraFileError(f"{where}: {wanted} is missing beside {beside}; the file is incomplete, save it again")
    if half.ndim not in (2, 4):
        raise LoraFileError(f"{where}: {wanted} has shape {tuple(half.shape)}, expected 2 or 4 dimensions")
    return half


def match(
    tensors: Mapping[str, torch.Tensor], targets: Sequence[Target], layout: str, family: str, where: str = "LoRA"
) -> dict[str, Pair]:
    """Find the layer of each pair. Text encoder keys are left out: they are not the UNet's.

    Both spellings of the names are understood whatever the family, as the hosts do.

    Args:
        tensors: kohya keys.
        targets: layers that may be hit; use preset ``all`` for files of other trainers.
        layout, family: of the UNet, as in :mod:`lora_eval.lora.names`.
        where: what to call the source in errors.

    Returns:
        Target path -> pair.

    Raises:
        LoraFileError: keys without a layer or with a shape that does not fit it (the first are named).
    """
    unet_part = {key: value for key, value in tensors.items() if not is_text_encoder(key)}
    stored = pairs(unet_part, where)
    by_name: dict[str, Target] = {}
    for target in targets:
        try:
            for name in kohya_names(target.path, layout, family):
                by_name[name] = target
        except LoraFileError:
            # a layer outside the known scheme can still be met under its own spelling
            by_name["lora_unet_" + target.path.replace(".", "_")] = target
    result: dict[str, Pair] = {}
    unmatched, misfits = [], []
    for name, pair in stored.items():
        hit = by_name.get(name)
        if hit is None:
            unmatched.append(name)
            continue
        wrong = misfit(pair, hit)
        if wrong:
            misfits.append(wrong)
        elif hit.path in result:
            raise LoraFileError(f"{where}: {name} and {result[hit.path].name} both name layer {hit.path}")
        result[hit.path] = pair
    if unmatched:
        raise LoraFileError(
            f"{where}: {len(unmatched)} of {len(stored)} layers match none of the model's {len(targets)} "
            f"({first(unmatched)}); is it made for another model family than {family}?"
        )
    if misfits:
        raise LoraFileError(
            f"{where}: {len(misfits)} of {len(stored)} layers do not fit the model ({first(misfits)}); "
            f"is it made for another model family than {family}?"
        )
    return result


def misfit(pair: Pair, target: Target) -> str:
    """In which half, and how, the pair's shape differs from the layer's; "" where it fits."""
    rank = pair.rank
    for half, tensor, expected in (
        ("lora_down", pair.down, target.down_shape(rank)),
        ("lora_up", pair.up, target.up_shape(rank)),
    ):
        # 1x1 convolutions are stored with and without their two trailing dimensions
        if _trimmed(tuple(tensor.shape)) != _trimmed(expected):
            return f"{pair.name}.{half}.weight has shape {tuple(tensor.shape)}, expected {expected}"
    return ""


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) else shape


def first(names: Sequence[str], count: int = 3) -> str:
    """The first few of many names."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
