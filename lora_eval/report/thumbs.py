"""Pictures inside the page: small WebP data URIs within a budget, links to the files beyond it."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from lora_eval.dataset.images import open_picture
from lora_eval.errors import DatasetError

SIDE = 160
BUDGET = 8_000_000
"""Bytes of embedded pictures (as text); the page then stays below about 10 MB."""


class Thumbs:
    """Makes ``src`` attributes. Each picture is embedded once; ``embedded`` and ``linked`` count them."""

    def __init__(self, root: Path, budget: int = BUDGET, side: int = SIDE) -> None:
        self.root = root
        self.left = budget
        self.side = side
        self.embedded = 0
        self.linked = 0
        self._made: dict[str, str] = {}

    def src(self, image: str | Path) -> str:
        """Escaped ``src`` of a picture given relative to the run folder, or absolute; "" when unreadable."""
        key = str(image)
        if key not in self._made:
            self._made[key] = self._make(image)
        return self._made[key]

    def _make(self, image: str | Path) -> str:
        path = self.root / image
        if self.left <= 0:
            self.linked += 1
            return href(image)
        try:
            picture = open_picture(path)
        except DatasetError:
            return ""
        uri = data_uri(picture, self.side)
        self.left -= len(uri)
        self.embedded += 1
        return uri


def data_uri(image: Image.Image, side: int = SIDE) -> str:
    """WebP data URI (JPEG where Pillow has no WebP), the longer side at most ``side``."""
    small = image.convert("RGB")
    # a picture that is small already is kept as it is: shrinking 64 px hides what should be seen
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    kind = "WEBP" if "WEBP" in Image.SAVE or _webp() else "JPEG"
    small.save(buffer, kind, quality=82 if max(small.size) <= 96 else 72)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def href(image: str | Path) -> str:
    """Escaped link to a picture: relative ones as they are, absolute ones as file addresses."""
    text = Path(image).as_posix()
    if Path(image).is_absolute():
        return escape(Path(image).as_uri(), quote=True)
    return escape(quote(text, safe="/."), quote=True)


def _webp() -> bool:
    from PIL import features

    Image.init()
    return bool(features.check("webp"))
