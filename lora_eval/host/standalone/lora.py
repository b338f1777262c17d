"""A finished LoRA on the standalone host: read once, hooked on while a batch is drawn.

It goes on by the same hooks as in training, so a file draws what the live network drew. Where the
file has text encoder layers they are hooked as well, as the WebUI does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora_eval.errors import LoraFileError
from lora_eval.host.standalone.model import LoadedModel
from lora_eval.lora.files import load_lora
from lora_eval.lora.layers import LoraLayer, LoraNetwork
from lora_eval.lora.match import is_text_encoder, pairs
from lora_eval.lora.metadata import model_hash
from lora_eval.lora.targets import Target, as_target, find_targets

_ENDS = 1 << 16
_NAMED = 3


class LoadedLora:
    """A LoRA file matched to the layers of the loaded model.

    Attributes:
        content: names the file's content; equal names mean equal weights.
        short_hash: what the WebUI shows under ``Lora hashes``.
    """

    def __init__(self, model: LoadedModel, path: Path) -> None:
        file = load_lora(path)
        where = str(path)
        unet_part = {key: value for key, value in file.tensors.items() if not is_text_encoder(key)}
        self.path = path
        self.content = hashlib.sha256(repr(file_key(path)).encode()).hexdigest()
        self.short_hash = str(file.metadata.get("sshs_model_hash") or model_hash(path))[:12]
        self._network: LoraNetwork | None = None
        if unet_part:
            targets = find_targets(model.unet, "all")
            self._network = LoraNetwork.from_tensors(
                model.unet, targets, unet_part, "diffusers", model.info.family, model.device, where
            )
            self._network.eval().requires_grad_(False)
        text_part = {key: value for key, value in file.tensors.items() if is_text_encoder(key)}
        self._text = _text_layers(model, text_part, where)
        if not len(self):
            raise LoraFileError(f"{path} holds no LoRA layer; choose a LoRA file")

    def __len__(self) -> int:
        return len(self._text) + (len(self._network.layers) if self._network else 0)

    @property
    def changes_text(self) -> bool:
        """Whether prompts are encoded differently under this LoRA."""
        return bool(self._text)

    @contextmanager
    def applied(self, weight: float) -> Iterator[None]:
        """The LoRA at ``weight`` on the model; off again on leaving in any way."""
        handles: list[Any] = []
        try:
            for layer in self._text:
                handles.append(layer.target.module.register_forward_hook(_TextHook(layer, weight)))
            if self._network is not None:
                self._network.multiplier = weight
                self._network.attach()
            yield
        finally:
            if self._network is not None:
                self._network.detach()
            for handle in handles:
                handle.remove()


@dataclass(frozen=True)
class _TextHook:
    layer: LoraLayer
    weight: float

    def __call__(self, _module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + self.layer.delta(inputs[0], self.layer.scale * self.weight, 0.0).to(output.dtype)


class LoraShelf:
    """Keeps the last LoRA that was used, so that another weight of it costs no reading.

    A file is known by its path, size, time of change and the bytes of its header and end, so a file
    overwritten under its old name is read again.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._last: tuple[tuple[Any, ...], LoadedLora] | None = None

    def get(self, path: Path) -> LoadedLora:
        """The LoRA of ``path`` matched to the model.

        Raises:
            LoraFileError: broken file, other family, or keys that match no layer (named).
        """
        key = file_key(path)
        if self._last is None or self._last[0] != key:
            self._last = None
            self._last = (key, LoadedLora(self._model, path))
        return self._last[1]


def file_key(path: Path) -> tuple[Any, ...]:
    """What tells one content of a LoRA file from another without reading it whole.

    Raises:
        LoraFileError: the file is missing or cannot be read.
    """
    try:
        stat = path.stat()
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read(_ENDS))
            file.seek(max(0, stat.st_size - _ENDS))
            digest.update(file.read(_ENDS))
    except FileNotFoundError:
        raise LoraFileError(f"LoRA {path} does not exist; check the path") from None
    except OSError as error:
        raise LoraFileError(f"cannot read LoRA {path}: {error.strerror}; check the path") from None
    return (str(path.resolve()), stat.st_size, stat.st_mtime_ns, digest.hexdigest())


def _text_layers(model: LoadedModel, tensors: dict[str, torch.Tensor], where: str) -> list[LoraLayer]:
    """The text encoder part of a file as layers, in the order of the file."""
    targets = _text_targets(model) if tensors else {}
    layers, unmatched = [], []
    for name, pair in pairs(tensors, where).items():
        target = targets.get(name)
        if target is None:
            unmatched.append(name)
            continue
        shapes = tuple(pair.down.flatten(1).shape), tuple(pair.up.flatten(1).shape)
        wanted = target.down_shape(pair.rank), target.up_shape(pair.rank)
        if shapes != wanted:
            raise LoraFileError(
                f"{where}: {name} has shapes {shapes}, the text encoder of {model.info.name} needs {wanted}; "
                f"is it made for another model family than {model.info.family}?"
            )
        down, up = (
            torch.nn.Parameter(half.flatten(1).to(model.device, torch.float32), requires_grad=False)
            for half in (pair.down, pair.up)
        )
        layers.append(LoraLayer(target, name, pair.rank, pair.scale, down, up))
    if unmatched:
        shown = ", ".join(unmatched[:_NAMED]) + (", ..." if len(unmatched) > _NAMED else "")
        raise LoraFileError(
            f"{where}: {len(unmatched)} text encoder layers match none of {model.info.name} ({shown}); "
            f"is it made for another model family than {model.info.family}?"
        )
    return layers


def _text_targets(model: LoadedModel) -> dict[str, Target]:
    """kohya name -> linear layer of the text encoders."""
    found: dict[str, Target] = {}
    for number, encoder in enumerate(model.text_encoders, start=1):
        prefixes = [f"lora_te{number}_"] if model.info.family == "sdxl" else ["lora_te_", "lora_te1_"]
        for path, module in encoder.named_modules():
            target = as_target(path, module)
            if target is None or not target.is_linear:
                continue
            # releases of transformers differ in whether the encoder sits under text_model; files have it there
            inner = path if path.startswith("text_") else f"text_model.{path}"
            found.update({prefix + inner.replace(".", "_"): target for prefix in prefixes})
    return found
