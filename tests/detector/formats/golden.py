"""The golden records beside this file, and what each decodes to.

    python -m tests.detector.formats.golden

writes every `NAME.events.json` anew, for a person to read the difference.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from detector.events import EndOfInput, Event
from detector.formats import get

__all__ = ["READ_AT", "cases", "decoded", "expected", "record_of"]

FOLDER = Path(__file__).parent / "golden"
READ_AT = 1_800_000_000.0  # after every recording


def cases() -> list[str]:
    """`format/name` of every golden record."""
    files = (file for file in FOLDER.glob("*/*") if not file.name.endswith(".events.json"))
    return sorted(f"{file.parent.name}/{file.stem}" for file in files)


def record_of(case: str) -> bytes:
    """The record as it was written by the program that logs it."""
    (file,) = (f for f in FOLDER.glob(f"{case}.*") if not f.name.endswith(".events.json"))
    return file.read_bytes().removesuffix(b"\n")


def expected(case: str) -> list[dict[str, Any]]:
    """Its events, without fields that are None."""
    events: list[dict[str, Any]] = json.loads((FOLDER / f"{case}.events.json").read_text())
    return events


def decoded(events: list[Event | EndOfInput]) -> list[dict[str, Any]]:
    """Events in the form of `expected`."""
    plain = [msgspec.to_builtins(event) for event in events]
    return [{name: value for name, value in e.items() if value is not None} for e in plain]


def main() -> None:
    for case in cases():
        events = get(case.split("/")[0]).decode(record_of(case), READ_AT)
        text = json.dumps(decoded(events), indent=1, ensure_ascii=False)
        (FOLDER / f"{case}.events.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
