"""LoRA files staged in the WebUI's LoRA folder for as long as a sweep draws them.

Hosts find a LoRA by the stem of its file below one folder and cache it by that name. A file that lies elsewhere
(a checkpoint in a run folder), or whose stem is taken or cannot stand in a prompt tag, is put into
``<LoRA folder>/lora-eval-sweep/`` under a name of its own, made of the stem and the content's hash.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from lora_eval.errors import HostError
from lora_eval.files import atomic_path, file_sha256, make_folder

FOLDER = "lora-eval-sweep"
_UNFIT = re.compile(r"[:<>,=\s]+")
_OURS = re.compile(r"-[0-9a-f]{8}\.[a-z]+$")
_LEFT_BEHIND = 24 * 3600.0


def fits_tag(stem: str) -> bool:
    """Whether ``<lora:stem:1>`` is read back as that stem: no separator of the tag's grammar in it."""
    return bool(stem) and _UNFIT.search(stem) is None


class Staging:
    """The staged files; :meth:`clear` takes them back."""

    def __init__(self, lora_folder: Path) -> None:
        self._folder = Path(lora_folder) / FOLDER
        self._staged: dict[tuple[str, int, int], Path] = {}

    def stage(self, path: Path) -> Path:
        """A copy (a hard link where the disk allows) of ``path`` under a name that no other file has.

        Raises:
            HostError: the LoRA folder cannot be written.
        """
        status = os.stat(path)
        key = (str(path), status.st_mtime_ns, status.st_size)
        staged = self._staged.get(key)
        if staged is not None and staged.is_file():
            return staged
        stem = _UNFIT.sub("_", path.stem)[:100] or "lora"
        staged = self._folder / f"{stem}-{file_sha256(path)[:8]}{path.suffix.lower()}"
        if not staged.is_file():
            make_folder(self._folder)
            try:
                os.link(path, staged)
            except FileExistsError:
                pass
            except OSError:
                with atomic_path(staged) as temporary:
                    shutil.copyfile(path, temporary)
        if not staged.is_file():
            raise HostError(f"{staged} cannot be made; the sweep needs to write to the WebUI's LoRA folder")
        self._staged[key] = staged
        return staged

    def clear(self) -> bool:
        """Remove what was staged. Returns whether there was anything."""
        staged, self._staged = list(self._staged.values()), {}
        for path in staged:
            with suppress(OSError):
                path.unlink()
        if staged:
            with suppress(OSError):
                self._folder.rmdir()
        return bool(staged)

    def clear_leftovers(self, older_than: float = _LEFT_BEHIND) -> None:
        """Remove files that a killed WebUI left behind, by age so that a second WebUI on this folder is safe."""
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            with suppress(OSError):
                if _OURS.search(path.name) and time.time() - os.lstat(path).st_ctime > older_than:
                    path.unlink()
        with suppress(OSError):
            self._folder.rmdir()
