"""LoRA on forward hooks.

Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685; microsoft/LoRA): a frozen layer
``W`` gets ``W x + scale * B A x`` with A (rank, in) drawn Kaiming-uniform and B (out, rank) zero, so
that training starts at the base model exactly.

The addition is made by ``register_forward_hook``. The host's modules keep their classes, their
``forward``, their children and their state dict; when the hooks are off nothing is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import nn

from lora_eval.errors import ConfigError, LoraFileError
from lora_eval.lora.layer import LoraLayer, resize_into
from lora_eval.lora.match import ALPHA, DOWN, UP, Pair, is_text_encoder, match
from lora_eval.lora.names import kohya_name
from lora_eval.lora.targets import Target


@dataclass(frozen=True)
class Loaded:
    """What reading tensors into a network did.

    Attributes:
        layers: number of UNet layers read.
        untouched: network layers that the file has nothing for; they are zero now.
        text_encoder: number of text encoder layers in the file, which a UNet network cannot hold.
        kept_energy: layer name -> share of the squared Frobenius norm kept, in [0, 1]; 1.0 where the
            rank was not reduced. Empty for an exact load.
    """

    layers: int
    untouched: list[str] = field(default_factory=list)
    text_encoder: int = 0
    kept_energy: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LoraOptions:
    """What a LoRA has besides rank and alpha.

    Attributes:
        conv_rank, conv_alpha: for kernels larger than 1x1 (LoCon); the same as rank and alpha when None.
        dropout: share of a layer's inputs to A zeroed while training, in [0, 1).
        rank_stabilised: scale alpha / sqrt(rank) (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).
            Files store ``alpha * sqrt(rank)`` then, which the hosts' alpha / rank turns into the same.
    """

    conv_rank: int | None = None
    conv_alpha: float | None = None
    dropout: float = 0.0
    rank_stabilised: bool = False


@dataclass(frozen=True)
class Naming:
    """How a UNet spells its module paths, see :mod:`lora_eval.lora.names`: ``layout`` and ``family``."""

    layout: str = "diffusers"
    family: str = "sd1"


class LoraNetwork:
    """LoRA layers on a UNet, off until :meth:`attach`.

    Args:
        unet: the host's UNet; never changed, only hooked.
        targets: from :func:`lora_eval.lora.targets.find_targets`.
        rank, alpha: for linear layers and 1x1 convolutions. The scale is alpha / rank.
        options: what else it has: convolutions, dropout, rank-stabilised scale.
        naming: layout and family of the UNet.
        seed: of A's random start, drawn on the CPU from a generator of its own: the same on every
            device, and the global RNG is left alone. None takes one from the system.
        device: where the parameters live; that of the UNet's first parameter when None.

    Attributes:
        multiplier: weight of the LoRA; 0 gives the base model's output bit by bit.
        layers: target path -> :class:`LoraLayer`, in the order of ``targets``.

    Raises:
        ConfigError: rank, alpha or dropout out of range, or no targets.
    """

    def __init__(
        self,
        unet: nn.Module,
        targets: Sequence[Target],
        rank: int = 8,
        alpha: float = 8.0,
        options: LoraOptions = LoraOptions(),
        naming: Naming = Naming(),
        seed: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        conv_rank = rank if options.conv_rank is None else options.conv_rank
        conv_alpha = alpha if options.conv_alpha is None else options.conv_alpha
        ranks_given, alphas_given = {"rank": rank, "conv_rank": conv_rank}, {"alpha": alpha, "conv_alpha": conv_alpha}
        _check(targets, ranks_given, alphas_given, options.dropout)
        ranks = {t.path: conv_rank if t.is_wide else rank for t in targets}
        scales = {}
        for t in targets:
            own = ranks[t.path]
            scales[t.path] = (conv_alpha if t.is_wide else alpha) / (math.sqrt(own) if options.rank_stabilised else own)
        self._setup(unet, targets, ranks, scales, naming, options.dropout, seed, device)

    @classmethod
    def from_tensors(
        cls,
        unet: nn.Module,
        targets: Sequence[Target],
        tensors: Mapping[str, torch.Tensor],
        layout: str = "diffusers",
        family: str = "sd1",
        device: torch.device | str | None = None,
        where: str = "LoRA",
    ) -> LoraNetwork:
        """A network of exactly the UNet layers, ranks and alphas that a file has.

        Args:
            targets: layers that may be hit; preset ``all`` takes files of every trainer.
            tensors: kohya keys (:func:`lora_eval.lora.files.load_lora`).
            where: what to call the source in errors.

        Raises:
            LoraFileError: keys that fit no layer.
        """
        found = match(tensors, targets, layout, family, where)
        if not found:
            raise LoraFileError(f"{where}: no layer for the UNet in it; it has text encoder layers only")
        network = cls.__new__(cls)
        hit = [t for t in targets if t.path in found]
        ranks = {path: pair.rank for path, pair in found.items()}
        scales = {path: pair.scale for path, pair in found.items()}
        network._setup(unet, hit, ranks, scales, Naming(layout, family), 0.0, 0, device)
        network.load(tensors, where)
        return network

    def _setup(
        self,
        unet: nn.Module,
        targets: Sequence[Target],
        ranks: Mapping[str, int],
        scales: Mapping[str, float],
        naming: Naming,
        dropout: float,
        seed: int | None,
        device: torch.device | str | None,
    ) -> None:
        self.multiplier = 1.0
        self.dropout = dropout
        self.layout, self.family = naming.layout, naming.family
        self.training = True
        self._handles: list[Any] = []
        if device is None:
            first = next(unet.parameters(), None)
            device = torch.device("cpu") if first is None else first.device
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        self.layers: dict[str, LoraLayer] = {}
        with torch.inference_mode(False):
            for target in targets:
                rank = ranks[target.path]
                down = torch.empty(target.down_shape(rank), dtype=torch.float32)
                # kaiming_uniform_(a=sqrt(5)) is uniform within 1 / sqrt(fan in)
                bound = 1.0 / math.sqrt(down[0].numel())
                down.uniform_(-bound, bound, generator=generator)
                up = torch.zeros(target.up_shape(rank), dtype=torch.float32)
                self.layers[target.path] = LoraLayer(
                    target,
                    kohya_name(target.path, naming.layout, naming.family),
                    rank,
                    scales[target.path],
                    nn.Parameter(down.to(device)),
                    nn.Parameter(up.to(device)),
                )

    # -- on and off -------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether the hooks are on."""
        return bool(self._handles)

    def attach(self) -> LoraNetwork:
        """Put the hooks on. A second call changes nothing."""
        if not self._handles:
            for layer in self.layers.values():
                hook = self._hook(layer)
                self._handles.append(layer.target.module.register_forward_hook(hook, with_kwargs=True))
        return self

    def detach(self) -> None:
        """Take the hooks off; nothing is left on the UNet. A second call changes nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> LoraNetwork:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _hook(self, layer: LoraLayer) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> Any:
            if self.multiplier == 0:
                return None  # None leaves the output untouched, the very same tensor
            x = args[0] if args else next(iter(kwargs.values()))
            dropout = self.dropout if self.training else 0.0
            delta = layer.delta(x, layer.scale * self.multiplier, dropout)
            return output + delta.to(output.dtype)

        return hook

    # -- parameters -------------------------------------------------------------------------------

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(kohya key, parameter), in a fixed order."""
        for layer in self.layers.values():
            yield layer.name + DOWN, layer.down
            yield layer.name + UP, layer.up

    def parameters(self) -> list[nn.Parameter]:
        """All trainable tensors, fp32, in a fixed order."""
        return [parameter for _, parameter in self.named_parameters()]

    def train(self, mode: bool = True) -> LoraNetwork:
        """Turn dropout on. The UNet's own mode is not touched."""
        self.training = mode
        return self

    def eval(self) -> LoraNetwork:
        """Turn dropout off."""
        return self.train(False)

    def requires_grad_(self, wanted: bool = True) -> LoraNetwork:
        """Set ``requires_grad`` of all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(wanted)
        return self

    # -- tensors ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Detached CPU copies under kohya keys, fp32, with an alpha a layer.

        ``alpha`` is ``scale * rank``, so that alpha / rank gives the scale used here in every host.
        """
        tensors = {}
        for layer in self.layers.values():
            tensors[layer.name + ALPHA] = torch.tensor(layer.scale * layer.rank, dtype=torch.float32)
            tensors[layer.name + DOWN] = layer.down.detach().cpu().clone()
            tensors[layer.name + UP] = layer.up.detach().cpu().clone()
        return tensors

    def load(self, tensors: Mapping[str, torch.Tensor], where: str = "LoRA") -> Loaded:
        """Take over the tensors of a file whose ranks are the same. Layers it lacks become zero.

        Raises:
            LoraFileError: keys that fit no layer here, or another rank; nothing is changed then.
        """
        found = match(tensors, self._targets(), self.layout, self.family, where)
        for path, pair in found.items():
            own = self.layers[path].rank
            if pair.rank != own:
                raise LoraFileError(
                    f"{where}: {pair.name} has rank {pair.rank}, expected {own}; set the same rank or allow resizing"
                )
        with torch.no_grad():
            for path, layer in self.layers.items():
                stored = found.get(path)
                if stored is None:
                    layer.up.zero_()
                    continue
                layer.down.copy_(stored.down.reshape(layer.down.shape))
                layer.up.copy_(stored.up.reshape(layer.up.shape))
                layer.scale = stored.scale
        return self._report(tensors, found, {})

    def load_resized(self, tensors: Mapping[str, torch.Tensor], where: str = "LoRA") -> Loaded:
        """Take over tensors of any rank, as the best approximation at the ranks here.

        The truncated singular value decomposition of ``up @ down`` is the best of its rank in the
        Frobenius norm (Eckart and Young 1936; kohya-ss/sd-scripts, ``networks/resize_lora.py``). It is
        taken from the QR factors of the halves, so the full matrix is never made. The scale of this
        network stays. Where the rank here is larger, the room left keeps its random A and a zero B,
        so that it can still be trained.

        Raises:
            LoraFileError: keys that fit no layer here; nothing is changed then.
        """
        found = match(tensors, self._targets(), self.layout, self.family, where)
        kept: dict[str, float] = {}
        with torch.no_grad():
            for path, layer in self.layers.items():
                stored = found.get(path)
                layer.up.zero_()
                if stored is not None:
                    kept[layer.name] = resize_into(layer, stored)
        return self._report(tensors, found, kept)

    def _targets(self) -> list[Target]:
        return [layer.target for layer in self.layers.values()]

    def _report(self, tensors: Mapping[str, torch.Tensor], found: Mapping[str, Pair], kept: dict[str, float]) -> Loaded:
        untouched = [layer.name for path, layer in self.layers.items() if path not in found]
        text = sum(is_text_encoder(key) and key.endswith(DOWN) for key in tensors)
        return Loaded(len(found), untouched, text, kept)


def _check(targets: Sequence[Target], ranks: dict[str, int], alphas: dict[str, float], dropout: float) -> None:
    if not targets:
        raise ConfigError("a LoRA needs at least one target layer; choose another preset or other blocks")
    for name, rank in ranks.items():
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= 1024:
            raise ConfigError(f"LoRA {name} is {rank!r}, expected a whole number from 1 to 1024")
    for name, alpha in alphas.items():
        if not (isinstance(alpha, (int, float)) and math.isfinite(alpha) and alpha > 0):
            raise ConfigError(f"LoRA {name} is {alpha!r}, expected a number above 0")
    if not 0 <= dropout < 1:
        raise ConfigError(f"LoRA dropout is {dropout!r}, expected a number from 0 up to, but not, 1")
