"""The layers of an adapter file against those of a model: what takes, what does not, and whether that is enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_eval.errors import LoraFileError
from lora_eval.lora.adapter_file import AdapterFile
from lora_eval.lora.adapters.base import Parts
from lora_eval.lora.adapters.formats import is_plain, layer_change
from lora_eval.lora.files import refuse_other_family
from lora_eval.lora.match import Pair, first, misfit
from lora_eval.lora.names import PREFIX, kohya_names
from lora_eval.lora.targets import as_target

if TYPE_CHECKING:
    import torch

# A file of another family shares names of layers by chance; of a damaged or odd one for this family most layers fit.
# Relative to the file's own number of layers; A1111 draws any share, Forge refuses more than 12 unknown keys.
LEAST_SHARE = 0.5


@dataclass(frozen=True)
class LoraFit:
    """How a LoRA file meets the loaded model.

    Attributes:
        layers: layers that it changes.
        notes: what of the file is not applied, and how it was read, in sentences.
        misfits: layers of another shape, which a host may report as errors while it draws.
    """

    layers: int
    notes: tuple[str, ...] = ()
    misfits: int = 0


class Hit:
    """A layer of the file on its layer of the model.

    Args:
        name: kohya name.
        parts: the layer's tensors.
        module: the model's layer.
        merge: whether the change of a format that is not plain LoRA is worked out, so that it can be merged here.

    Attributes:
        is_plain: LoRA as it is trained here, which is hooked.
        bias_without_place: whether it changes a bias that the layer does not have.

    Raises:
        LoraFileError: its shape does not fit the layer.
    """

    def __init__(self, name: str, parts: Parts, module: Any, merge: bool) -> None:
        self.name, self.parts, self._module = name, parts, module
        self.is_plain = is_plain(parts)
        self._change: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None
        if self.is_plain:
            _check_halves(name, parts, module)
        elif merge:
            self._change, self._bias = layer_change(parts, module.weight, name)
        self.bias_without_place = self._bias is not None and getattr(module, "bias", None) is None

    @contextmanager
    def merged(self, weight: float) -> Iterator[None]:
        """The layer with the change at ``weight`` added; bit for bit as it was on leaving."""
        import torch

        fields = [("weight", self._change), ("bias", self._bias)]
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        with torch.no_grad():
            try:
                for field, change in fields:
                    held = getattr(self._module, field, None)
                    if change is None or held is None:
                        continue
                    kept.append((held, held.detach().clone()))
                    held.copy_((held.float() + change.to(held.device) * weight).to(held.dtype))
                yield
            finally:
                for held, before in kept:
                    held.copy_(before)


def _check_halves(name: str, parts: Parts, module: Any) -> None:
    down, up = parts["lora_down.weight"], parts["lora_up.weight"]
    target = as_target(name, module)
    rank = int(down.shape[0])
    if target is None:
        raise LoraFileError(f"{name}: its layer is neither linear nor a convolution")
    if rank == 0 or up.ndim < 2 or up.shape[1] != rank:
        raise LoraFileError(f"{name}: rank {rank} in lora_down, shape {tuple(up.shape)} in lora_up")
    if wrong := misfit(Pair(name, down, up, float(rank)), target):
        raise LoraFileError(wrong)


@dataclass(frozen=True)
class Matched:
    """The layers that take, by their names in the file, and the account of it."""

    layers: dict[str, Hit]
    fit: LoraFit
    misfits: tuple[str, ...] = ()


def match_adapter(file: AdapterFile, modules: Mapping[str, Any], family: str, merge: bool = True) -> Matched:
    """Put each layer of ``file`` on its module.

    Args:
        file: from :func:`lora_eval.lora.adapter_file.load_adapter`.
        modules: kohya name -> module with a ``weight``, in every spelling that files use.
        family: of the model: ``sd1``, ``sd2``, ``sdxl`` or ``unknown``.
        merge: see :class:`Hit`.

    Raises:
        LoraFileError: made for another family, or less than half of the layers fit.
    """
    where = str(file.path)
    check_family(file, family)
    hits: dict[str, Hit] = {}
    unmatched: list[str] = []
    misfits: list[str] = []
    taken: dict[int, str] = {}
    for name, parts in file.layers.items():
        module = modules.get(name)
        if module is None:
            unmatched.append(name)
            continue
        if id(module) in taken:
            raise LoraFileError(f"{where}: {name} and {taken[id(module)]} both name one layer")
        try:
            hits[name] = Hit(name, parts, module, merge)
        except LoraFileError as error:
            misfits.append(str(error))
            continue
        taken[id(module)] = name
    total = len(file.layers)
    few = len(hits) < LEAST_SHARE * total
    # the cross-attention is as wide as the family's text states
    other_width = any("attn2_to_k" in name for name in misfits)
    for lost, how, refused in (
        (unmatched, "match none of the model's", bool(unmatched) and few),
        (misfits, "do not fit the model", (bool(misfits) and few) or other_width),
    ):
        if refused:
            raise LoraFileError(
                f"{where}: {len(lost)} of {total} layers {how} ({first(lost)}); "
                f"is it made for another model family than {family}?"
            )
    notes = [f"{len(keys)} keys are not read ({reason}): {first(keys)}" for reason, keys in file.unread.items()]
    if unmatched:
        notes.append(f"{len(unmatched)} of {total} layers are not the model's and draw nothing: {first(unmatched)}")
    if misfits:
        notes.append(f"{len(misfits)} of {total} layers do not fit the model and draw nothing: {first(misfits)}")
    without = [hit.name for hit in hits.values() if hit.bias_without_place]
    if without:
        notes.append(f"{len(without)} layers have no bias that could be changed: {first(without)}")
    return Matched(hits, LoraFit(len(hits), (*file.notes, *notes), len(misfits)), tuple(misfits))


def unet_layers(unet: Any, layout: str, family: str) -> dict[str, Any]:
    """kohya name -> layer of the UNet that has a weight, in both spellings that files use.

    Args:
        layout: spelling of the UNet's own paths, see :mod:`lora_eval.lora.names`.
    """
    found: dict[str, Any] = {}
    for path, module in unet.named_modules():
        if getattr(module, "weight", None) is None:
            continue
        try:
            names: tuple[str, ...] = kohya_names(path, layout, family)
        except LoraFileError:
            names = (PREFIX + path.replace(".", "_"),)
        found.update(dict.fromkeys(names, module))
    return found


def check_family(file: AdapterFile, family: str) -> None:
    """Raise LoraFileError where the file says, by its width or its metadata, that it is for another family."""
    shapes = {
        f"{name}.{part}": tuple(value.shape) for name, parts in file.layers.items() for part, value in parts.items()
    }
    refuse_other_family(file.path, shapes, file.family, family)
