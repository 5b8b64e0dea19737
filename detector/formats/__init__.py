"""Log formats: one file each, found by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Final

from detector.formats.base import Bad, Format, split_records
from detector.formats.envoy import Envoy
from detector.formats.litellm import LiteLLM
from detector.formats.native import Native
from detector.formats.nginx import Nginx
from detector.settings import FormatSettings

__all__ = ["Bad", "Format", "UnknownFormat", "get", "names", "split_records"]

_FORMATS: Final[dict[str, Callable[[FormatSettings], Format]]] = {
    Native.name: Native,
    Nginx.name: Nginx,
    LiteLLM.name: LiteLLM,
    Envoy.name: Envoy,
}


class UnknownFormat(ValueError):
    """No format has that name; the text names the nearest one."""


def names() -> tuple[str, ...]:
    """Every format's name."""
    return tuple(_FORMATS)


def get(name: str, options: FormatSettings | None = None) -> Format:
    """The format of that name.

    Raises:
        UnknownFormat: there is none.
    """
    try:
        make = _FORMATS[name]
    except KeyError:
        nearest = get_close_matches(name.lower(), _FORMATS, n=1, cutoff=0.0)[0]
        known = ", ".join(_FORMATS)
        raise UnknownFormat(
            f"unknown format {name!r}; did you mean {nearest!r}? (known: {known})"
        ) from None
    return make(options or FormatSettings())
