"""What poison does at which endpoint, in Python or from one TOML file.

    keys = "keys.json"                      # relative to this file, as all paths

    [[endpoint]]                            # the first whose pattern matches counts
    match = "/v1/classify*"
    shaping = { digits = 2 }
    paths = { classes = ["spam", "ham"] }
    wrong_answers = { wrong_from = 1, profile = "classify.profile.json" }
    watermark = { from_level = 1, register = "marks.register" }

    [[endpoint]]
    match = "/v1/chat/*"
    canaries = { from_level = 1 }

    [guard]                                 # of requests, whoever sends them
    system_prompt = "generic"

Everything that may tell a customer something wrong, or write into his answers, is off until its
level is given; shaping alone is on.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from velvetrope_client.canary import SHARE, Closings
from velvetrope_client.classifier_answers import ClassifierPaths
from velvetrope_client.guard import GuardSettings
from velvetrope_client.keys import Keyring
from velvetrope_client.shaping import ShapingSettings
from velvetrope_client.watermark import RATE, Register
from velvetrope_client.wrong_answers import WrongAnswerSettings

__all__ = [
    "BadSettings",
    "CanarySettings",
    "EndpointSettings",
    "RewriterSettings",
    "WatermarkSettings",
    "check",
    "load",
]


class BadSettings(ValueError):
    """Settings that cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """Closing remarks of texts: from which level (0 never), in which share, of which wordings."""

    from_level: int = 0
    share: float = SHARE
    closings: Closings | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise BadSettings(f"share: above 0 and at most 1, not {self.share}")


@dataclass(frozen=True, slots=True)
class WatermarkSettings:
    """Marks of classifiers: from which level (0 never); the rest as in `Watermark`."""

    from_level: int = 0
    rate: float = RATE
    scale: tuple[float, ...] | None = None
    register: Register | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 0.005:
            raise BadSettings(f"rate: above 0 and below 0.005, not {self.rate}")


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """What poison does at the endpoints that a glob pattern matches."""

    match: str = "*"
    shaping: ShapingSettings = field(default_factory=ShapingSettings)
    paths: ClassifierPaths = field(default_factory=ClassifierPaths)
    wrong_answers: WrongAnswerSettings = field(default_factory=WrongAnswerSettings)
    watermark: WatermarkSettings = field(default_factory=WatermarkSettings)
    canaries: CanarySettings = field(default_factory=CanarySettings)

    @property
    def needs_keys(self) -> bool:
        """Whether anything here is drawn by a key."""
        return bool(
            self.wrong_answers.opted_in or self.watermark.from_level or self.canaries.from_level
        )


@dataclass(frozen=True, slots=True)
class RewriterSettings:
    """The endpoints, of which the first that matches counts, the keys, the guard; see the module.

    `max_body_bytes` is the largest answer that is read; a larger one passes unchanged. Raises
    BadSettings when something needs keys and there are none.
    """

    endpoints: tuple[EndpointSettings, ...] = ()
    keys: Keyring | None = None
    guard: GuardSettings = field(default_factory=GuardSettings)
    max_body_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        for endpoint in self.endpoints:
            if self.keys is None and endpoint.needs_keys:
                raise BadSettings(
                    f"endpoint {endpoint.match!r}: wrong answers, marks and canaries need `keys`"
                )


def load(path: Path | str) -> RewriterSettings:
    """Read the file, and open or create the register it names.

    BadSettings says what is wrong where: also of a file that cannot be read, and of a setting that
    needs an extra which is not installed.
    """
    return _loaded(Path(path), open_register=True)


def check(path: Path | str) -> None:
    """Raise BadSettings where `load` would, but create no register: another user may write it.

    Whether the register's file may be written is not tried.
    """
    _loaded(Path(path), open_register=False)


