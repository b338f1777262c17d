"""Which folders a request from outside may name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from lora_eval.errors import LoraEvalError


class ForbiddenPath(LoraEvalError):
    """A path outside the folders that the settings allow."""


class Confinement:
    """Turns texts into paths inside allowed folders. Errors name what was asked for, never what is there.

    Args:
        allowed: the folders, asked anew each time since settings change. Relative paths start at the first.
        trusted: folders whose own links are followed wherever they lead: who may write there chose them (a WebUI's
            model folders, in which people link their collections).
    """

    def __init__(
        self, allowed: Callable[[], Iterable[Path]], trusted: Callable[[], Iterable[Path]] | None = None
    ) -> None:
        self._allowed = allowed
        self._trusted = trusted

    def path(self, text: str) -> Path:
        """The absolute path that ``text`` means, links followed (in a trusted folder: as it is spelled).

        Raises:
            ForbiddenPath: it lies outside, or cannot be a path.
        """
        try:
            folders = [Path(folder).resolve() for folder in self._allowed()]
            asked = folders[0] / Path(text).expanduser()
            path = asked.resolve()
            # without "..", which behind a link would lead to the link's own neighbours
            spelled = Path(os.path.normpath(asked))
        except (ValueError, OSError, RuntimeError, IndexError):
            raise ForbiddenPath(f"{text[:200]!r} is not a path that can be used") from None
        if any(path == folder or folder in path.parents for folder in folders):
            return path
        for folder in self._trusted() if self._trusted is not None else ():
            if any(root in spelled.parents for root in (Path(os.path.abspath(folder)), Path(folder).resolve())):
                return spelled
        raise ForbiddenPath(f"{text[:200]} is outside the allowed folders; allow its folder in Settings > LoRA Eval")

    def child(self, folder: Path, name: str) -> Path:
        """``folder / name`` where ``name`` is a single plain part.

        Raises:
            ForbiddenPath: it has separators, leads elsewhere or is hidden.
        """
        plain = name and name == os.path.basename(name) and "\\" not in name and "\0" not in name and name[0] != "."
        path = (Path(folder) / name).resolve() if plain else None
        if path is None or path.parent != Path(folder).resolve():
            raise ForbiddenPath(f"{name[:200]!r} is not a name that can be used here")
        return path

    def inside(self, folder: Path, *parts: str) -> Path:
        """``folder / parts`` where no link leads out of ``folder``.

        Raises:
            ForbiddenPath: it does.
        """
        root = Path(folder).resolve()
        path = root.joinpath(*parts).resolve()
        if root != path and root not in path.parents:
            raise ForbiddenPath(f"{'/'.join(parts)[:200]} leads out of its folder")
        return path
