"""Pixels of any kind as sRGB: colour profiles, more than 8 bits, transparency.

A file says in which colours its numbers are meant: by an ICC profile, or by PNG's gAMA chunk. A viewer converts them,
so a program that takes the numbers as sRGB sees other colours than the person who chose the pictures: a phone's
Display P3 and a camera's Adobe RGB look dull.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

WHITE = (255, 255, 255, 255)
# steps of a grid of colours on which a profile is tried: one that moves none of them by more than a level is sRGB
_STEPS = (0, 64, 128, 192, 255)
_PLAIN_GAMMA = 1 / 2.2
_INTEROPERABILITY, _ADOBE = 0xA005, "R03"


class Unreadable(ValueError):
    """The values of the picture have no known meaning. The message goes between the path and the end of the line."""


def bits_of(image: Image.Image) -> int:
    """Bits a channel in the file; asked before the pixels are loaded, because Pillow forgets it then."""
    tiles = getattr(image, "tile", None)
    raw = str(tiles[0][3]) if tiles else ""
    return 32 if "32" in raw else 16 if "16" in raw else 8


def to_srgb(image: Image.Image, bits: int = 8) -> tuple[Image.Image, list[str]]:
    """The picture as RGB in sRGB, transparency laid over white.

    Args:
        image: loaded, of any mode. Its profile is in ``info["icc_profile"]``.
        bits: :func:`bits_of` the file.

    Returns:
        An RGB picture, and notes: what the file says of its colours and could not be followed.

    Raises:
        Unreadable: floating-point or 32-bit values of no known range.
    """
    notes: list[str] = []
    profile = image.info.get("icc_profile")
    gamma = image.info.get("gamma")
    image, alpha = _eight_bits(image, bits)
    if image.mode == "LAB" and not profile:
        image = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), _srgb(), outputMode="RGB") or image
    elif image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    if profile:
        image, note = _managed(image, profile)
        notes += [note] if note else []
    elif isinstance(gamma, float) and gamma > 0 and "srgb" not in image.info and abs(gamma / _PLAIN_GAMMA - 1) > 0.05:
        # PNG 13.13: the samples are light ** gamma; a screen shows values ** 2.2
        table = [round(255 * (value / 255) ** (_PLAIN_GAMMA / gamma)) for value in range(256)]
        image = image.convert("RGB").point(table * 3)
    elif image.mode == "CMYK":
        notes.append("it is CMYK without a colour profile, so its colours are estimated")
    elif _says_adobe(image):
        notes.append("it says Adobe RGB but has no colour profile, so its colours are taken as sRGB")
    image = image.convert("RGB")
    if alpha is not None:
        layer = image.copy()
        layer.putalpha(alpha)
        image = Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")
    return image, notes


def _says_adobe(image: Image.Image) -> bool:
    """DCF's optional colour space: a camera in Adobe RGB mode writes the index R03 and often no profile."""
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):
        return False
    found = Image.Exif()
    try:
        found.load(exif)
        return str(found.get_ifd(_INTEROPERABILITY).get(1, "")).strip("\0 ") == _ADOBE
    except Exception:  # a broken EXIF block raises what its bytes lead to
        return False


def _eight_bits(image: Image.Image, bits: int) -> tuple[Image.Image, Image.Image | None]:
    """Colour with 8 bits a channel, and its transparency (L) where there is some."""
    info = image.info
    clear = info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I"):
        grey, alpha = _grey(image, bits, clear)
        grey.info = {key: value for key, value in info.items() if key != "transparency"}
        return grey, alpha
    if bits == 16 and clear is not None:
        # Pillow keeps the upper byte of each sample, but tRNS as 16-bit values
        clear = tuple(value >> 8 for value in clear) if isinstance(clear, tuple) else clear
        clear = clear >> 8 if isinstance(clear, int) and image.mode == "L" else clear
        image.info["transparency"] = clear
    alpha = None
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or clear is not None:
        layer = image.convert("RGBA")
        alpha = layer.getchannel("A")
        # a grey picture stays grey: its profile may be one for grey
        image = layer.convert("RGB").convert("L") if image.mode in ("L", "LA", "La") else layer.convert("RGB")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.info is not info:
        image.info = {key: value for key, value in info.items() if key != "transparency"}
    return image, alpha


def _grey(image: Image.Image, bits: int, clear: Any) -> tuple[Image.Image, Image.Image | None]:
    """Grey of 16 bits or floating point as 8 bits. Pillow's own conversion clips at 255 instead of scaling."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise Unreadable("has values that are no numbers (NaN or infinite)")
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if low < 0 or not (high <= 1.0 or 128 <= high <= 255):
            raise Unreadable(f"has floating-point values from {low:.4g} to {high:.4g} of no known range")
        eight = np.rint(values * 255) if high <= 1.0 else np.rint(values)
    else:
        if low < 0 or high > 65535 or (bits == 32 and image.format != "PNG"):
            raise Unreadable(f"has 32-bit values from {low:.0f} to {high:.0f} of no known range")
        eight = np.floor(values / 256)
    alpha = None
    if isinstance(clear, (int, float)):
        alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    return Image.fromarray(eight.astype(np.uint8)), alpha


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _managed(image: Image.Image, data: bytes) -> tuple[Image.Image, str]:
    """The picture by its profile, or as it is and why."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        space = str(profile.profile.xcolor_space).strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}.get(space)
        if mode == "RGB" and image.mode == "L":
            # some programs leave the RGB profile on a picture that they made grey
            image = image.convert("RGB")
        if mode == "L" and image.mode == "RGB" and _is_grey(image):
            image = image.convert("L")
        if mode != image.mode:
            return image, f"its colour profile is for {space or '?'}, so it is not followed"
        transform = ImageCms.buildTransform(profile, _srgb(), mode, "RGB")
        if mode == "RGB" and _changes_nothing(transform):
            return image, ""
        found = ImageCms.applyTransform(image, transform)
    except ImportError:
        return image, "its colour profile cannot be followed"
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return image, "its colour profile is broken, so its colours are taken as sRGB"
    return (image, "its colour profile cannot be followed") if found is None else (found, "")


def _is_grey(image: Image.Image) -> bool:
    values = np.asarray(image)
    return bool((values == values[..., :1]).all())


def _changes_nothing(transform: Any) -> bool:
    grid = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS), -1).reshape(1, -1, 3).astype(np.uint8)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform))
    return int(np.abs(moved.astype(int) - grid.astype(int)).max()) <= 1
