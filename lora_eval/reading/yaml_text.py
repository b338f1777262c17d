"""YAML in which a text keeps its spelling.

YAML 1.1, which PyYAML follows, turns ``007`` into 7, ``1.10`` into 1.1, ``010`` into 8, ``1_000`` into 1000, ``12:30``
into 750, ``yes`` and ``on`` into true and ``2024-01-01`` into a date; the spelling is lost before anyone can know that
a text was meant. Here a value without quotation marks becomes a number, truth value or null only where that value
has no other spelling: ``7``, ``0.5``, ``true``, ``null``. Everything else stays text; who needs a number converts it
(``float("2e-4")``). Keys are always texts, and a key that stands twice in one mapping is an error.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

_WINDOWS_PATH = re.compile(r'"((?:[A-Za-z]:\\|\\\\)[^"\r\n]*)"')
_LONE_BACKSLASH = re.compile(r"(?<!\\)(?:\\\\)*\\(?!\\)")
_NULL, _BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))


class YamlError(ValueError):
    """Not YAML, or YAML that contradicts itself.

    Attributes:
        line: 1-based line of the fault; None where it is not known.
        problem: what is wrong, without place.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem if line is None else f"line {line}: {problem}")
        self.problem, self.line = problem, line


class _Loader(yaml.SafeLoader):
    # of this class alone: SafeLoader's own table belongs to every user of PyYAML in the process
    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}
    yaml_constructors: ClassVar[dict[Any, Any]] = dict(yaml.SafeLoader.yaml_constructors)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse anchors and aliases: a few lines of them stand for billions of values."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlError(
                "anchors (&name) and aliases (*name) are not read; write the value out", event.start_mark.line + 1
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise YamlError("a key must be a text", key.start_mark.line + 1)
                if key.tag == "tag:yaml.org,2002:merge":
                    continue
                line = key.start_mark.line + 1
                if key.value in seen:
                    problem = f"{key.value!r} is set a second time (first in line {seen[key.value]})"
                    raise YamlError(problem, line)
                seen[key.value] = line
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)

    def scan_flow_scalar(self, style: str) -> yaml.ScalarToken:
        r"""A quoted text. A Windows path in double quotes with single backslashes is read as it is written.

        By YAML's rules "D:\new\trigger" holds a line break and a tab, and "C:\Users" is an error.
        """
        if style == '"':
            found = _WINDOWS_PATH.match(self.buffer, self.pointer)
            if found and _LONE_BACKSLASH.search(found[1].lstrip("\\")):
                start = self.get_mark()
                self.forward(len(found[0]))
                return yaml.ScalarToken(found[1], False, start, self.get_mark(), style)
        return super().scan_flow_scalar(style)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float | str:
    text = str(loader.construct_scalar(node))
    try:
        value = float(text.replace("_", "") if node.style else text)
    except ValueError:
        return text
    return value if repr(value) == text else text


_Loader.add_constructor(_FLOAT, _construct_float)
_Loader.add_implicit_resolver(_NULL, re.compile(r"(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver(_BOOL, re.compile(r"(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver(_INT, re.compile(r"(?:0|-?[1-9][0-9]*)$"), list("-0123456789"))
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+$"), list("-0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])


def parse(text: str) -> Any:
    """The value of a YAML text: mappings, lists, texts, numbers, truth values and None. Raises YamlError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise YamlError(str(problem), mark.line + 1 if mark else None) from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, YamlError):
            raise
        raise YamlError(f"not valid YAML ({' '.join(str(error).split())})") from None
