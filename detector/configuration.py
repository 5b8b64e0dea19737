"""Reads the settings from where operators put them, and says where each one came from.

Strongest first: arguments, environment (`VELVETROPE_JUDGE__TICK_S`), secret files
(`VELVETROPE_API__SECRET_FILE`, then the folder `secrets_dir`), the TOML file, the defaults.
"""

from __future__ import annotations

import difflib
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError
from pydantic_settings import TomlConfigSettingsSource as TomlSource

from detector.settings import Settings

__all__ = ["DEFAULT_FILE", "ENV_PREFIX", "ConfigError", "Loaded", "load", "rows"]

ENV_PREFIX: Final = "VELVETROPE_"
DEFAULT_FILE: Final = Path("velvetrope.toml")
MASK: Final = "********"
# Read by the commands themselves: names the TOML file.
_CONFIG_VARIABLE: Final = ENV_PREFIX + "CONFIG"
_FILE_SUFFIX: Final = "_FILE"

_Path = tuple[str, ...]


class ConfigError(ValueError):
    """The settings cannot be used. Each of `lines` says one thing that is wrong, and where."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(frozen=True)
class Loaded:
    """Settings, and for each that was set (`judge.tick_s`) where."""

    settings: Settings
    origins: Mapping[str, str]
    file: Path | None


class _Sources(Settings, BaseSettings):  # type: ignore[misc]
    """The fields, in the shape that pydantic-settings' sources want them. Never instantiated."""


def load(file: Path | None = None, arguments: Mapping[str, object] | None = None) -> Loaded:
    """Read the settings.

    Args:
        file: the TOML file; None takes `VELVETROPE_CONFIG`, else `velvetrope.toml` if it is there.
        arguments: dotted name to value, from the command line; a None counts as not given.

    Raises:
        ConfigError: a file cannot be read, a key is unknown or a value is refused.
    """
    if file is None:
        named = os.environ.get(_CONFIG_VARIABLE)
        file = Path(named) if named else DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    lines: list[str] = []
    if file is not None:
        tree = _read_toml(file)
        places = _places(file)
        _merge(values, tree, origins, lambda path: _place(file, places, path))
    environment, variables = _read_environment()
    directory = environment.get("secrets_dir") or values.get("secrets_dir")
    if directory:
        for path, secret_file in _secret_files(Path(str(directory))):
            _set(values, path, _read_secret(secret_file))
            origins[".".join(path)] = f"file {secret_file}"
    for path, name, secret_file in _named_secret_files():
        _set(values, path, _read_secret(secret_file))
        origins[".".join(path)] = f"file {secret_file} ({name})"
    _merge(values, environment, origins, lambda path: _variable(variables, path))
    for dotted, value in (arguments or {}).items():
        if value is not None:
            _set(values, tuple(dotted.split(".")), value)
            origins[dotted] = "argument"
    lines += _unknown_variables()
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        lines += [_explain(dict(problem), origins) for problem in error.errors()]
    if lines:
        raise ConfigError(lines)
    return Loaded(settings, origins, file)


def rows(loaded: Loaded) -> Iterator[tuple[str, Any, str]]:
    """(dotted name, value with secrets masked, where it came from) of every setting."""
    for path, model, field in _leaves(Settings):
        value: Any = loaded.settings
        for part in path:
            value = getattr(value, part)
        default = model.model_fields[field].get_default(call_default_factory=True)
        dotted = ".".join(path)
        origin = loaded.origins.get(dotted)
        if origin is None:
            origin = next(
                (o for name, o in loaded.origins.items() if name.startswith(dotted + ".")),
                "default" if value == default or default is PydanticUndefined else "set",
            )
        yield dotted, masked(value), origin


