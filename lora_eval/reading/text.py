"""The text of a file: UTF-8, or UTF-16 and UTF-32 where the file says so itself by a byte order mark."""

from __future__ import annotations

import codecs
from pathlib import Path

# the mark of UTF-32 begins with that of UTF-16, so it is looked for first
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class NotText(ValueError):
    """The bytes are no text in a known encoding.

    Attributes:
        encoding: the one that was tried: "UTF-8" where the file has no byte order mark.
        byte: 0-based place of the first byte that does not fit.
    """

    def __init__(self, encoding: str, byte: int) -> None:
        super().__init__(f"not {encoding} (byte {byte})")
        self.encoding, self.byte = encoding, byte


def decode(data: bytes) -> str:
    """The text of ``data``, without its byte order mark; line ends stay as they are.

    Raises:
        NotText: neither UTF-8 nor marked as UTF-16 or UTF-32. No other encoding is guessed: GBK, Shift-JIS and
            Latin-1 accept almost any bytes, so a wrong guess gives a wrong text and no error.
    """
    mark, encoding = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        raise NotText(name, len(mark) + error.start) from None
    if "\0" in text:
        # UTF-16 without its mark decodes as UTF-8 with a zero after each letter
        raise NotText("UTF-8", len(mark) + len(text[: text.index("\0")].encode()))
    return text


def read_text(path: Path | str) -> str:
    """The text of a file, see :func:`decode`. Raises NotText and OSError."""
    return decode(Path(path).read_bytes())
