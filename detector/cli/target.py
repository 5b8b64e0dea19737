"""Servers that a command may ask: on this machine, or named a second time by the operator."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from detector.cli.options import FAILED, USAGE, fail

__all__ = ["ConfirmOption", "bearer", "confirmed"]

ConfirmOption = Annotated[
    str | None,
    typer.Option(
        "--confirm-target",
        metavar="HOST",
        help="The URL's host once more, when it is not this machine: only ask what you may ask.",
    ),
]


def confirmed(url: str, confirm: str | None) -> str:
    """The URL, if it is http(s) and on loopback or its host is named in `confirm`; else exit 2."""
    import httpx

    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port  # ValueError beyond 65535
        if parts.username or parts.password:
            # Errors and files of results name the URL.
            fail(f"the URL of {host} has a name or password in it: keys belong in a file", USAGE)
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL) as error:
        fail(f"{url}: {error}", USAGE)
    if parts.scheme not in ("http", "https") or not host:
        fail(f"{url}: expected http://HOST… or https://HOST…", USAGE)
    if not _is_loopback(host) and (confirm or "").lower() != host:
        fail(f"{host} is not this machine: say --confirm-target {host} to ask it", USAGE)
    return url


def bearer(key: str, where: str | Path) -> str:
    """The value of an Authorization header, or exit 1 with an error that says where, not what."""
    if not key or not key.isascii() or not key.isprintable():
        fail(f"{where}: a key is one line of visible ASCII characters", FAILED)
    return f"Bearer {key}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
