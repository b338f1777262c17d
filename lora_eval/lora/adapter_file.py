"""A LoRA file of any format, layer by layer, with what of it is not read.

Training reads plain LoRA alone (:mod:`lora_eval.lora.files`). To draw with a file that somebody else made, it is read
as the WebUI reads it: a key that belongs to no layer is passed over, and named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lora_eval.errors import LoraFileError
from lora_eval.lora.adapters.base import Parts
from lora_eval.lora.adapters.formats import COMMON, format_of, is_plain
from lora_eval.lora.convert import has_second_encoder, peft_alpha, read_peft_key
from lora_eval.lora.files import inspect_lora, peft_settings_of, read_tensors
from lora_eval.lora.match import first, is_text_encoder

if TYPE_CHECKING:
    import torch

_LAYER = re.compile(r"^(?:lora|oft|lycoris)_(?:(unet|te\d?)_)?")
_EMBEDDING = "bundle_emb."


@dataclass(frozen=True)
class AdapterFile:
    """A file in memory.

    Attributes:
        layers: kohya name without ending (``lora_unet_...``, ``lora_te_...``) -> its tensors by their endings.
        unread: reason -> keys that no layer takes.
        notes: what a reader should know of how the file was read.
    """

    path: Path
    metadata: Mapping[str, str]
    family: str
    layers: dict[str, dict[str, torch.Tensor]]
    unread: dict[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether every layer is LoRA as it is trained here."""
        return all(is_plain(parts) for parts in self.layers.values())

    @property
    def text_layers(self) -> list[str]:
        """Names of the layers of text encoders."""
        return [name for name in self.layers if is_text_encoder(name)]

    @property
    def formats(self) -> list[str]:
        """Names of the formats of its layers, each once."""
        found = (format_of(parts) for parts in self.layers.values())
        return list(dict.fromkeys(one.name for one in found if one is not None))


def load_adapter(path: Path) -> AdapterFile:
    """Read a file of any format (see :mod:`lora_eval.lora.adapters.formats`) and spelling.

    Raises:
        LoraFileError: missing, broken, for a model that is not SD1, SD2 or SDXL, or without a layer that can be read.
    """
    import torch

    header = inspect_lora(path)
    stored = read_tensors(header)
    settings, notes = peft_settings_of(header, stored)
    numbered = header.family == "sdxl" or has_second_encoder(stored)
    layers: dict[str, dict[str, torch.Tensor]] = {}
    unread: dict[str, list[str]] = {}
    alphas: dict[str, float] = {}
    for key, tensor in stored.items():
        name, part = _kohya_place(key)
        found = None if name else read_peft_key(key, header.family, numbered)
        if found is not None:
            name, part = found.name, found.ending
            if part == "lora_down.weight" and found.part in settings:
                alphas[name] = peft_alpha(settings[found.part], found.path, int(tensor.shape[0]))
        if not name:
            embedding = key.startswith(_EMBEDDING)
            reason = "an embedding for prompts, not part of the LoRA" if embedding else "no layer's key"
            unread.setdefault(reason, []).append(key)
            continue
        layers.setdefault(name, {})[part] = tensor
    for name, alpha in alphas.items():
        layers[name].setdefault("alpha", torch.tensor(alpha))
    for name in list(layers):
        _sort_out(name, layers, unread)
    if not layers:
        first_key = next(iter(stored))
        raise LoraFileError(
            f"{header.path}: none of its {len(stored)} keys is of a layer that is known (first: {first_key!r})"
        )
    if any(key.startswith("lycoris_") for key in stored):
        notes.append("its keys begin with lycoris_, of which AUTOMATIC1111 draws nothing")
    notes += _about_alpha(layers)
    return AdapterFile(header.path, header.metadata, header.family, layers, unread, tuple(notes))


def _kohya_place(key: str) -> tuple[str, str]:
    """(layer's kohya name, ending), or ("", "") where the key is not spelled so."""
    found = _LAYER.match(key)
    if found is None or "." not in key:
        return "", ""
    name, _, part = key.partition(".")
    # A1111 and Forge take peft's names of the halves behind kohya's names of the layers
    part = part.replace("lora_A.", "lora_down.").replace("lora_B.", "lora_up.")
    return f"lora_{found[1] or 'unet'}_{name[found.end() :]}", part


def _sort_out(name: str, layers: dict[str, dict[str, torch.Tensor]], unread: dict[str, list[str]]) -> None:
    """Move what the layer's format does not read, or a layer of no format, to ``unread``."""
    parts = layers[name]
    form = format_of(parts)
    if form is None:
        unread.setdefault("tensors of no known format", []).extend(f"{name}.{part}" for part in parts)
        del layers[name]
        return
    for part in [part for part in parts if part not in COMMON and not form.reads(part)]:
        unread.setdefault(f"passed over beside {form.name}", []).append(f"{name}.{part}")
        del parts[part]


def _about_alpha(layers: Mapping[str, Parts]) -> list[str]:
    zero = [name for name, parts in layers.items() if "alpha" in parts and float(parts["alpha"]) == 0]
    if not zero:
        return []
    return [f"alpha is 0 in {len(zero)} of {len(layers)} layers ({first(zero)}): they are drawn as nothing"]
