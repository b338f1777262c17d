"""LoRA files as the checkpoints of a run: their order, their steps, their metadata."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_eval.errors import LoraFileError
from lora_eval.files import file_sha256


@dataclass(frozen=True)
class PlannedLora:
    """One checkpoint of a LoRA.

    Attributes:
        series: the LoRA that it is a checkpoint of: the name without its step.
        name: the file's stem: what users write in ``<lora:name:weight>``.
        path, sha256: the file and the SHA-256 of its bytes.
        step: optimiser steps, None where neither metadata nor name tell.
    """

    series: str
    name: str
    path: str
    sha256: str
    step: int | None = None

    @property
    def key(self) -> str:
        """File-name-safe and unique by content."""
        return f"{slug(self.name)}-{self.sha256[:6]}"


def read_loras(paths: Sequence[Path | str]) -> tuple[tuple[PlannedLora, ...], dict[str, str]]:
    """The checkpoints by step, then name, and the metadata of the last one.

    Raises:
        LoraFileError: none given, missing, not safetensors, or two files of one name.
    """
    if not paths:
        raise LoraFileError("no LoRA was given; name at least one .safetensors file")
    found: list[tuple[PlannedLora, dict[str, str]]] = []
    for path in dict.fromkeys(Path(path).resolve() for path in paths):
        metadata = _metadata(path)
        step = _step(path.stem, metadata)
        found.append(
            (PlannedLora(_series(path.stem, metadata), path.stem, str(path), file_sha256(path), step), metadata)
        )
    by_name: dict[str, PlannedLora] = {}
    for lora, _ in found:
        earlier = by_name.setdefault(lora.name, lora)
        if earlier is not lora:
            # both WebUIs cache LoRAs by name: the second would be drawn with the first one's tensors
            raise LoraFileError(f"{lora.path} and {earlier.path} share the name {lora.name}; rename one of them")
    found.sort(key=lambda pair: (pair[0].step is None, pair[0].step or 0, pair[0].name))
    return tuple(lora for lora, _ in found), found[-1][1]


def slug(text: str, length: int = 48) -> str:
    """Letters, digits, ``-`` and ``.`` only; other characters become ``-``.

    >>> slug("my fox (v2)")
    'my-fox-v2'
    """
    return (
        re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:length] or "x" + hashlib.sha256(text.encode()).hexdigest()[:6]
    )


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise LoraFileError(f"{path} is missing; give the path of a .safetensors file")
    try:
        with safe_open(str(path), framework="np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise LoraFileError(f"{path} is not a safetensors file ({error}); only safetensors is loaded") from None


def _series(stem: str, metadata: dict[str, str]) -> str:
    """The name that the training gave, where the file still bears it; else the stem without its step."""
    given = metadata.get("ss_output_name", "")
    # a name may itself end in a number (a date): only the file can tell
    if given and re.fullmatch(re.escape(given) + r"([-_](?:step)?\d+)?", stem):
        return given
    return re.sub(r"[-_](?:step)?\d+$", "", stem)


def _step(stem: str, metadata: dict[str, str]) -> int | None:
    if metadata.get("ss_steps", "").isdigit():
        return int(metadata["ss_steps"])
    # sd-scripts writes "-step00000500"; a bare "-000010" is an epoch there, not a step
    match = re.search(r"step[-_]?0*(\d+)$", stem, re.IGNORECASE)
    return int(match.group(1)) if match else None
