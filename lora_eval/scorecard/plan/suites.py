"""Prompt suites: what is drawn to test a LoRA.

A suite is a YAML or CSV file (schema in docs/suites.md). ``[trigger]`` (or ``[subject]``) stands for
the LoRA's trigger word and ``[class]`` for its class word. The text given to CLIP always has the class
word: an encoder that never met the trigger can only guess at it (the substitution of
cloneofsimo/lora's ``evaluate_pipe``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_eval.errors import ConfigError
from lora_eval.files import ASSETS
from lora_eval.reading.table import DELIMITERS, TableError, records
from lora_eval.reading.text import NotText, read_text
from lora_eval.reading.yaml_text import YamlError, parse
from lora_eval.scorecard.data import KINDS, ROLES, Element, Prompt

FOLDER = ASSETS / "suites"
CLASS_WORDS = {"style": "artwork", "character": "person", "object": "object"}

_TRIGGER = re.compile(r"\[(?:trigger|subject)\]", re.IGNORECASE)
_CLASS = re.compile(r"\[class\]", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\[([a-z_]+)\]", re.IGNORECASE)
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_KEYS = {"id", "role", "text", "negative", "negative_concept", "elements"}
_ELEMENT_KEYS = {"name", "swap", "foils", "text"}
_SUITE_KEYS = {"name", "kind", "class_word", "description", "prompts"}
MAX_FILE = 4 << 20


@dataclass(frozen=True)
class Suite:
    """A suite as written, placeholders unfilled. ``kind`` and ``class_word`` may be ""."""

    name: str
    kind: str
    class_word: str
    rows: tuple[Mapping[str, Any], ...]


def suite_names() -> list[str]:
    """Names of the shipped suites."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_suite(name_or_path: str | Path) -> Suite:
    """A shipped suite by name, or the user's own ``.yaml`` or ``.csv`` file.

    Raises:
        ConfigError: no such suite, or a row that cannot be used (file, row and mend in one line).
    """
    shipped = FOLDER / f"{name_or_path}.yaml"
    path = shipped if str(name_or_path) in suite_names() else Path(name_or_path)
    if not path.is_file():
        raise ConfigError(
            f'prompt suite "{name_or_path}" is neither a file nor one of {", ".join(suite_names())}; give one of these'
        )
    if path.stat().st_size > MAX_FILE:
        raise ConfigError(f"{path} is larger than {MAX_FILE >> 20} MB; a prompt suite is a short table")
    try:
        text = read_text(path)
    except NotText:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    suite = _from_csv(path, text) if path.suffix.lower() in (".csv", ".tsv") else _from_yaml(path, text)
    _check(path, suite)
    return suite


def load_suite(
    name_or_path: str | Path, trigger: str = "", class_word: str = "", count: int | None = None
) -> list[Prompt]:
    """The prompts of a suite, filled in.

    Args:
        name_or_path: ``style``, ``character``, ``object``, ``tiny``, ... or a ``.yaml``/``.csv`` file.
        trigger: the LoRA's trigger; "" for a LoRA without one: the prompts then name the class word
            (a style's are drawn as if the placeholder were not there).
        class_word: what the subject is a kind of; "" takes the suite's own.
        count: only the first so many prompts. Suites are ordered so that a beginning has every role.

    Raises:
        ConfigError: as :func:`read_suite`, or ``count`` below 1.
    """
    suite = read_suite(name_or_path)
    if count is not None and count < 1:
        raise ConfigError(f"number of prompts is {count}; ask for at least 1")
    word = class_word.strip() or suite.class_word or CLASS_WORDS.get(suite.kind, "subject")
    rows = suite.rows if count is None else suite.rows[:count]
    return [_fill(f"prompt suite {suite.name}", row, trigger.strip(), word, suite.kind == "style") for row in rows]


