"""Files that are either whole or not there.

Everything the product writes goes through :func:`atomic_path`: a temporary name in the same folder,
flushed to the disk, then renamed. A killed process or a full disk leaves the earlier file as it was.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lora_eval.errors import RunError
from lora_eval.log import logger

ASSETS = Path(__file__).resolve().parent / "assets"
"""The data that the package ships: models, drawings, suites, templates, languages."""

_MENDS = {
    errno.ENOSPC: "the disk is full; free some space and start again, finished work is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and start again",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def write_error(path: Path, error: OSError) -> RunError:
    """The one line for a failed write: which file, and what to do about it."""
    mend = _MENDS.get(error.errno or 0, error.strerror or str(error))
    return RunError(f"cannot write {path}: {mend}")


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents. Raises RunError naming the folder and the mend."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise RunError(f"cannot write {path}: a file of that name is there; choose another folder") from None
    except OSError as error:
        raise write_error(path, error) from error
    return path


def sync_folder(folder: Path) -> None:
    """Flush a rename to the disk. Windows cannot open folders; there the rename is all there is."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: Path, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes the name, on failure it is removed.

    ``flush`` False leaves it to the system when the bytes reach the disk: for what can be made again.

    Raises:
        RunError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}.", suffix=".part" + path.suffix, dir=path.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        if flush:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        # mkstemp makes files private to the owner; a report or a LoRA is read by others too
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        if flush:
            sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _umask() -> int:
    # it can only be read by being set: two threads at once could leave it at 0
    with _UMASK:
        mask = os.umask(0)
        os.umask(mask)
    return mask


_UMASK = threading.Lock()


def write_bytes(path: Path, data: bytes, flush: bool = True) -> None:
    """Write ``data`` atomically, see :func:`atomic_path`. Raises RunError."""
    with atomic_path(path, flush) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` with ``\\n`` line ends, atomically. Raises RunError."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; keys keep their order, NaN is refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises RunError naming the file when it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; is this the right folder?") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is not valid JSON ({error}); restore it or start a new run folder") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in 1 MiB blocks so that a 7 GB checkpoint costs no memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def hold(lock_file: Path, folder: Path, tidy: bool = False) -> Iterator[None]:
    """Keep every other process and thread out of ``folder`` while inside.

    The operating system holds the lock, so that of a killed process is gone with it; the process id in the file is only
    for the message.

    Args:
        lock_file: inside ``folder`` or beside it.
        tidy: remove the file at the end.

    Raises:
        RunError: another process or thread works in the folder, or it cannot be written.
    """
    make_folder(folder)
    while True:
        try:
            file = open(lock_file, "a+b")  # noqa: SIM115 (held over the yield)
        except OSError as error:
            raise write_error(lock_file, error) from error
        with file:
            if not _try_lock(file):
                file.seek(0)
                owner = file.read(40).decode("ascii", "replace").strip() or "unknown"
                raise RunError(f"{folder} is in use by process {owner}; wait for it or choose another folder")
            if not _is_there(file, lock_file):
                # whoever held it removed it between our opening and locking
                continue
            try:
                file.truncate(0)
                file.write(str(os.getpid()).encode())
                file.flush()
                yield
            finally:
                file.truncate(0)
                if tidy:
                    with suppress(OSError):
                        lock_file.unlink()
                _unlock(file)
        return


def is_held(lock_file: Path) -> bool:
    """Whether another process or thread holds the lock."""
    try:
        with open(lock_file, "r+b") as file:
            if not _try_lock(file):
                return True
            _unlock(file)
    except OSError:
        pass
    return False


def _is_there(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _try_lock(file: IO[bytes]) -> bool:
    """Take the lock without waiting; False when someone else has it."""
    if os.name == "nt":
        import msvcrt

        try:
            file.seek(1 << 20)  # beyond the text: Windows locks forbid reading
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            return True
        except OSError:
            return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        logger.warning("this file system has no locks (%s); do not run two jobs on one folder", error)
    return True


def _unlock(file: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_UN)
