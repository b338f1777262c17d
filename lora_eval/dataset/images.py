"""Opening one picture the way a person sees it. Every picture that is read goes through :func:`open_picture`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lora_eval.dataset.colour import Unreadable, bits_of, to_srgb
from lora_eval.dataset.kinds import package_for
from lora_eval.errors import DatasetError
from lora_eval.log import logger

MAX_PIXELS = 100_000_000
MIN_SIDE = 16


def open_picture(path: Path | str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture as RGB in sRGB, see :func:`read_picture`; its notes are logged. Raises DatasetError."""
    image, notes = read_picture(path, max_pixels)
    for note in notes:
        logger.warning("%s: %s", path, note)
    return image


def read_picture(path: Path | str, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, list[str]]:
    """Read a picture: turned by its EXIF flag, colours in sRGB, transparency laid over white, first frame only.

    Args:
        path: the file.
        max_pixels: larger pictures are refused before they are unpacked (a decompression bomb of a few
            kilobytes can ask for many gigabytes).

    Returns:
        The RGB picture, and what the file says of its colours and could not be followed (usually nothing).

    Raises:
        DatasetError: missing, empty, unreadable, truncated, too small (under 16 px) or too large.
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise DatasetError(f"{path} is empty (0 bytes); copy it again or remove it")
        with Image.open(path) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _too_large(path, f"{width} x {height}", max_pixels)
            if min(width, height) < MIN_SIDE:
                raise DatasetError(
                    f"{path} is {width} x {height} pixels; use pictures of at least {MIN_SIDE} pixels a side"
                )
            bits = bits_of(image)
            image.load()
            info = dict(image.info)
            turned = ImageOps.exif_transpose(image) or image
            turned.info = {**info, **turned.info}
            return to_srgb(turned, bits)
    except Unreadable as error:
        raise DatasetError(f"{path}: it {error}; save it as an 8-bit or 16-bit PNG") from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, "too many", max_pixels) from error
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist; correct the name or remove it from the table") from error
    except UnidentifiedImageError as error:
        needed = package_for(path)
        if needed:
            raise DatasetError(
                f"{path} needs the package {needed}; install it, or convert the picture to PNG"
            ) from error
        raise DatasetError(f"{path} is not a picture that can be read; convert it to PNG or remove it") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        # Pillow reports broken files of different formats by all of these
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DatasetError(f"{path} cannot be read ({reason}); save it again or remove it") from error


def _too_large(path: Path, size: str, limit: int) -> DatasetError:
    return DatasetError(f"{path} has {size} pixels, more than {limit // 1_000_000} million; scale it down")


def to_grey(image: Image.Image, side: int) -> np.ndarray:
    """(side, side) float32 in [0, 1]: the picture squeezed to a square of grey values."""
    small = image.convert("L").resize((side, side), Image.Resampling.BOX if side < 64 else Image.Resampling.BICUBIC)
    return np.asarray(small, dtype=np.float32) / 255.0
