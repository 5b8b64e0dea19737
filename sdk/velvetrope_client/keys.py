"""The operator's secret keys: what chooses marks, canaries and wrong answers, and nobody can guess.

A keyring is one JSON file, newest key first:
`{"format": 1, "keys": [{"id": "2026-11", "secret": "<base64 of 32 bytes>"}]}`. The first key marks;
older ones stay so that what was marked under them can still be proved.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ["BadKeys", "Key", "Keyring"]

_SECRET_BYTES: Final = 32
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_COMMITMENT_LABEL: Final = "velvetrope key commitment 1"


class BadKeys(ValueError):
    """A keyring that cannot be used; the text says where it is wrong and holds no secret."""


@dataclass(frozen=True, slots=True)
class Key:
    """One secret of 32 bytes and its public name."""

    id: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise BadKeys(f"key id {self.id!r}: 1 to 64 letters, digits, '.', '_' or '-'")
        if len(self.secret) != _SECRET_BYTES:
            raise BadKeys(f"key {self.id}: a secret has 32 bytes, this one {len(self.secret)}")

    @classmethod
    def new(cls, name: str) -> Key:
        """A key of that id, from the system's random source."""
        return cls(name, secrets.token_bytes(_SECRET_BYTES))

    def derive(self, purpose: str, *parts: str) -> bytes:
        """32 bytes that only a holder of the secret can compute: HMAC-SHA256 of what is given.

        Every string is preceded by its length, so no two lists of parts mean the same bytes; a
        purpose of one's own keeps one use from telling anything of another. Any string is
        accepted, lone surrogates too: inputs are not ours to refuse.
        """
        return hmac.digest(self.secret, _framed(purpose, *parts), "sha256")

    @property
    def commitment(self) -> str:
        """What to publish: `sha256:` and the hex of SHA-256 over a label, the id and the secret.

        It binds the operator to this key from the day of publishing and tells nothing of it: the
        secret has 256 random bits, so it needs no blinding.
        """
        framed = _framed(_COMMITMENT_LABEL, self.id) + self.secret
        return f"sha256:{hashlib.sha256(framed).hexdigest()}"


class Keyring:
    """Keys, newest first."""

    __slots__ = ("_by_id", "_keys")

    def __init__(self, keys: tuple[Key, ...]) -> None:
        """At least one key, no id twice; else BadKeys."""
        if not keys:
            raise BadKeys("a keyring needs at least one key")
        self._keys = keys
        self._by_id = {key.id: key for key in keys}
        if len(self._by_id) < len(keys):
            names = [key.id for key in keys]
            twice = next(name for name in names if names.count(name) > 1)
            raise BadKeys(f"key id {twice} is there twice")

    @classmethod
    def new(cls, name: str) -> Keyring:
        """A keyring of one new key."""
        return cls((Key.new(name),))

    @classmethod
    def load(cls, path: Path | str) -> Keyring:
        """Read a file. BadKeys names the file and what is wrong; OSError when it cannot be read."""
        try:
            return cls.parse(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise BadKeys(f"{path}: not UTF-8 text") from None
        except BadKeys as error:
            raise BadKeys(f"{path}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """Read the JSON text of a keyring; BadKeys when it is not one."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):  # the decoder's own message could quote what it read
            raise BadKeys("not JSON") from None
        if not isinstance(document, dict) or document.get("format") != 1:
            raise BadKeys('expected {"format": 1, "keys": [...]}')
        entries = document.get("keys")
        if not isinstance(entries, list):
            raise BadKeys("keys: expected a list")
        return cls(tuple(_key(entry, index) for index, entry in enumerate(entries)))

    def rotated(self, name: str) -> Keyring:
        """With a new key in front; the older ones stay, to prove what they marked."""
        return Keyring((Key.new(name), *self._keys))

    def dump(self) -> str:
        """The JSON text, secrets and all: for a file that only its owner can read."""
        entries = [
            {"id": key.id, "secret": base64.b64encode(key.secret).decode()} for key in self._keys
        ]
        return json.dumps({"format": 1, "keys": entries}, indent=1) + "\n"

    @property
    def current(self) -> Key:
        """The newest key: the one that marks."""
        return self._keys[0]

    def get(self, name: str) -> Key:
        """The key of that id; KeyError when there is none."""
        return self._by_id[name]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"Keyring({', '.join(key.id for key in self._keys)})"


def _key(entry: Any, index: int) -> Key:
    if not isinstance(entry, dict):
        raise BadKeys(f"keys[{index}]: expected an object")
    name, secret = entry.get("id"), entry.get("secret")
    if not isinstance(name, str):
        raise BadKeys(f"keys[{index}].id: expected text")
    if not isinstance(secret, str):
        raise BadKeys(f"keys[{index}].secret: expected base64 text")
    try:
        decoded = base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError):
        raise BadKeys(f"keys[{index}].secret: not base64") from None
    try:
        return Key(name, decoded)
    except BadKeys as error:
        raise BadKeys(f"keys[{index}]: {error}") from None


def _framed(*parts: str) -> bytes:
    pieces = []
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        pieces.append(len(encoded).to_bytes(8, "big"))
        pieces.append(encoded)
    return b"".join(pieces)