def _from_yaml(path: Path, text: str) -> Suite:
    try:
        raw = parse(text)
    except YamlError as error:
        line = f", line {error.line}" if error.line else ""
        raise ConfigError(f"{path}{line}: not valid YAML ({error.problem})") from None
    if isinstance(raw, list):
        raw = {"prompts": raw}
    if not isinstance(raw, dict) or not isinstance(raw.get("prompts"), list):
        raise ConfigError(f'{path}: no list of prompts; write "prompts:" with one "- text: ..." a prompt')
    if unknown := sorted(set(map(str, raw)) - _SUITE_KEYS):
        raise ConfigError(f'{path}: unknown key "{unknown[0]}"; a suite has {", ".join(sorted(_SUITE_KEYS))}')
    kind = str(raw.get("kind") or "")
    if kind and kind not in KINDS:
        raise ConfigError(f'{path}: kind "{kind}" is none of {", ".join(KINDS)}')
    return Suite(str(raw.get("name") or path.stem), kind, str(raw.get("class_word") or ""), tuple(raw["prompts"]))


def _from_csv(path: Path, text: str) -> Suite:
    """Columns as the YAML keys; ``element``/``swap``/``foils`` (foils split by ``|``) give one element."""
    head = next((line for line in text.splitlines() if line.strip()), "").lower()
    cells = {mark: [cell.strip(' "') for cell in head.split(mark)] for mark in DELIMITERS}
    named = [mark for mark in DELIMITERS if {"text", "prompt"} & set(cells[mark])]
    try:
        table = records(text, "\t" if path.suffix.lower() == ".tsv" else next(iter(named), ","))
    except TableError as error:
        raise ConfigError(f"{path} row {error.line}: {error.problem}; correct it or save it again as CSV") from None
    names = [name.lower() for name in table[0].cells] if table else []
    if "text" not in names and "prompt" in names:
        names[names.index("prompt")] = "text"
    if "text" not in names:
        raise ConfigError(f'{path}: no column "text"; the first line must name the columns, "text" among them')
    allowed = _KEYS - {"elements"} | {"element", "swap", "foils"}
    if unknown := [name for name in names if name and name not in allowed]:
        raise ConfigError(f'{path}: unknown column "{unknown[0]}"; a suite has {", ".join(sorted(allowed))}')
    if doubled := [name for name in names if name and names.count(name) > 1]:
        raise ConfigError(f'{path}: two columns "{doubled[0]}"; remove one')
    rows: list[dict[str, Any]] = []
    for found in table[1:]:
        if len(found.cells) < len(names) or any(found.cells[len(names) :]):
            raise ConfigError(
                f"{path} row {found.line}: {len(found.cells)} cell(s), the header has {len(names)}; put quotation "
                "marks round a text with a comma"
            )
        row: dict[str, Any] = {key: value for key, value in zip(names, found.cells, strict=False) if key}
        if not any(row.values()):
            continue
        swap, foils, name = row.pop("swap", ""), row.pop("foils", ""), row.pop("element", "")
        if foils:
            row["elements"] = [{"name": name or swap, "swap": swap, "foils": [f.strip() for f in foils.split("|")]}]
        rows.append({key: value for key, value in row.items() if value})
    return Suite(path.stem, "", "", tuple(rows))


def _check(path: Path, suite: Suite) -> None:
    """Every row can be filled in; ids are unique."""
    if not suite.rows:
        raise ConfigError(f"{path}: no prompts; add at least one")
    seen: dict[str, int] = {}
    rows: list[Mapping[str, Any]] = []
    for number, row in enumerate(suite.rows, 1):
        where = f"{path}, prompt {number}"
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise ConfigError(f'{where}: not a prompt; write "- text: ..."')
        row = {"id": f"p{number:02d}", "role": "plain", **row}
        if unknown := sorted(set(map(str, row)) - _KEYS):
            raise ConfigError(f'{where}: unknown key "{unknown[0]}"; a prompt has {", ".join(sorted(_KEYS))}')
        row["id"] = str(row["id"])
        if not _ID.fullmatch(row["id"]):
            raise ConfigError(f'{where}: id "{row["id"]}" goes into file names; use a-z, 0-9, "-" and "_", at most 40')
        if row["id"] in seen:
            raise ConfigError(f'{where}: id "{row["id"]}" is that of prompt {seen[row["id"]]} too; ids are unique')
        seen[row["id"]] = number
        _fill(where, row, "xqztrigger", suite.class_word or "subject", suite.kind == "style")
        rows.append(row)
    object.__setattr__(suite, "rows", tuple(rows))


