"""Servers that a command may ask: on this machine, or named a second time by the operator."""

from __future__ import annotations

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

import typer

from detector.cli.options import USAGE, fail

__all__ = ["ConfirmOption", "confirmed"]

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
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port  # ValueError beyond 65535
    except ValueError as error:
        fail(f"{url}: {error}", USAGE)
    if parts.scheme not in ("http", "https") or not host:
        fail(f"{url}: expected http://HOST… or https://HOST…", USAGE)
    if not _is_loopback(host) and (confirm or "").lower() != host:
        fail(f"{host} is not this machine: say --confirm-target {host} to ask it", USAGE)
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
