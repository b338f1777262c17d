"""LoRA files: safetensors in, safetensors out.

Nothing is ever unpickled. Every complaint names the file, the key and what was expected.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_eval.errors import LoraFileError
from lora_eval.files import atomic_path
from lora_eval.lora.convert import is_lora_key, other_model, peft_settings, to_kohya, unsupported_kind
from lora_eval.lora.match import ALPHA, Pair, is_text_encoder, match, pairs
from lora_eval.lora.metadata import family_of, legacy_hash, model_hash
from lora_eval.lora.targets import Target

if TYPE_CHECKING:
    import torch

CONTEXT_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
DTYPES = ("fp16", "bf16", "fp32")
_LARGEST_HEADER = 100_000_000  # the limit of the safetensors library
_CROSS_ATTENTION = re.compile(r"attn2[._](?:processor\.)?to_[kv](?:_lora)?\.(?:lora_down|lora_A|lora\.down|down)")
_CHECKPOINT = re.compile(
    r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\."
    r"|^(unet\.)?(down|up|mid)_blocks?\..*\.(weight|bias)$"
)


@dataclass(frozen=True)
class LoraHeader:
    """What a file says without its tensors being read; also for formats that only a host can apply.

    Attributes:
        shapes: key as stored -> shape.
        metadata: as stored.
        family: ``sd1``, ``sd2``, ``sdxl`` or ``unknown``.
        kind: ``LoRA``, or the name of another format (``LoHa``, ``LoKr``, ``DoRA``, ...).
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    family: str
    kind: str


@dataclass(frozen=True)
class LoraFile:
    """A LoRA in memory.

    Attributes:
        path: where it came from.
        tensors: kohya key -> tensor, bytes and dtype as stored; text encoder layers included.
        metadata: as stored.
        family: ``sd1``, ``sd2``, ``sdxl`` or ``unknown``.
        ranks, alphas: kohya key without ending -> rank and alpha (the rank where none is stored).
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]
    family: str
    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The rank that most layers have."""
        return Counter(self.ranks.values()).most_common(1)[0][0]

    @property
    def alpha(self) -> float:
        """The alpha that most layers have."""
        return Counter(self.alphas.values()).most_common(1)[0][0]

    @property
    def unet_tensors(self) -> dict[str, torch.Tensor]:
        """The UNet's part of :attr:`tensors`."""
        return {key: value for key, value in self.tensors.items() if not is_text_encoder(key)}

    @property
    def text_tensors(self) -> dict[str, torch.Tensor]:
        """The text encoders' part of :attr:`tensors`."""
        return {key: value for key, value in self.tensors.items() if is_text_encoder(key)}


def inspect_lora(path: Path) -> LoraHeader:
    """Read the header of a file alone: cheap, whatever the size.

    Raises:
        LoraFileError: missing, empty, truncated, a pickle, no LoRA, or for another kind of model.
    """
    path = Path(path)
    header = _read_header(path)
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise LoraFileError(f"{path}: __metadata__ is not an object; the header is damaged, copy the file again")
    metadata = {str(key): str(value) for key, value in metadata.items()}
    shapes = {key: tuple(entry["shape"]) for key, entry in header.items()}
    if not shapes:
        raise LoraFileError(f"{path}: no tensors in it; expected LoRA keys such as lora_unet_...lora_down.weight")
    other = other_model(shapes)
    if other is not None:
        raise LoraFileError(f"{path}: made for {other}; expected a LoRA for SD1, SD2 or SDXL")
    kind = unsupported_kind(shapes)
    if kind is None and not any(is_lora_key(key) for key in shapes):
        first = next(iter(shapes))
        what = "a full checkpoint, not a LoRA" if any(_CHECKPOINT.match(key) for key in shapes) else "not a LoRA"
        raise LoraFileError(
            f"{path}: {what}: no LoRA keys among {len(shapes)} (first: {first!r}); "
            "expected keys such as lora_unet_...lora_down.weight"
        )
    return LoraHeader(path, shapes, metadata, detect_family(shapes, metadata), kind[0] if kind else "LoRA")


def load_lora(path: Path) -> LoraFile:
    """Read a LoRA of any understood spelling (see :mod:`lora_eval.lora.convert`).

    Tensors keep their bytes: a file that is kohya-named already can be saved again byte by byte.

    Raises:
        LoraFileError: whatever is wrong with the file, with its name, the key and what was expected.
    """
    header = inspect_lora(path)
    path = header.path
    if header.kind != "LoRA":
        raise LoraFileError(f"{path}: {header.kind} is not supported here; expected plain LoRA")
    stored = read_tensors(header)
    settings, _ = peft_settings_of(header, stored)
    tensors = to_kohya(stored, header.family, settings, str(path))
    found = pairs(tensors, str(path))
    return LoraFile(
        path,
        tensors,
        header.metadata,
        header.family,
        {name: pair.rank for name, pair in found.items()},
        {name: pair.alpha for name, pair in found.items()},
    )


