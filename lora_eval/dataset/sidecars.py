"""Captions beside pictures: ``fox.txt``, ``fox.caption``, ``fox.png.txt``, in any usual letter case."""

from __future__ import annotations

from pathlib import Path

from lora_eval.errors import DatasetError
from lora_eval.reading.text import NotText, read_text

SIDECARS = (".txt", ".caption")


def sidecars_of(picture: Path, extension: str = "") -> list[Path]:
    """The caption files beside a picture, the one that is read first.

    Args:
        extension: read only files of this ending (``.caption`` or ``caption``); "" is .txt before .caption.
    """
    plain = extension.strip().lstrip(".")
    endings = (f".{plain}",) if plain else SIDECARS
    found: list[Path] = []
    for ending in endings:
        for spelling in dict.fromkeys((ending, ending.lower(), ending.upper(), f".{ending[1:].capitalize()}")):
            for path in (picture.with_suffix(spelling), picture.with_name(picture.name + spelling)):
                # a file system without letter case shows one file under several names
                if path.is_file() and not any(path.samefile(other) for other in found):
                    found.append(path)
    return found


def caption_in(path: Path) -> str:
    """The text of a caption file, lines joined by spaces. Raises DatasetError when it is not text."""
    try:
        return " ".join(read_text(path).split())
    except NotText as error:
        raise DatasetError(f"{path} is not {error.encoding} (byte {error.byte}); save it again as UTF-8") from None


def read_sidecar(picture: Path, extension: str = "") -> str | None:
    """Caption beside a picture; None where there is no caption file. Raises DatasetError when it is not text."""
    found = sidecars_of(picture, extension)
    return caption_in(found[0]) if found else None
