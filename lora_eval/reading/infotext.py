"""The line under a picture: prompt, negative prompt and settings in the WebUI's own format.

Format as written by ``create_infotext`` of AUTOMATIC1111/stable-diffusion-webui (modules/processing.py,
modules/infotext_utils.py): the prompt, ``Negative prompt: ...`` where there is one, then one line of
``Name: value`` joined by commas; a value with a comma, colon or line break is a JSON string. In a
PNG it is the text chunk ``parameters``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_eval.errors import RunError

PNG_KEY = "parameters"
_NEGATIVE = "Negative prompt:"
_PAIR = re.compile(r'\s*(?P<name>\w[\w \-/]*?)\s*:\s*(?P<value>"(?:\\.|[^\\"])*"|[^,]*)\s*(?:,|$)')
# fewer pairs than this and the last line is taken for a line of the prompt
_FEWEST_PAIRS = 3


@dataclass(frozen=True)
class Infotext:
    """An infotext taken apart. ``parameters`` keeps the order and every value as text."""

    prompt: str
    negative_prompt: str = ""
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def lora_hashes(self) -> dict[str, str]:
        """LoRA name -> short hash, from ``Lora hashes``; empty when the picture used none."""
        pairs = (part.rpartition(":") for part in self.parameters.get("Lora hashes", "").split(","))
        return {name.strip(): short.strip() for name, _, short in pairs if name.strip()}


def quote(value: object) -> str:
    """A value as it is written in the settings line: a JSON string when the plain text would be ambiguous.

    >>> quote("Euler a"), quote("fox: 12ab, cat: 34cd")
    ('Euler a', '"fox: 12ab, cat: 34cd"')
    """
    text = str(value)
    plain = text and not any(mark in text for mark in ',:\n\r"') and text == text.strip()
    return text if plain else json.dumps(text, ensure_ascii=False)


def unquote(text: str) -> str:
    """The inverse of :func:`quote`; text that is no JSON string is given back as it is."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return str(json.loads(text))
    except json.JSONDecodeError:
        return text


def write_infotext(prompt: str, negative_prompt: str, parameters: Mapping[str, object]) -> str:
    """Put an infotext together. Parameters that are None are left out.

    ``prompt`` is the text as users write it, LoRA tags included.
    """
    negative = f"\n{_NEGATIVE} {negative_prompt}" if negative_prompt else ""
    settings = ", ".join(f"{name}: {quote(value)}" for name, value in parameters.items() if value is not None)
    return f"{prompt}{negative}\n{settings}"


def read_infotext(text: str) -> Infotext:
    """Take an infotext apart; the inverse of :func:`write_infotext`, and reads what the WebUIs write.

    A line of the prompt that itself starts with ``Negative prompt:`` cannot be distinguished from the
    real one, in the WebUI as here.
    """
    body, _, last = text.rstrip().rpartition("\n")
    parameters = _read_pairs(last)
    if len(parameters) < _FEWEST_PAIRS:
        body, parameters = text.rstrip(), {}
    prompt: list[str] = []
    negative: list[str] | None = None
    for line in body.split("\n"):
        if negative is None and line.startswith(_NEGATIVE):
            negative = [line[len(_NEGATIVE) :].removeprefix(" ")]
        elif negative is None:
            prompt.append(line)
        else:
            negative.append(line)
    return Infotext("\n".join(prompt), "\n".join(negative or []), parameters)


def _read_pairs(line: str) -> dict[str, str]:
    return {match["name"]: unquote(match["value"].strip()) for match in _PAIR.finditer(line)}


def read_png(path: Path) -> str:
    """The infotext of a PNG, "" when it has none.

    Raises:
        RunError: the file is missing or no picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            # text chunks may stand behind the pixels; only a loaded picture has them all
            image.load()
            return str(image.info.get(PNG_KEY, ""))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; draw it again") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise RunError(f"{path} is not a readable picture ({error}); draw it again") from None