def read_tensors(header: LoraHeader) -> dict[str, torch.Tensor]:
    """Every tensor of the file, on the CPU, as stored.

    Raises:
        LoraFileError: it cannot be read, or a tensor has NaN, infinity or whole numbers.
    """
    from safetensors import SafetensorError, safe_open

    path = header.path
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, AttributeError) as error:
        raise LoraFileError(f"{path}: cannot be read ({_one_line(error)}); copy or save the file again") from None
    _check_numbers(stored, str(path))
    return stored


def peft_settings_of(
    header: LoraHeader, stored: Mapping[str, torch.Tensor]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """peft's settings (see :func:`lora_eval.lora.convert.peft_settings`) and notes.

    ``adapter_config.json`` beside the file is taken whatever the file is called, as long as a layer has its rank: a
    renamed ``adapter_model.safetensors`` keeps its scale. Where nothing says alpha it is the rank, as in diffusers.

    Raises:
        LoraFileError: the settings are not JSON.
    """
    ranks = {int(tensor.shape[0]) for key, tensor in stored.items() if _PEFT_DOWN.search(key) and tensor.ndim > 1}
    if not ranks:
        return {}, []
    config = header.path.with_name("adapter_config.json")
    text = config.read_text(encoding="utf-8-sig") if config.is_file() else None
    notes = []
    settings = peft_settings(header.metadata, text)
    beside = bool(settings) and "lora_adapter_metadata" not in header.metadata
    if beside and not _has_rank(settings, ranks):
        # the config of another adapter in the same folder
        settings = {}
        notes.append(f"{config.name} beside it is of another rank than {', '.join(map(str, sorted(ranks)))}: not read")
    if not settings and not any(key.endswith(ALPHA) for key in stored):
        notes.append("its alpha is not known: drawn at scale 1, as diffusers does")
    return settings, notes


_PEFT_DOWN = re.compile(r"\.lora_A(\.\w+)?\.weight$|\.(lora|lora_linear_layer)\.down\.weight$")


def _has_rank(settings: Mapping[str, Mapping[str, Any]], ranks: set[int]) -> bool:
    for one in settings.values():
        if "r" not in one or {one["r"], *(one.get("rank_pattern") or {}).values()} & ranks:
            return True
    return False


def check_fits(lora: LoraFile, targets: Sequence[Target], layout: str, family: str) -> dict[str, Pair]:
    """Make sure that every UNet layer of ``lora`` has its layer in the model.

    Args:
        lora: from :func:`load_lora`.
        targets: layers that may be hit; preset ``all`` admits what every trainer writes.
        layout, family: of the model.

    Returns:
        Target path -> its pair. Empty when the file is for the text encoder alone.

    Raises:
        LoraFileError: another family, or layers without a match or of another shape (the first named).
    """
    refuse_other_family(
        lora.path, {key: tuple(value.shape) for key, value in lora.tensors.items()}, lora.family, family
    )
    return match(lora.tensors, targets, layout, family, str(lora.path))


def refuse_other_family(path: Path, shapes: Mapping[str, tuple[int, ...]], own: str, family: str) -> None:
    """Raise LoraFileError where a file of family ``own`` is for another one than the model's."""
    if "unknown" in (own, family) or own == family:
        return
    width = context_width(shapes)
    seen = f"its context width is {width}" if width in CONTEXT_WIDTHS else "its metadata says so"
    raise LoraFileError(f"{path}: a LoRA for {own} ({seen}), the model is {family}; use a model of its own family")


def save_lora(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], dtype: str | None = None
) -> dict[str, str]:
    """Write a LoRA: whole or not at all.

    Args:
        path: ends in ``.safetensors``. Hosts cache by name: never reuse one for other tensors.
        tensors: kohya keys.
        metadata: from :func:`lora_eval.lora.metadata.build_metadata`; the hashes are added here.
        dtype: ``fp16``, ``bf16``, ``fp32``; None keeps each tensor's own. Alphas keep theirs, because
            a rank-stabilised one is not exact in 16 bits.

    Returns:
        The metadata as written, with ``sshs_model_hash``, ``sshs_legacy_hash`` and
        ``modelspec.hash_sha256``.

    Raises:
        LoraFileError: NaN or infinity in a tensor (also after rounding to ``dtype``), an unknown key
            or an incomplete pair.
        RunError: the folder cannot be written or the disk is full.
        ValueError: unknown ``dtype`` or another ending.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} does not end in .safetensors")
    ready = _prepare(tensors, dtype, path)
    pairs(ready, str(path))
    texts = {str(key): str(value) for key, value in metadata.items()}
    training = {key: value for key, value in texts.items() if key.startswith("ss_")}
    with atomic_path(path) as temporary:
        try:
            # the hash rule is about the file with ss_* metadata alone: write that one first and read
            # it back in blocks, rather than holding a second copy of the tensors in memory
            save_file(ready, str(temporary), metadata=training)
            texts["sshs_model_hash"] = model_hash(temporary)
            texts["sshs_legacy_hash"] = legacy_hash(temporary)
            texts["modelspec.hash_sha256"] = "0x" + texts["sshs_model_hash"]
            save_file(ready, str(temporary), metadata=texts)
        except SafetensorError as error:
            raise _as_os_error(error) from error
    return texts


def _prepare(tensors: Mapping[str, torch.Tensor], dtype: str | None, path: Path) -> dict[str, torch.Tensor]:
    import torch

    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    _check_numbers(tensors, f"{path} not written")
    ready, storages = {}, set()
    for key, value in tensors.items():
        value = value.detach().to("cpu")
        if dtype is not None and not key.endswith(ALPHA):
            value = value.to(kinds[dtype])
        value = value.contiguous()
        # safetensors refuses tensors that share memory or are a part of a larger one
        place = value.untyped_storage().data_ptr()
        if place in storages or value.untyped_storage().nbytes() != value.numel() * value.element_size():
            value = value.clone()
        storages.add(value.untyped_storage().data_ptr())
        ready[key] = value
    if dtype is not None:
        _check_numbers(ready, f"{path} not written, values too large for {dtype}")
    return ready


def _as_os_error(error: Exception) -> OSError:
    """safetensors reports a full disk as text alone: make it the error that atomic_path explains."""
    found = re.search(r"os error (\d+)", str(error))
    return OSError(int(found[1]), _one_line(error)) if found else OSError(_one_line(error))


def _check_numbers(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    import torch

    for key, value in tensors.items():
        if not value.is_floating_point():
            # IA3's mark is a truth value
            if key.endswith((ALPHA, ".on_input")):
                continue
            raise LoraFileError(f"{where}: {key} is {value.dtype}, expected floating point numbers")
        numbers = value.float() if value.element_size() == 1 else value
        bad = int((~torch.isfinite(numbers)).sum())
        if bad:
            raise LoraFileError(
                f"{where}: {key} has {bad} NaN or infinite values out of {value.numel()}; "
                "the training diverged, lower the learning rate or take an earlier checkpoint"
            )


def context_width(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Width of the text states that the cross-attention reads, None when no such layer is there."""
    for key, shape in shapes.items():
        if _CROSS_ATTENTION.search(key) and len(shape) >= 2:
            return int(shape[1])
    return None


