"""Pictures and reports that the page asks the server for beside gradio, fetched when they are seen.

An address holds a key made from the path and a secret of this process, and only files that a page was given a key for
are served. Who cannot open the page cannot guess an address, so no login is asked for a second time; no path ever
comes from the browser.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from lora_eval.errors import LoraEvalError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

PREFIX = "lora-eval/shown"
MOST = 50_000
FOLDERS = {"images": ".png", "thumbs": ".webp"}
PAGES = ("report.html", "compare.html")
_POLICY = {"Cache-Control": "private, max-age=86400"}


class Shelf:
    """What may be served: key -> path, the oldest forgotten first."""

    def __init__(self, most: int = MOST) -> None:
        self._secret = secrets.token_bytes(32)
        self._paths: OrderedDict[str, Path] = OrderedDict()
        self._most = most
        self._lock = threading.Lock()

    def key(self, path: Path) -> str:
        """The key of a file or a run folder, which may be served from now on."""
        key = hmac.new(self._secret, str(path).encode(), hashlib.sha256).hexdigest()[:32]
        with self._lock:
            self._paths[key] = path
            self._paths.move_to_end(key)
            while len(self._paths) > self._most:
                self._paths.popitem(last=False)
        return key

    def path(self, key: str, name: str = "") -> Path | None:
        """The file behind a key; ``name`` inside a run folder. None for what was not given out or is none of ours."""
        with self._lock:
            known = self._paths.get(key)
        if known is None or not name:
            return known
        folder, _, file = name.rpartition("/")
        if "\\" in name or file.startswith(".") or "/" in folder:
            return None
        allowed = name in PAGES or (folder in FOLDERS and file.endswith(FOLDERS[folder]))
        return known / name if allowed else None


shelf = Shelf()


def small(path: Path) -> str:
    """Address of a picture made small, relative to the page."""
    return f"{PREFIX}/{shelf.key(path)}/small{_version(path)}"


def whole(path: Path) -> str:
    """Address of a picture as it is."""
    return f"{PREFIX}/{shelf.key(path)}/whole{_version(path)}"


def page(folder: Path, name: str = "report.html") -> str:
    """Address of a run's page; the pictures that it names lie beside it."""
    return f"{PREFIX}/{shelf.key(folder)}/{quote(name)}{_version(folder / name)}"


def _version(path: Path) -> str:
    """A file written again has another address, so that browsers need not ask whether it is the same."""
    try:
        return f"?v={path.stat().st_mtime_ns:x}"
    except OSError:
        return ""


def add_routes(app: FastAPI) -> None:
    """Add the route to an app that is running or will be; gradio's own catch-all routes come after it."""
    from starlette.routing import Route

    app.router.routes.insert(0, Route(f"/{PREFIX}/{{key}}/{{name:path}}", _answer, methods=["GET"]))


def _answer(request: Request) -> Response:
    from starlette.responses import FileResponse, Response

    key, name = request.path_params["key"], request.path_params["name"]
    if name == "small":
        from lora_eval.report.thumbs import small_bytes

        path = shelf.path(key)
        try:
            data, kind = small_bytes(path) if path is not None else (b"", "")
        except (LoraEvalError, OSError):
            data, kind = b"", ""
        return Response(data, media_type=kind, headers=_POLICY) if data else Response(status_code=404)
    path = shelf.path(key, "" if name == "whole" else name)
    if path is None or not path.is_file():
        return Response(status_code=404)
    return FileResponse(path, headers=_POLICY)
