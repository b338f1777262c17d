"""A finished LoRA on the standalone host: read once, on while a batch is drawn.

Plain LoRA goes on by the same hooks as in training, so a file draws what the live network drew. Other formats change
the weights and give them back. Layers of the text encoders are applied as well, as the WebUI does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora_eval.errors import LoraFileError
from lora_eval.host.standalone.model import LoadedModel
from lora_eval.lora.adapter_file import load_adapter
from lora_eval.lora.adapter_match import Hit, match_adapter, unet_layers
from lora_eval.lora.layers import LoraLayer, LoraNetwork
from lora_eval.lora.match import is_text_encoder, pairs
from lora_eval.lora.metadata import model_hash
from lora_eval.lora.targets import Target, as_target, find_targets

_ENDS = 1 << 16


class LoadedLora:
    """A LoRA file matched to the layers of the loaded model.

    Layers of plain LoRA are hooked, as in training; those of other formats change the weights while a batch is drawn.

    Attributes:
        content: names the file's content; equal names mean equal weights.
        short_hash: what the WebUI shows under ``Lora hashes``.
        fit: how many layers took, and what did not.
    """

    def __init__(self, model: LoadedModel, path: Path) -> None:
        file = load_adapter(path)
        matched = match_adapter(file, _modules(model), model.info.family)
        self.path = path
        self.content = hashlib.sha256(repr(file_key(path)).encode()).hexdigest()
        self.short_hash = str(file.metadata.get("sshs_model_hash") or model_hash(path))[:12]
        self.fit = matched.fit
        self._network: LoraNetwork | None = None
        plain = {name: hit for name, hit in matched.layers.items() if hit.is_plain}
        if unet_part := _tensors({name: hit for name, hit in plain.items() if not is_text_encoder(name)}):
            targets = find_targets(model.unet, "all")
            self._network = LoraNetwork.from_tensors(
                model.unet, targets, unet_part, "diffusers", model.info.family, model.device, str(path)
            )
            self._network.eval().requires_grad_(False)
        text_part = _tensors({name: hit for name, hit in plain.items() if is_text_encoder(name)})
        self._text = _text_layers(model, text_part, str(path))
        self._merged = [hit for hit in matched.layers.values() if not hit.is_plain]

    def __len__(self) -> int:
        return self.fit.layers

    @property
    def changes_text(self) -> bool:
        """Whether prompts are encoded differently under this LoRA."""
        return bool(self._text) or any(is_text_encoder(hit.name) for hit in self._merged)

    @contextmanager
    def applied(self, weight: float) -> Iterator[None]:
        """The LoRA at ``weight`` on the model; off again on leaving in any way."""
        handles: list[Any] = []
        with ExitStack() as stack:
            for hit in self._merged:
                stack.enter_context(hit.merged(weight))
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


def _tensors(hits: Mapping[str, Hit]) -> dict[str, torch.Tensor]:
    return {f"{name}.{part}": tensor for name, hit in hits.items() for part, tensor in hit.parts.items()}


def _modules(model: LoadedModel) -> dict[str, Any]:
    """kohya name -> layer of the UNet or of a text encoder that has a weight, in each spelling that files use."""
    found = unet_layers(model.unet, "diffusers", model.info.family)
    for number, encoder in enumerate(model.text_encoders, start=1):
        prefixes = [f"lora_te{number}_"] if model.info.family == "sdxl" else ["lora_te_", "lora_te1_"]
        for path, module in encoder.named_modules():
            if _has_weight(module):
                found.update({prefix + _text_path(path): module for prefix in prefixes})
    return found


def _has_weight(module: Any) -> bool:
    return isinstance(getattr(module, "weight", None), torch.Tensor) and not isinstance(module, torch.nn.Embedding)


def _text_path(path: str) -> str:
    """releases of transformers differ in whether the encoder sits under text_model; files have it there"""
    return (path if path.startswith("text_") else f"text_model.{path}").replace(".", "_")


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
    layers = []
    for name, pair in pairs(tensors, where).items():
        down, up = (
            torch.nn.Parameter(half.flatten(1).to(model.device, torch.float32), requires_grad=False)
            for half in (pair.down, pair.up)
        )
        layers.append(LoraLayer(targets[name], name, pair.rank, pair.scale, down, up))
    return layers


def _text_targets(model: LoadedModel) -> dict[str, Target]:
    """kohya name -> linear layer of the text encoders."""
    found: dict[str, Target] = {}
    for number, encoder in enumerate(model.text_encoders, start=1):
        prefixes = [f"lora_te{number}_"] if model.info.family == "sdxl" else ["lora_te_", "lora_te1_"]
        for path, module in encoder.named_modules():
            target = as_target(path, module)
            if target is not None and target.is_linear:
                found.update({prefix + _text_path(path): target for prefix in prefixes})
    return found