def _fill(where: str, row: Mapping[str, Any], trigger: str, class_word: str, style: bool) -> Prompt:
    """One row with trigger and class word in place."""
    text, role = row.get("text"), str(row.get("role", "plain"))
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f'{where}: no text; write what is to be drawn, for example "a photo of [trigger]"')
    if role not in ROLES:
        raise ConfigError(f'{where}: role "{role}" is none of {", ".join(ROLES)}')
    if role == "unrelated" and _TRIGGER.search(text):
        raise ConfigError(f"{where}: role unrelated must not name [trigger]; it shows what the LoRA does unasked")
    if "<lora:" in text.lower():
        raise ConfigError(
            f"{where}: a <lora:...> tag is in the text; take it out, the scorecard sets the weight itself"
        )
    negative, concept = str(row.get("negative") or ""), str(row.get("negative_concept") or "")
    if role == "negative" and not negative:
        raise ConfigError(f'{where}: role negative needs "negative", the negative prompt to test')
    for part in (text, negative, concept):
        for name in _PLACEHOLDER.findall(part):
            if name.lower() not in ("trigger", "subject", "class"):
                raise ConfigError(f"{where}: unknown placeholder [{name}]; there are [trigger] and [class]")
    class_text = _class_text(text, trigger, class_word)
    drawn = _replace(text, trigger or ("" if style else class_word), class_word)
    return Prompt(
        id=str(row["id"]),
        role=role,
        text=drawn,
        class_text=class_text,
        negative=_replace(negative, trigger or class_word, class_word),
        negative_concept=(_class_text(concept, trigger, class_word) or negative) if role == "negative" else "",
        elements=tuple(_element(where, found, class_text, trigger, class_word) for found in row.get("elements") or ()),
    )


def _element(where: str, raw: Any, class_text: str, trigger: str, class_word: str) -> Element:
    """An element from ``swap`` (the word to exchange in the prompt) or from a whole ``text``."""
    if not isinstance(raw, dict) or not isinstance(raw.get("foils"), list) or not raw["foils"]:
        raise ConfigError(f'{where}: an element needs "foils", a list of what it could have been instead')
    if unknown := sorted(set(map(str, raw)) - _ELEMENT_KEYS):
        raise ConfigError(f'{where}: unknown element key "{unknown[0]}"; there are {", ".join(sorted(_ELEMENT_KEYS))}')
    foils = [_class_text(str(foil), trigger, class_word) for foil in raw["foils"]]
    name = str(raw.get("name") or raw.get("swap") or "element")
    if raw.get("text"):
        text = _class_text(str(raw["text"]), trigger, class_word)
    else:
        swap = str(raw.get("swap") or "")
        # whole words alone: "red" must not be found in "hundred"
        pattern = re.compile(rf"(?<!\w){re.escape(swap)}(?!\w)")
        if not swap or len(pattern.findall(class_text)) != 1:
            raise ConfigError(f'{where}: element "{name}" swaps "{swap}", which must be in the text exactly once')
        text = class_text
        foils = [pattern.sub(lambda _, foil=foil: foil, class_text) for foil in foils]  # type: ignore[misc]
    if text in foils:
        raise ConfigError(f'{where}: element "{name}" has a foil equal to the text itself; take it out')
    return Element(name, text, tuple(foils))


def _class_text(text: str, trigger: str, class_word: str) -> str:
    """The text as CLIP is asked: class word for placeholder and for a trigger written out."""
    filled = _replace(text, class_word, class_word)
    if trigger and trigger.lower() != class_word.lower():
        filled = re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", lambda _: class_word, filled)
    # "[trigger] [class]" must not become "person person"
    return re.sub(rf"\b{re.escape(class_word)}\s+{re.escape(class_word)}\b", lambda _: class_word, filled)


def _replace(text: str, trigger: str, class_word: str) -> str:
    """Fill the placeholders; an empty trigger leaves no stray comma or double space."""
    filled = _CLASS.sub(lambda _: class_word, _TRIGGER.sub(lambda _: trigger, text))
    filled = re.sub(r"\s+", " ", filled)
    filled = re.sub(r"(?:\s*,)+(?=\s*,)|^\s*,\s*|\s*,\s*$", "", filled)
    return re.sub(r"\s+,", ",", filled).strip()


def clip_text(prompt: str, trigger: str, class_word: str) -> str:
    """What CLIP is asked: the class word in place of the trigger, ``subject`` where there is none."""
    trigger, word = trigger.strip(), class_word.strip() or "subject"
    return re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", lambda _: word, prompt) if trigger else prompt
