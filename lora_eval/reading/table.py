"""Delimited tables (CSV, TSV): strict about shape, lenient about spelling.

Quotation marks inside a quoted cell may be doubled (RFC 4180) or follow a backslash; blanks may stand between a
delimiter and a quotation mark (``image, "a fox"``); lines end in any of the three ways. What could be read in two ways
is refused: an open quotation mark, text behind a closing one, or a table whose two readings differ.
"""

from __future__ import annotations

from dataclasses import dataclass

DELIMITERS = (",", "\t", ";", "|")


@dataclass(frozen=True)
class Record:
    """One row. ``line`` is the 1-based line on which it begins; ``quoted`` says which cells had quotation marks."""

    line: int
    cells: tuple[str, ...]
    quoted: tuple[bool, ...]

    @property
    def empty(self) -> bool:
        """Whether no cell holds anything."""
        return not any(self.cells)


class TableError(ValueError):
    """A row that cannot be read. ``line`` is where it begins, ``problem`` what is wrong with it."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line, self.problem = line, problem


def records(text: str, delimiter: str) -> list[Record]:
    """The rows of a table, blank lines left out. Cells are trimmed; quoted cells keep their line breaks.

    Raises:
        TableError: an open quotation mark, text behind a closing one, or backslashes before quotation marks that
            can be read in two ways.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if '\\"' not in text:
        return _parse(text, delimiter, False)
    found: list[list[Record]] = []
    errors: list[TableError] = []
    for escapes in (False, True):
        try:
            found.append(_parse(text, delimiter, escapes))
        except TableError as error:
            errors.append(error)
    if not found:
        raise errors[-1]
    if len(found) == 2 and found[0] != found[1]:
        differ = next((a for a, b in zip(*found, strict=False) if a != b), found[0][-1])
        raise TableError(differ.line, 'a backslash before a quotation mark can be read in two ways (write "" for one)')
    return found[0]


def _parse(text: str, delimiter: str, escapes: bool) -> list[Record]:
    found: list[Record] = []
    blanks = " " if delimiter == "\t" else " \t"
    at, line, size = 0, 1, len(text)
    while at < size:
        start, cells, quoted = line, [], []
        while True:
            while at < size and text[at] in blanks:
                at += 1
            marked = at < size and text[at] == '"'
            if marked:
                cell, at, lines = _quoted(text, at + 1, line, escapes)
                line += lines
                while at < size and text[at] in blanks:
                    at += 1
                if at < size and text[at] not in (delimiter, "\n"):
                    raise TableError(line - lines, "text follows a closing quotation mark")
            else:
                end = at
                while end < size and text[end] not in (delimiter, "\n"):
                    end += 1
                cell, at = text[at:end].strip(), end
            cells.append(cell.strip())
            quoted.append(marked)
            if at >= size or text[at] == "\n":
                at, line = at + 1, line + 1
                break
            at += 1
        record = Record(start, tuple(cells), tuple(quoted))
        if not record.empty:
            found.append(record)
    return found


def _quoted(text: str, at: int, line: int, escapes: bool) -> tuple[str, int, int]:
    """A cell from behind its opening quotation mark: (text, place behind the closing one, line breaks inside)."""
    parts, lines, size = [], 0, len(text)
    while at < size:
        sign = text[at]
        if escapes and sign == "\\" and text[at + 1 : at + 2] in ('"', "\\"):
            parts.append(text[at + 1])
            at += 2
        elif sign == '"' and text[at + 1 : at + 2] == '"':
            parts.append('"')
            at += 2
        elif sign == '"':
            return "".join(parts), at + 1, lines
        else:
            lines += sign == "\n"
            parts.append(sign)
            at += 1
    raise TableError(line, "a quotation mark is not closed")
