"""Which folders a request from outside may name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from lora_eval.errors import LoraEvalError


class ForbiddenPath(LoraEvalError):
    """A path outside the folders that the settings allow."""


class Confinement:
    """Turns texts into paths inside allowed folders.

    Args:
        allowed: the folders, asked anew each time since settings change. Relative paths start at the first.
    """

    def __init__(self, allowed: Callable[[], Iterable[Path]]) -> None:
        self._allowed = allowed

    def path(self, text: str) -> Path:
        """The absolute path that ``text`` means, links followed.

        Raises:
            ForbiddenPath: it lies outside, or cannot be a path.
        """
        folders = [Path(folder).resolve() for folder in self._allowed()]
        try:
            path = (folders[0] / Path(text).expanduser()).resolve()
        except (ValueError, OSError, RuntimeError, IndexError):
            raise ForbiddenPath(f"{text!r} is not a path that can be used") from None
        if not any(path == folder or folder in path.parents for folder in folders):
            names = ", ".join(map(str, folders))
            raise ForbiddenPath(
                f"{text} is outside the allowed folders ({names}); allow its folder in Settings > LoRA Eval"
            )
        return path

    def child(self, folder: Path, name: str) -> Path:
        """``folder / name`` where ``name`` is a single plain part.

        Raises:
            ForbiddenPath: it has separators, leads elsewhere or is hidden.
        """
        plain = name and name == os.path.basename(name) and "\\" not in name and "\0" not in name and name[0] != "."
        path = (Path(folder) / name).resolve() if plain else None
        if path is None or path.parent != Path(folder).resolve():
            raise ForbiddenPath(f"{name!r} is not a name in {folder}")
        return path
