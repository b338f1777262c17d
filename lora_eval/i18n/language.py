"""What is said, in the reader's language.

Numbers, tables and JSON are written in English and stay so; what a person reads is translated when it is shown. The
package's sentences are put together from templates with holes, so a sentence is translated by finding the templates
that it is made of: among all ways to lay them end to end, the one that leaves the fewest characters to the holes
(dynamic programming over the text, as in Viterbi, IEEE Trans. Inf. Theory 13, 1967). A sentence read back from
``scorecard.json`` is thus translated like one that was just made, and what is no sentence of ours (a LoRA's name, a
prompt) stays as it is.

A catalogue is ``assets/languages/NAME.json``: English template -> translation, holes as ``{0}``, ``{1}``. Errors and
other lines that name settings, files and values have one of their own, ``assets/languages/errors/NAME.json``: a word in
their holes is what somebody typed or must type, and stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from lora_eval.errors import ConfigError
from lora_eval.files import ASSETS

ENGLISH = "en"
ERRORS = "errors"
FOLDER = ASSETS / "languages"
_HOLE = re.compile(r"\{(\d+)\}")
_NAME = re.compile(r"\S+")
# what a character costs in a hole, outside of every template, and what each further template costs
_IN_HOLE, _OUTSIDE, _TEMPLATE = 1.0, 4.0, 0.5
# an error is of ours as a whole or not at all
_OUTSIDE_AN_ERROR = 100.0
_language: ContextVar[str] = ContextVar("lora_eval_language", default=ENGLISH)


def names() -> list[str]:
    """Languages that can be spoken."""
    return [ENGLISH, *sorted(path.stem for path in FOLDER.glob("*.json"))]


def require(name: str) -> str:
    """The name as it is, if there is such a language. Raises ConfigError."""
    if name not in names():
        raise ConfigError(f'language "{name}" is none of {", ".join(names())}')
    return name


def current() -> str:
    """The language that is spoken."""
    return _language.get()


def html_code() -> str:
    """The same as an HTML ``lang`` attribute has it: ``zh-CN``."""
    return current().replace("_", "-")


@contextmanager
def speak(name: str) -> Iterator[None]:
    """Speak a language inside the block; English where the name is not known."""
    token = _language.set(name if name in names() else ENGLISH)
    try:
        yield
    finally:
        _language.reset(token)


def t(template: str, *values: Any) -> str:
    """A text of the program, its holes ``{0}``, ``{1}``, ... filled in."""
    words = _catalogue(current()).get(template, template)
    return words.format(*values) if values else words


def said(sentence: str) -> str:
    """A sentence that the program made from its templates; anything else comes back as it is."""
    if current() == ENGLISH or not sentence:
        return sentence
    return _said(current(), sentence)


def localized(line: str) -> str:
    """An error or a note in one line, as :func:`said`; the names and values in it stay as they are."""
    if current() == ENGLISH or not line:
        return line
    return _said(f"{ERRORS}/{current()}", line)


@lru_cache(maxsize=16)
def _catalogue(name: str) -> dict[str, str]:
    if name == ENGLISH:
        return {}
    path = FOLDER / f"{name}.json"
    known = dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    if not name.startswith(ERRORS):
        return known
    # an error may quote a sentence of the scorecard, a reason for example; "{0} and {1}" is none
    quoted = {template: words for template, words in _catalogue(path.stem).items() if not template.startswith("{")}
    return {**quoted, **known}


@lru_cache(maxsize=8192)
def _said(name: str, sentence: str) -> str:
    known = _catalogue(name).get(sentence)
    if known is not None:
        return known
    pieces = _pieces(name, sentence)
    if name.startswith(ERRORS) and any(isinstance(piece, str) and piece.isalpha() for piece in pieces):
        # half an error in each language would help nobody to look it up
        return sentence
    made = "".join(_piece(name, piece) for piece in pieces)
    # templates end where another may follow: the full stop is the sentence's own
    return made[:-1] + "。" if made != sentence and made.endswith(".") and not made.isascii() else made


def _piece(name: str, piece: tuple[str, list[str]] | str) -> str:
    if isinstance(piece, str):
        return piece
    template, holes = piece
    filled = [_inside(name, hole) for hole in holes]
    return _HOLE.sub(lambda match: filled[int(match[1])], _catalogue(name)[template])


def _inside(name: str, hole: str) -> str:
    """What stands in a hole: a phrase of ours, a list of them, or a value that stays."""
    known, parts = _catalogue(name), hole.split(", ")
    if name.startswith(ERRORS) and (all(_NAME.fullmatch(part) for part in parts) or hole[:1] in "'\"[("):
        return hole
    if len(parts) > 1 and all(part in known for part in parts):
        return "、".join(known[part] for part in parts)
    return _said(name, hole) if re.search(r"[A-Za-z]{2}", hole) else hole


@lru_cache(maxsize=16)
def _templates(name: str) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """First character -> (template, its literal parts); templates that begin with a hole are under ""."""
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for template in _catalogue(name):
        parts = tuple(_HOLE.split(template)[::2])
        # a lone word is translated where it is all that is said, not inside other text
        if len(parts) == 1 and re.fullmatch(r"[\w-]+", template):
            continue
        # "a fox at night" is no sentence of ours because one has "at" between two holes
        if not parts[0] and len(re.sub(r"[^A-Za-z]", "", "".join(parts))) < 3:
            continue
        found.setdefault(parts[0][:1], []).append((template, parts))
    return found


def _pieces(name: str, text: str) -> list[tuple[str, list[str]] | str]:
    """The cheapest way to lay templates over ``text``: (template, holes), and strings that are none of ours."""
    templates = _templates(name)
    size = len(text)
    outside = _OUTSIDE_AN_ERROR if name.startswith(ERRORS) else _OUTSIDE
    cost = [0.0] + [float("inf")] * size
    back: list[tuple[int, tuple[str, list[str]] | str]] = [(0, "")] * (size + 1)
    for at in range(size):
        # a template that begins with a hole begins the sentence, or follows another one that ended in words
        last = back[at][1]
        loose = templates.get("", ()) if at == 0 or (not isinstance(last, str) and not last[0].endswith("}")) else ()
        if cost[at] + outside < cost[at + 1]:
            cost[at + 1], back[at + 1] = cost[at] + outside, (at, text[at])
        for template, parts in (*templates.get(text[at], ()), *loose):
            for end, holes in _lay(text, at, parts):
                price = cost[at] + _TEMPLATE + _IN_HOLE * sum(map(len, holes))
                if price < cost[end]:
                    cost[end], back[end] = price, (at, (template, holes))
    found: list[tuple[str, list[str]] | str] = []
    at = size
    while at > 0:
        before, piece = back[at]
        found.append(piece)
        at = before
    return found[::-1]


def _lay(text: str, at: int, parts: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Every way to lay a template's literal parts over ``text`` from ``at`` on: (end, holes)."""
    if not text.startswith(parts[0], at):
        return
    yield from _rest(text, at + len(parts[0]), parts, 1, [])


def _rest(text: str, at: int, parts: tuple[str, ...], number: int, holes: list[str]) -> Iterator[tuple[int, list[str]]]:
    if number == len(parts):
        yield at, holes
        return
    if not parts[number]:
        # the last hole may end anywhere
        for end in range(at + 1, len(text) + 1):
            yield end, [*holes, text[at:end]]
        return
    end = text.find(parts[number], at + 1)
    while end != -1:
        yield from _rest(text, end + len(parts[number]), parts, number + 1, [*holes, text[at:end]])
        end = text.find(parts[number], end + 1)