def detect_family(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> str:
    """``sd1``, ``sd2``, ``sdxl`` or ``unknown``, from facts before claims.

    The width of the cross-attention decides (768, 1024, 2048); models of other widths, and files
    without that layer, are read from the metadata, then by SDXL's way of naming.
    """
    by_width = CONTEXT_WIDTHS.get(context_width(shapes) or 0)
    if by_width is not None:
        return by_width
    claimed = family_of(metadata)
    if claimed is not None:
        return claimed
    sdxl = ("lora_te1_", "lora_te2_", "text_encoder_2.", "lora_unet_input_blocks_", "lora_unet_output_blocks_")
    return "sdxl" if any(key.startswith(sdxl) for key in shapes) else "unknown"


def _read_header(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise LoraFileError(f"{path} is a folder; name a .safetensors file")
        with open(path, "rb") as file:
            start = file.read(8)
            if size == 0:
                raise LoraFileError(f"{path} is empty (0 bytes); copy or save it again")
            length = int.from_bytes(start, "little")
            raw = file.read(min(length, _LARGEST_HEADER))
            # by its bytes alone a header of 0x..80 bytes starts like a pickle: only what is none of ours is looked at
            if not raw.startswith(b"{"):
                _refuse_pickle(start, path)
            if size < 8 or length > min(size - 8, _LARGEST_HEADER):
                raise LoraFileError(
                    f"{path} is truncated or not safetensors: its header should have {length} bytes, "
                    f"the file has {size}; copy or save it again"
                )
    except FileNotFoundError:
        raise LoraFileError(f"{path} is missing; check the name") from None
    except OSError as error:
        raise LoraFileError(f"{path} cannot be read: {error.strerror}") from None
    try:
        header = json.loads(raw)
        needed = max((e["data_offsets"][1] for k, e in header.items() if k != "__metadata__"), default=0)
        for key, entry in header.items():
            if key != "__metadata__" and not all(isinstance(side, int) for side in entry["shape"]):
                raise TypeError(key)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise LoraFileError(f"{path}: its header is not that of a safetensors file; copy or save it again") from None
    if 8 + length + needed != size:
        raise LoraFileError(
            f"{path} is truncated or damaged: {size} bytes, expected {8 + length + needed}; copy or save it again"
        )
    return dict(header)


def _refuse_pickle(start: bytes, path: Path) -> None:
    if start.startswith(b"PK") or start[:1] == b"\x80":
        raise LoraFileError(
            f"{path} is a pickle (PyTorch .pt/.ckpt), not safetensors; pickles can run code and are never loaded, "
            "convert it to safetensors first"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