def _loaded(path: Path, *, open_register: bool) -> RewriterSettings:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return _settings(document, path.parent, open_register)
    except OSError as error:
        raise BadSettings(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # TOML's, and those of everything that is read from it
        raise BadSettings(f"{path}: {error}") from error


def _settings(document: dict[str, Any], folder: Path, open_register: bool) -> RewriterSettings:
    known = {"keys": str, "max_body_bytes": int, "endpoint": list, "guard": dict}
    _check(document, known, "")
    found: dict[str, Any] = {}
    if "keys" in document:
        found["keys"] = _read("keys", Keyring.load, folder / document["keys"])
    if "max_body_bytes" in document:
        found["max_body_bytes"] = document["max_body_bytes"]
    if "guard" in document:
        found["guard"] = _part(GuardSettings, {}, document["guard"], "guard")
    files = _Files(folder, found.get("keys"), open_register)
    endpoints = [
        _endpoint(entry, f"endpoint[{place}]", files)
        for place, entry in enumerate(document.get("endpoint", []))
    ]
    return RewriterSettings(endpoints=tuple(endpoints), **found)


def _endpoint(entry: Any, where: str, files: _Files) -> EndpointSettings:
    if not isinstance(entry, dict):
        raise BadSettings(f"{where}: expected a table")
    _check(entry, {"match": str, **dict.fromkeys(_PARTS, dict)}, f"{where}.")
    parts: dict[str, Any] = {}
    for name, kind in _PARTS.items():
        if name in entry:
            parts[name] = _part(kind, files.readers(), entry[name], f"{where}.{name}")
    return EndpointSettings(match=entry.get("match", "*"), **parts)


def _part(
    kind: type[Any],
    readers: Mapping[str, Callable[[str], Any]],
    table: dict[str, Any],
    where: str,
) -> Any:
    defaults = kind()
    known: dict[str, type] = {}
    for one in fields(kind):
        value = getattr(defaults, one.name)
        if one.name in readers:
            known[one.name] = str
        else:
            known[one.name] = tuple if value is None else type(value)
    _check(table, known, f"{where}.")
    values: dict[str, Any] = {}
    try:
        for name, value in table.items():
            if name in readers:
                values[name] = _read(name, readers[name], value)
            elif isinstance(value, list):
                values[name] = tuple(value)
            else:
                values[name] = float(value) if known[name] is float else value
        return kind(**values)
    except ValueError as error:
        raise BadSettings(f"{where}: {error}") from error


def _read(name: str, reader: Callable[[Any], Any], path: Path | str) -> Any:
    """What the setting's file holds."""
    try:
        return reader(path)
    except OSError as error:
        raise BadSettings(f"{name}: {error.filename or path}: {error.strerror}") from error
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in _EXTRAS:
            raise
        raise BadSettings(
            f"{name} = {str(path)!r} needs {module}, which is not installed: "
            f"install velvetrope-client[{_EXTRAS[module]}]"
        ) from error


def _check(table: dict[str, Any], known: Mapping[str, type], where: str) -> None:
    for name, value in table.items():
        if name not in known:
            raise BadSettings(f"{where}{name}: no such setting; there are {', '.join(known)}")
        kind = known[name]
        accepted: tuple[type, ...] = {float: (float, int), tuple: (list,)}.get(kind, (kind,))
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise BadSettings(f"{where}{name}: expected {_NAMES[kind]}, not {value!r}")


class _Files:
    """Reads what the settings name by a path relative to their file."""

    def __init__(self, folder: Path, keys: Keyring | None, open_register: bool) -> None:
        self._folder = folder
        self._keys = keys
        self._open_register = open_register

    def readers(self) -> dict[str, Callable[[str], Any]]:
        """By the name of the setting."""
        return {"profile": self._profile, "closings": self._closings, "register": self._register}

    # Imported where they are used: a profile needs numpy, a register cryptography.

    def _profile(self, path: str) -> Any:
        from velvetrope_client import profile

        return profile.load(self._folder / path)

    def _closings(self, path: str) -> Closings:
        return Closings.load(self._folder / path)

    def _register(self, path: str) -> Register | None:
        from velvetrope_client.register import MarkRegister

        if self._keys is None:
            raise BadSettings("a register needs `keys`")
        file = self._folder / path
        if not file.parent.is_dir():
            raise BadSettings(f"register: {file}: there is no such folder")
        return MarkRegister(file, self._keys.current) if self._open_register else None


_PARTS: Final[Mapping[str, type[Any]]] = {
    "shaping": ShapingSettings,
    "paths": ClassifierPaths,
    "wrong_answers": WrongAnswerSettings,
    "watermark": WatermarkSettings,
    "canaries": CanarySettings,
}
_EXTRAS: Final = {"numpy": "profile", "cryptography": "register"}
_NAMES: Final = {
    str: "text",
    int: "a whole number",
    float: "a number",
    tuple: "a list",
    list: "a list",
    dict: "a table",
}
