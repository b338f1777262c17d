"""Pictures inside the page as data URIs: they show wherever they lie on the disk, in every gradio, behind any login.

A thumbnail carries a key; the page asks for the whole picture by it, so no path ever comes from the page.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from functools import lru_cache
from html import escape
from pathlib import Path

from lora_eval.errors import LoraEvalError
from lora_eval.service import served_files as served

SIDE = 144
SERVED = 72
_MOST = 20_000
_keys: OrderedDict[str, Path] = OrderedDict()


def thumb(path: Path, words: str = "") -> str:
    """An ``<img>`` of the picture, made small once; words where it cannot be read."""
    try:
        source = _small(str(path), path.stat().st_mtime_ns)
    except (OSError, LoraEvalError):
        return f'<span class="lora-eval-noimage">{escape(path.name)}</span>'
    key = hashlib.sha256(str(path).encode()).hexdigest()[:20]
    _keys[key] = path
    _keys.move_to_end(key)
    while len(_keys) > _MOST:
        _keys.popitem(last=False)
    about = escape(words or path.name, quote=True)
    data = f'data-le-picture="{key}" data-le-words="{about}"'
    return f'<img src="{source}" alt="{about}" loading="lazy" tabindex="0" {data}>'


def served_thumb(path: Path, words: str = "") -> str:
    """The same, fetched from the server when it comes into sight; for what may be many. Its room is kept for it."""
    about = escape(words or path.name, quote=True)
    whole = escape(served.whole(path), quote=True)
    return (
        f'<img src="{escape(served.small(path), quote=True)}" alt="{about}" loading="lazy" decoding="async" '
        f'width="{SERVED}" height="{SERVED}" tabindex="0" data-le-picture="" data-le-whole="{whole}" '
        f'data-le-words="{about}">'
    )


@lru_cache(maxsize=4000)
def _small(path: str, changed: int) -> str:
    from lora_eval.dataset.images import open_picture
    from lora_eval.report.thumbs import data_uri

    return data_uri(open_picture(Path(path)), SIDE)


def whole(key: str) -> str:
    """The whole picture behind a thumbnail as a data URI; "" for an unknown key or an unreadable file."""
    path = _keys.get(key)
    if path is None:
        return ""
    try:
        if path.suffix.lower() in (".png", ".webp"):
            kind = path.suffix.lower().strip(".")
            return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
        from lora_eval.dataset.images import open_picture
        from lora_eval.report.thumbs import data_uri

        return data_uri(open_picture(path), 2048)
    except (OSError, LoraEvalError):
        return ""
