"""The mark register: the inputs that `velvetrope prove` will ask a suspect model, encrypted.

One file, a line a question: the key's id, and AES-256-GCM of the compressed question under a key
derived from that key. It is written only where an operator opts in, holds about 4 % of what
suspects asked and nothing of anybody else, and stops at a size. Whoever has the file without the
keyring reads key ids and lengths.

Needs cryptography (`pip install velvetrope-client[register]`).
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from velvetrope_client.keys import Key, Keyring
from velvetrope_client.watermark import Question

__all__ = ["MAX_BYTES", "MAX_PER_SUBJECT", "BadRegister", "MarkRegister", "read"]

MAX_BYTES: Final = 16 << 20
MAX_PER_SUBJECT: Final = 2_000  # about 200 marks, of 50,000 queries
_NONCE_BYTES: Final = 12
_BEGIN: Final = b'{"key"'  # of every line, and nowhere else in one
_MAX_QUESTION: Final = 1 << 20  # bytes of one question before compression


class BadRegister(ValueError):
    """A register that cannot be read; the text says where and why."""


class MarkRegister:
    """Appends to one file. Several processes may write to it at once."""

    __slots__ = (
        "_cipher",
        "_descriptor",
        "_key",
        "_max_bytes",
        "_max_per_subject",
        "_per",
        "_seen",
    )

    def __init__(
        self,
        path: Path | str,
        key: Key,
        *,
        max_bytes: int = MAX_BYTES,
        max_per_subject: int = MAX_PER_SUBJECT,
    ) -> None:
        """Open or create the file with mode 0600; OSError when that cannot be."""
        self._key = key
        self._cipher = _cipher(key)
        self._max_bytes = max_bytes
        self._max_per_subject = max_per_subject
        self._seen: set[bytes] = set()
        self._per: Counter[str] = Counter()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self._descriptor).st_size
        # A line that a crash cut short must not swallow the next one.
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")

    def record(self, question: Question) -> None:
        """Keep a question once; nothing when the file or the subject's share is full. OSError."""
        name = self._key.derive("mark register seen", *question.drawn)[:8]
        if name in self._seen or self._per[question.subject] >= self._max_per_subject:
            return
        line = self._sealed(question)
        if line is None or os.fstat(self._descriptor).st_size + len(line) > self._max_bytes:
            return
        os.write(self._descriptor, line)
        self._seen.add(name)
        self._per[question.subject] += 1

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _sealed(self, question: Question) -> bytes | None:
        value = question.value if isinstance(question.value, str) else list(question.value)
        document = {
            "subject": question.subject,
            "cell": question.cell,
            "value": value,
            "label": question.label,
            "classes": question.classes,
            "rate": question.rate,
        }
        plain = json.dumps(document, separators=(",", ":")).encode()
        if len(plain) > _MAX_QUESTION:
            return None
        nonce = os.urandom(_NONCE_BYTES)
        # The id is authenticated too: a line cannot be passed off as another key's.
        sealed = self._cipher.encrypt(nonce, zlib.compress(plain), self._key.id.encode())
        coded = base64.b64encode(nonce + sealed).decode()
        return json.dumps({"key": self._key.id, "sealed": coded}).encode() + b"\n"


def read(path: Path | str, keyring: Keyring) -> Iterator[Question]:
    """The questions of a register, each once. BadRegister names the line; OSError.

    A line that a crash cut short is passed over; anything else that was tampered with, or whose key
    is not in the ring, is an error.
    """
    ciphers = {key.id: _cipher(key) for key in keyring}
    seen: set[tuple[str, str, str]] = set()
    with Path(path).open("rb") as lines:
        for number, line in enumerate(lines, 1):
            # What another process wrote behind a line that was cut short stands in the same line.
            begin = max(line.rfind(_BEGIN), 0)
            if _is_cut(line[:begin]):
                line = line[begin:]
            if not line.strip() or _is_cut(line):
                continue
            where = f"{path}: line {number}"
            question = _opened(line, ciphers, where)
            if question.drawn not in seen:
                seen.add(question.drawn)
                yield question


def _is_cut(line: bytes) -> bool:
    """Whether a write ended inside this line."""
    begun = line.startswith(_BEGIN) or _BEGIN.startswith(line.rstrip())
    return begun and not line.rstrip().endswith(b'"}')


def _opened(line: bytes, ciphers: dict[str, AESGCM], where: str) -> Question:
    try:
        outer = json.loads(line)
        name, sealed = outer["key"], base64.b64decode(outer["sealed"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadRegister(f"{where}: no line of a mark register") from None
    if not isinstance(name, str) or name not in ciphers:
        raise BadRegister(f"{where}: key {str(name)[:64]!r} is not in the keyring")
    try:
        plain = ciphers[name].decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        inner: dict[str, Any] = json.loads(zlib.decompress(plain))
    except (InvalidTag, ValueError):
        raise BadRegister(f"{where}: not written with key {name} of this keyring") from None
    return Question(
        key_id=name,
        subject=inner["subject"],
        cell=inner["cell"],
        value=inner["value"],
        label=inner["label"],
        classes=tuple(inner["classes"]),
        rate=inner["rate"],
    )


def _cipher(key: Key) -> AESGCM:
    return AESGCM(key.derive("mark register"))
