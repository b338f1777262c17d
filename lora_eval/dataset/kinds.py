"""Kinds of picture files: which are read, which need a package, which are none."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from PIL import Image

ALWAYS = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
# ending -> (package to install, module that makes Pillow read it)
PLUGINS = {
    ".avif": ("pillow-avif-plugin", "pillow_avif"),
    ".heic": ("pillow-heif", "pillow_heif"),
    ".heif": ("pillow-heif", "pillow_heif"),
    ".hif": ("pillow-heif", "pillow_heif"),
    ".jxl": ("pillow-jxl-plugin", "pillow_jxl"),
}
# pictures and films that are never read: a person may believe that they are trained on
OTHERS = frozenset({
    ".apng", ".arw", ".cr2", ".cr3", ".dng", ".exr", ".hdr", ".ico", ".jp2", ".jpe", ".jpf", ".jps", ".jpx", ".kra",
    ".nef", ".orf", ".pcx", ".pbm", ".pgm", ".pnm", ".ppm", ".psb", ".psd", ".raf", ".raw", ".rw2", ".svg", ".svgz",
    ".tga", ".xcf", ".avi", ".gifv", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm", ".wmv", ".mpo",
})  # fmt: skip


@cache
def readable(ending: str) -> bool:
    """Whether Pillow, with the packages that are installed, reads files of this ending (lower case, with its dot)."""
    if ending in ALWAYS:
        return True
    if ending not in PLUGINS:
        return False
    try:
        module = importlib.import_module(PLUGINS[ending][1])
        if hasattr(module, "register_heif_opener"):
            module.register_heif_opener()
        return True
    except Exception:  # an absent package, or one whose library does not load
        Image.init()
        return Image.registered_extensions().get(ending, "") in Image.OPEN


def kind_of(path: Path) -> str:
    """``picture`` (read), ``unread`` (a picture or film that is not read here) or ``other``, by its name."""
    ending = path.suffix.lower()
    if readable(ending):
        return "picture"
    return "unread" if ending in PLUGINS or ending in OTHERS else "other"


def looks_like_picture(path: Path) -> bool:
    """Whether the first bytes are those of a picture, whatever the name says (``photo``, ``photo.jpg_large``)."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return _ending_by(head) != "" or head.startswith(
        (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
    ) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")  # fmt: skip


def package_for(path: Path) -> str:
    """Package that would read the file, by its first bytes (a phone's HEIC is often called .jpg); "" for none."""
    try:
        with open(path, "rb") as file:
            ending = _ending_by(file.read(16))
    except OSError:
        return ""
    return PLUGINS[ending][0] if ending else ""


def _ending_by(head: bytes) -> str:
    if head.startswith(b"\xff\x0a") or head[4:8] == b"JXL ":
        return ".jxl"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"avif", b"avis"):
            return ".avif"
        if brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
            return ".heic"
    return ""
