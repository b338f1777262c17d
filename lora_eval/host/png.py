"""A drawn picture as a PNG file that carries its infotext."""

from __future__ import annotations

from pathlib import Path

from lora_eval.files import atomic_path
from lora_eval.host.protocol import Drawn
from lora_eval.reading.infotext import PNG_KEY


def save_png(path: Path, drawn: Drawn) -> None:
    """Write a picture as PNG with its infotext, atomically. Raises RunError."""
    from PIL.PngImagePlugin import PngInfo

    chunk = PngInfo()
    if drawn.infotext:
        chunk.add_text(PNG_KEY, drawn.infotext)
    with atomic_path(Path(path)) as temporary:
        drawn.image.save(temporary, format="PNG", pnginfo=chunk)