def masked(value: Any) -> Any:
    """The value for printing: JSON types only, secrets hidden."""
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, BaseModel):
        return {name: masked(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


# TOML


def _read_toml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError([f"{file}: there is no such file"])
    try:
        return dict(TomlSource(_Sources, toml_file=file).toml_data)
    except (ValueError, OSError) as error:  # tomllib's errors are ValueErrors with line and column
        raise ConfigError([f"{file}: {error}"]) from None


def _places(file: Path) -> dict[_Path, int]:
    """Line of each table and key, as far as one look at each line can tell."""
    places: dict[_Path, int] = {}
    table: _Path = ()
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
        text = line.strip()
        header = re.match(r"\[\[?([^\[\]]+)\]\]?", text)
        if header:
            table = _split_key(header[1])
            places.setdefault(table, number)
            continue
        key = re.match(r"""((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[\w"'-]+)*)\s*=""", text)
        if key:
            places.setdefault((*table, *_split_key(key[1])), number)
    return places


def _split_key(text: str) -> _Path:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


def _place(file: Path, places: Mapping[_Path, int], path: _Path) -> str:
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return f"{file}:{places[path[:length]]}"
    return str(file)


# Environment and secret files


def _read_environment() -> tuple[dict[str, Any], dict[_Path, str]]:
    """What the environment sets, as a tree, and the variable that set each path."""
    source = EnvSettingsSource(
        _Sources, env_prefix=ENV_PREFIX, env_nested_delimiter="__", env_ignore_empty=True
    )
    try:
        tree = source()
    except SettingsError as error:
        field = re.search(r'"(\w+)"', str(error))
        name = ENV_PREFIX + field[1].upper() if field else ENV_PREFIX
        raise ConfigError([f"environment: {name}…: not the JSON that this setting wants"]) from None
    variables = {_env_path(name): name for name in os.environ if name.startswith(ENV_PREFIX)}
    known = {path for path in variables if _lookup(path) is not None}
    return _prune(tree, known), variables


def _env_path(name: str) -> _Path:
    return tuple(name.removeprefix(ENV_PREFIX).lower().split("__"))


def _prune(tree: dict[str, Any], known: set[_Path]) -> dict[str, Any]:
    """Only what a variable set by name: unknown ones are reported by name, not by pydantic."""
    pruned: dict[str, Any] = {}
    for path in known:
        value: Any = tree
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            _set(pruned, path, value)
    return pruned


def _variable(variables: Mapping[_Path, str], path: _Path) -> str:
    for length in range(len(path), 0, -1):
        if path[:length] in variables:
            return f"environment {variables[path[:length]]}"
    return "environment"


def _unknown_variables() -> list[str]:
    lines = []
    valid = [ENV_PREFIX + "__".join(path).upper() for path, _, _ in _leaves(Settings)]
    secrets = {path for path, _, _ in _secret_leaves()}
    for name in sorted(os.environ):
        if not name.startswith(ENV_PREFIX) or name == _CONFIG_VARIABLE:
            continue
        path = _env_path(name)
        if _lookup(path) is not None:
            continue
        if name.endswith(_FILE_SUFFIX) and _env_path(name[: -len(_FILE_SUFFIX)]) in secrets:
            continue
        lines.append(f"environment: {name} is not a setting{_nearest(name, valid)}")
    return lines


def _secret_leaves() -> Iterator[tuple[_Path, type[BaseModel], str]]:
    for path, model, field in _leaves(Settings):
        if SecretStr in _alternatives(model.model_fields[field].annotation):
            yield path, model, field


def _named_secret_files() -> Iterator[tuple[_Path, str, Path]]:
    for path, _, _ in _secret_leaves():
        direct = ENV_PREFIX + "__".join(path).upper()
        name = direct + _FILE_SUFFIX
        file = os.environ.get(name)
        if not file:
            continue
        if os.environ.get(direct):
            raise ConfigError([f"environment: both {direct} and {name} are set; set one"])
        yield path, name, Path(file)


def _secret_files(directory: Path) -> Iterator[tuple[_Path, Path]]:
    """Files of the folder that are named like a secret; others are somebody else's."""
    if not directory.is_dir():
        raise ConfigError([f"secrets_dir: {directory} is not a folder"])
    for path, _, _ in _secret_leaves():
        for name in ("__".join(path), ENV_PREFIX + "__".join(path).upper()):
            if (directory / name).is_file():
                yield path, directory / name


def _read_secret(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError([f"{file}: the secret cannot be read: {reason}"]) from None


# The model's fields


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _leaves(model: type[BaseModel], path: _Path = ()) -> Iterator[tuple[_Path, Any, str]]:
    """(path, model that holds it, field) of every setting that is not itself a group."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, (*path, name))
        else:
            yield (*path, name), model, name


def _lookup(path: tuple[str | int, ...]) -> Any:
    """The annotation at the path, or None where the path leads nowhere."""
    annotation: Any = Settings
    for part in path:
        if isinstance(part, int):
            arguments = [a for a in typing.get_args(annotation) if a is not Ellipsis]
            annotation = arguments[0] if arguments else None
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(part)
            annotation = field.annotation if field else None
        else:
            annotation = None
        if annotation is None:
            return None
    return annotation


def _merge(
    into: dict[str, Any], tree: Mapping[str, Any], origins: dict[str, str], place: Any
) -> None:
    for path, value in _flatten(tree):
        _set(into, path, value)
        origins[".".join(path)] = place(path)


def _flatten(tree: Mapping[str, Any], path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    for name, value in tree.items():
        here = (*path, name)
        annotation = _lookup(here)
        is_group = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        if isinstance(value, Mapping) and is_group:
            yield from _flatten(value, here)
        else:
            yield here, value


def _set(tree: dict[str, Any], path: _Path, value: Any) -> None:
    for part in path[:-1]:
        below = tree.get(part)
        if not isinstance(below, dict):
            below = tree[part] = {}
        tree = below
    tree[path[-1]] = value


# Errors


def _explain(problem: dict[str, Any], origins: Mapping[str, str]) -> str:
    location = tuple(problem["loc"])
    dotted = _dotted(location)
    origin = _origin(location, origins)
    if problem["type"] == "extra_forbidden":
        model = _lookup(location[:-1])
        siblings = list(model.model_fields) if model else []
        return (
            f"{origin}: {dotted} is not a setting{_suggest(str(location[-1]), location, siblings)}"
        )
    message = problem["msg"]
    message = message[0].lower() + message[1:]
    if problem["type"] == "value_error" and isinstance(problem["input"], Mapping):
        # About several settings at once, which it names: what was given holds secrets too.
        return f"{dotted or origin}: {message.removeprefix('value error, ')}"
    annotation = _lookup(location)
    if annotation is not None and SecretStr in _alternatives(annotation):
        return f"{origin}: {dotted}: {message}"
    shown = repr(problem["input"])
    return f"{origin}: {dotted} = {shown[:80]}: {message}"


def _dotted(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _origin(location: tuple[str | int, ...], origins: Mapping[str, str]) -> str:
    for length in range(len(location), 0, -1):
        origin = origins.get(".".join(map(str, location[:length])))
        if origin:
            return origin
    return "settings"


def _suggest(name: str, location: tuple[str | int, ...], siblings: list[str]) -> str:
    near = difflib.get_close_matches(name, siblings, 1)
    if near:
        return f"; did you mean {_dotted((*location[:-1], near[0]))}?"
    # Right name in the wrong table?
    leaves = [path for path, _, _ in _leaves(Settings)]
    near = difflib.get_close_matches(name, [path[-1] for path in leaves], 1)
    if near:
        return f"; did you mean {'.'.join(next(p for p in leaves if p[-1] == near[0]))}?"
    return _nearest(_dotted(location), [".".join(path) for path in leaves])


def _nearest(name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(name, valid, 1, cutoff=0.0)
    return f"; did you mean {near[0]}?" if near else ""
