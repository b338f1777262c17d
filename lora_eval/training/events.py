"""Scalars of TensorBoard event files, read without TensorBoard.

Neither host ships it. A TFRecord file is a row of ``length (u64), masked CRC-32C of it, data, masked
CRC-32C of that``, each record one ``Event`` message of ``tensorflow/core/util/event.proto``, of which
only scalars are looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from lora_eval.errors import RunError


def read_scalars(path: Path) -> Iterator[tuple[str, int, float]]:
    """Every scalar of a TensorBoard event file as (tag, step, value), in the order written.

    Reads both ``simple_value`` (TF1, tensorboardX, torch) and scalar tensors (TF2). A record cut off
    at the end of the file, as a running or killed training leaves it, ends the reading quietly.

    Raises:
        RunError: the file cannot be read or a checksum in the middle does not fit.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        (check,) = struct.unpack_from("<I", data, at + 8)
        if check != _masked_crc(data[at : at + 8]):
            raise RunError(f"{path} is not a TensorBoard event file or is damaged at byte {at}; copy it again")
        if at + 16 + length > len(data):
            return
        record = data[at + 12 : at + 12 + length]
        yield from _event(record, path)
        at += 16 + length


def _event(record: bytes, path: Path) -> Iterator[tuple[str, int, float]]:
    """Event: 2 step (varint), 5 summary; Summary: 1 value; Value: 1 tag, 2 simple_value, 8 tensor."""
    step, summaries = 0, []
    try:
        for number, value in _fields(record):
            if number == 2 and isinstance(value, int):
                step = value - (1 << 64) if value >= 1 << 63 else value
            elif number == 5 and isinstance(value, bytes):
                summaries.append(value)
        for summary in summaries:
            for number, value in _fields(summary):
                if number != 1 or not isinstance(value, bytes):
                    continue
                tag, scalar = "", None
                for inner, content in _fields(value):
                    if inner == 1 and isinstance(content, bytes):
                        tag = content.decode("utf-8", errors="replace")
                    elif inner == 2 and isinstance(content, bytes):
                        scalar = struct.unpack("<f", content)[0]
                    elif inner == 8 and isinstance(content, bytes):
                        scalar = _tensor_scalar(content)
                if scalar is not None:
                    yield tag, step, float(scalar)
    except (IndexError, struct.error):
        raise RunError(f"{path} holds a record that is no TensorBoard event; copy it again") from None


def _tensor_scalar(tensor: bytes) -> float | None:
    """A TensorProto that holds one float (dtype 1) or double (dtype 2), else None."""
    kind, raw, listed, dims = 0, b"", b"", 1
    for number, value in _fields(tensor):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2 and isinstance(value, bytes):
            for _, dim in _fields(value):
                if isinstance(dim, bytes):
                    for inner, size in _fields(dim):
                        dims *= size if inner == 1 and isinstance(size, int) else 1
        elif number == 4 and isinstance(value, bytes):
            raw = value
        elif number in (5, 6) and isinstance(value, bytes):
            listed = value
    content, form = raw or listed, {1: "<f", 2: "<d"}.get(kind)
    if form is None or dims != 1 or len(content) != struct.calcsize(form):
        return None
    return float(struct.unpack(form, content)[0])


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Protobuf wire format: (field number, varint as int, everything else as its bytes)."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
        else:
            if kind == 2:
                size, at = _varint(message, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise struct.error(f"wire type {kind}")
            if at + size > len(message):
                raise struct.error("cut off")
            yield key >> 3, message[at : at + size]
            at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def _crc_table() -> list[int]:
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_TABLE = _crc_table()


def _masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and offset as TFRecord does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
