"""Small pictures: made once, kept in the run's ``thumbs``, embedded in the page within a budget, linked beyond it."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from lora_eval.dataset.images import open_picture
from lora_eval.errors import DatasetError
from lora_eval.files import write_bytes

SIDE = 128
"""Pixels of a picture in a grid; shown at 112."""
LARGE = 224
"""Pixels of a picture that stands alone, such as a reference beside a cell."""
BUDGET = 10_000_000
"""Bytes of embedded pictures (as text); the page then stays below about 12 MB."""
FOLDER = "thumbs"
IMAGES = "images"
_THREADS = 2


class Thumbs:
    """Makes ``src`` attributes. Each picture is embedded once; ``embedded`` and ``linked`` count them."""

    def __init__(self, root: Path, budget: int = BUDGET, side: int = SIDE) -> None:
        self.root = root
        self.left = budget
        self.side = side
        self.embedded = 0
        self.linked = 0
        self._made: dict[tuple[str, int], str] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def src(self, image: str | Path, side: int | None = None) -> str:
        """Escaped ``src`` of a picture given relative to the run folder, or absolute; "" when unreadable."""
        key = (str(image), side or self.side)
        if key not in self._made:
            self._made[key] = self._make(image, side or self.side)
        return self._made[key]

    def size(self, image: str | Path) -> tuple[int, int]:
        """Width and height that an embedded picture is shown with, so that the page keeps the room for it."""
        return self._sizes.get(str(image), (self.side, self.side))

    def prepare(self, images: Iterable[str]) -> None:
        """Make the small files of many pictures, on both cores."""
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(self._data, dict.fromkeys(images)))

    def _data(self, image: str | Path) -> bytes:
        try:
            return small_bytes(self.root / image, self.root)[0]
        except DatasetError:
            return b""

    def _make(self, image: str | Path, side: int) -> str:
        if side == self.side:
            data = self._data(image)
            if not data:
                return ""
            self._sizes[str(image)] = Image.open(io.BytesIO(data)).size
            uri = _uri(data)
        else:
            try:
                uri = data_uri(open_picture(self.root / image), side)
            except DatasetError:
                return ""
        if len(uri) > self.left:
            self.left = 0
            self.linked += 1
            return href(f"{FOLDER}/{small_name(image)}" if side == self.side else image)
        self.left -= len(uri)
        self.embedded += 1
        return uri


def small_name(image: str | Path) -> str:
    """File name of a picture made small: its own for the run's pictures, one that tells folders apart for others."""
    path = Path(image)
    if path.parent.as_posix() == IMAGES:
        return f"{path.stem}.webp"
    return f"{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}.webp"


def small_bytes(path: Path, root: Path | None = None) -> tuple[bytes, str]:
    """(bytes, media type) of a picture made small, from the run folder's cache where the picture is a run's.

    Args:
        path: the picture. root: the run folder; None: the one that the picture lies in as ``images/NAME``, and no
            cache where it lies elsewhere.

    Raises:
        DatasetError: the picture cannot be read.
        RunError: it cannot be kept.
    """
    if root is None and path.parent.name == IMAGES and (path.parent.parent / "plan.json").is_file():
        root = path.parent.parent
    if root is None:
        return _unkept(str(path), path.stat().st_mtime_ns), _media()
    try:
        relative = path.relative_to(root)
    except ValueError:
        relative = path
    kept = root / FOLDER / small_name(relative)
    try:
        if kept.stat().st_mtime_ns >= path.stat().st_mtime_ns:
            return kept.read_bytes(), _media()
    except OSError:
        pass
    data = _shrink(open_picture(path), SIDE)
    write_bytes(kept, data, flush=False)
    return data, _media()


@lru_cache(maxsize=2000)
def _unkept(path: str, changed: int) -> bytes:
    return _shrink(open_picture(Path(path)), SIDE)


def data_uri(image: Image.Image, side: int = SIDE) -> str:
    """WebP data URI (JPEG where Pillow has no WebP), the longer side at most ``side``."""
    return _uri(_shrink(image, side))


def _shrink(image: Image.Image, side: int) -> bytes:
    small = image.convert("RGB")
    # a picture that is small already is kept as it is: shrinking 64 px hides what should be seen
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP" if _webp() else "JPEG", quality=82 if max(small.size) <= 96 else 70)
    return buffer.getvalue()


def _uri(data: bytes) -> str:
    return f"data:{_media()};base64,{base64.b64encode(data).decode('ascii')}"


def _media() -> str:
    return "image/webp" if _webp() else "image/jpeg"


def href(image: str | Path) -> str:
    """Escaped link to a picture: relative ones as they are, absolute ones as file addresses."""
    text = Path(image).as_posix()
    if Path(image).is_absolute():
        return escape(Path(image).as_uri(), quote=True)
    return escape(quote(text, safe="/."), quote=True)


@lru_cache(maxsize=1)
def _webp() -> bool:
    from PIL import features

    Image.init()
    return bool(features.check("webp"))
