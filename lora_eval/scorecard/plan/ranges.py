"""Lists of numbers in the X/Y/Z plot's own syntax.

========================  =======================================
``1-5``                   1, 2, 3, 4, 5
``0-1(+0.2)``             0, 0.2, 0.4, 0.6, 0.8, 1
``10-5(-3)``              10, 7
``0-1 [6]``               six numbers from 0 to 1, both ends included
``0.4, 0.6, 0.9``         a list, each part of which may be a range
========================  =======================================

The regular expressions of the WebUI's ``scripts/xyz_grid.py`` set the syntax. Unlike there, numbers
are exact decimals (0.3, never 0.30000000000000004) and a stepped range never passes its end.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

from lora_eval.errors import ConfigError

EXAMPLE = 'for example "0-1.2 [7]", "0-1(+0.2)", "1-5" or "0.4, 0.6, 0.9"'
MAX_VALUES = 1000
PLACES = 4
"""Decimals kept where a count does not divide the range evenly: ``0-1 [4]`` has 0.3333."""

_NUMBER = r"[+-]?\s*(?:\d+(?:\.\d*)?|\.\d+)"
_SINGLE = re.compile(rf"\s*({_NUMBER})\s*")
_RANGE = re.compile(
    rf"\s*({_NUMBER})\s*-\s*({_NUMBER})\s*(?:\(\s*([+-]\s*(?:\d+(?:\.\d*)?|\.\d+))\s*\)|\[\s*(\d+)\s*\])?\s*"
)


def parse_range(text: str, what: str = "range") -> list[float]:
    """The numbers that ``text`` stands for, in its order, each once.

    Args:
        text: see the module's table.
        what: what the numbers are, for the error's line (``weights``, ``seeds``).

    Raises:
        ConfigError: empty, not a number, a step that leads away from the end, or more than
            ``MAX_VALUES`` numbers; with an example.

    >>> parse_range("0-1.2 [7]")
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]
    >>> parse_range("0-1(+0.5), 1.2")
    [0.0, 0.5, 1.0, 1.2]
    """
    values: dict[Fraction, None] = {}
    if not str(text).strip():
        raise ConfigError(f"{what} is empty; write it as {EXAMPLE}")
    for part in str(text).split(","):
        for value in _parse_part(part, what):
            values[value] = None
        if len(values) > MAX_VALUES:
            raise ConfigError(f'{what} "{text}" has more than {MAX_VALUES} numbers; use a larger step')
    return [_to_float(value) for value in values]


def parse_int_range(text: str, what: str = "range") -> list[int]:
    """As :func:`parse_range` for whole numbers. Raises ConfigError for a fraction."""
    values = parse_range(text, what)
    for value in values:
        if value != int(value):
            raise ConfigError(f'{what} "{text}" holds {value:g}, not a whole number; write it as "1-5" or "1, 2"')
    return [int(value) for value in values]


def parse_count(text: str | int, what: str, least: int = 1) -> int | list[int]:
    """How many (one number) or which (a range or list) of something: ``4``, ``1-4``, ``1, 3``.

    Args:
        least: the smallest number that may be named.

    Raises:
        ConfigError: neither, or a number below ``least``; with an example.
    """
    words = str(text).strip()
    if words.isdigit() and 1 <= int(words) <= MAX_VALUES:
        return int(words)
    if words.isdigit() or not any(mark in words for mark in "-,["):
        raise ConfigError(f"{what} is {words!r}; write how many (1 to {MAX_VALUES}) or which (1-5)")
    return parse_places(words, what, least)


def parse_places(text: str, what: str, least: int = 1) -> list[int]:
    """Which of something, each a whole number from ``least`` up. Raises ConfigError."""
    found = parse_int_range(text, what)
    if min(found) < least:
        raise ConfigError(f"{what} are {text!r}; write numbers from {least} up, for example 1-5 or 1, 3")
    return found


def format_number(value: float) -> str:
    """Shortest exact decimal form: ``0.3``, ``1``, ``-0.25``."""
    number = Decimal(repr(float(value)))
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _parse_part(part: str, what: str) -> list[Fraction]:
    """One comma-free part."""
    if single := _SINGLE.fullmatch(part):
        return [_fraction(single.group(1))]
    match = _RANGE.fullmatch(part)
    if match is None:
        raise ConfigError(f'{what} "{part.strip()}" is not understood; write it as {EXAMPLE}')
    start, end = _fraction(match.group(1)), _fraction(match.group(2))
    if match.group(4) is not None:
        return _counted(start, end, int(match.group(4)), part.strip(), what)
    default = Fraction(1) if end >= start else Fraction(-1)
    step = _fraction(match.group(3)) if match.group(3) else default
    if step == 0 or (end - start) / step < 0:
        raise ConfigError(f'{what} "{part.strip()}" has a step that never reaches its end; write it as {EXAMPLE}')
    count = int((end - start) / step) + 1
    _limit(count, part.strip(), what)
    return [start + step * k for k in range(count)]


def _counted(start: Fraction, end: Fraction, count: int, part: str, what: str) -> list[Fraction]:
    """``count`` evenly spaced numbers, rounded to PLACES where they do not end."""
    if count < 1:
        raise ConfigError(f'{what} "{part}" asks for no numbers; write at least [1]')
    _limit(count, part, what)
    if count == 1:
        return [start]
    return [_rounded(start + (end - start) * Fraction(k, count - 1)) for k in range(count)]


def _limit(count: int, part: str, what: str) -> None:
    if count > MAX_VALUES:
        raise ConfigError(f'{what} "{part}" has {count} numbers, more than {MAX_VALUES}; use a larger step')


def _fraction(text: str) -> Fraction:
    return Fraction(Decimal(re.sub(r"\s+", "", text)))


def _rounded(value: Fraction) -> Fraction:
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    return Fraction(exact.quantize(Decimal(1).scaleb(-PLACES), rounding=ROUND_HALF_EVEN))


def _to_float(value: Fraction) -> float:
    """Nearest float: its repr is the decimal that was written. Never -0.0."""
    return value.numerator / value.denominator if value else 0.0
