"""Who may send requests, and how large they may be: other web pages, rebound names, bodies without end.

A page on another site can make a visitor's browser send requests here. The browser says so in ``Origin``; a body that
is declared as JSON makes it ask first. A name that was rebound to this machine (DNS rebinding) is seen in ``Host``.
Sources: OWASP, "Cross-Site Request Forgery Prevention" (verifying origin with standard headers); Fetch standard,
section 3.2 (CORS protocol).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

MOST_BYTES = 2 * 2**20


@dataclass(frozen=True)
class Doors:
    """From where requests are taken, beside this machine by its address.

    Attributes:
        origins: origins of other pages that may call (the WebUI's ``--cors-allow-origins``); "*" allows every one.
        pattern: the same as a regular expression for whole origins (``--cors-allow-origins-regex``), "" for none.
        hosts: host names under which the server is reached (``--server-name``, a tunnel's).
        any_host: whether the name is left unchecked, because every request needs a password.
    """

    origins: tuple[str, ...] = ()
    pattern: str = ""
    hosts: tuple[str, ...] = ()
    any_host: bool = False

    def allows_origin(self, origin: str) -> bool:
        """Whether a page of this origin may call."""
        if "*" in self.origins or origin.rstrip("/") in {one.rstrip("/") for one in self.origins}:
            return True
        return bool(self.pattern) and re.fullmatch(self.pattern, origin) is not None

    def allows_host(self, host: str) -> bool:
        """Whether ``host`` (without its port) is an address, this machine, or a name that the server goes by."""
        name = host.lower().rstrip(".")
        if self.any_host or name in ("localhost", *(one.lower() for one in self.hosts)) or name.endswith(".localhost"):
            return True
        if any(one.startswith("*.") and name.endswith(one[1:].lower()) for one in self.hosts):
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return any(urlsplit(origin).hostname == name for origin in self.origins)
        return True


def guard(doors: Callable[[], Doors]) -> Callable[[Request], None]:
    """A dependency that refuses what another page or a rebound name sends.

    Raises:
        HTTPException: 403 for a foreign ``Host`` or ``Origin``, 415 for a body that is not declared as JSON.
    """

    def check(request: Request) -> None:
        allowed = doors()
        host = request.headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if not allowed.allows_host(name):
            raise HTTPException(403, f"requests to the name {_short(name)} are not taken; use the machine's address")
        origin = request.headers.get("origin")
        own = {f"{scheme}://{host}" for scheme in ("http", "https")}
        if origin is not None and origin not in own and not allowed.allows_origin(origin):
            raise HTTPException(
                403, f"requests from pages of {_short(origin)} are not taken; start the WebUI with --cors-allow-origins"
            )
        if origin is None and request.headers.get("sec-fetch-site") == "cross-site":
            raise HTTPException(403, "requests from pages of another site are not taken")
        if request.method == "POST" and _has_body(request):
            kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
            if kind != "application/json":
                raise HTTPException(415, "the body must be JSON: send Content-Type: application/json")

    return check


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def read_bounded(request: Request) -> None:
    """Read the body, up to MOST_BYTES. Raises HTTPException 413 for a larger one before all of it is read."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MOST_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise _too_large()
        parts.append(part)
    # what Request.body() keeps once it was read
    request._body = b"".join(parts)


def _too_large() -> HTTPException:
    return HTTPException(413, f"the body is larger than {MOST_BYTES >> 20} MB; name files by their paths instead")


def short_line(line: str, most: int = 200) -> str:
    """An error in one line in which no quoted word is longer than ``most`` characters."""
    line = re.sub(rf"\S{{{most},}}", lambda match: f"{match[0][: most - 3]}...", " ".join(line.split()))
    return line if len(line) <= 5 * most else f"{line[: 5 * most - 3]}..."


def _short(text: str) -> str:
    return short_line(text, 100)


def hosts_of(names: Iterable[str | None]) -> tuple[str, ...]:
    """The names that are set, without port; ``*.`` in front allows every name below."""
    return tuple(found for name in names if name and (found := urlsplit(f"//{name}").hostname))
