"""Account state as a struct of arrays, one row per (account, population), and its packed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

__all__ = ["Column", "StateMismatch", "Table", "pack", "unpack"]

_FORMAT: Final = 1
_SMALLEST: Final = 64


class StateMismatch(ValueError):
    """A stored state does not fit this version of the program. The text says which part."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: a fixed shape a row and the value of a new row."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    fill: float = 0


class Table:
    """Columns that grow together, by doubling. `table[name]` is the array of a column.

    Args:
        columns: of different names.
        by_row: what is in a row lies together in memory, for kernels that look at one row at a
            time. They take `records`. Columns are then not contiguous.
        apart: with `by_row`, names of columns that are, since they are read as a whole.
    """

    def __init__(
        self, columns: Sequence[Column], *, by_row: bool = False, apart: Sequence[str] = ()
    ) -> None:
        self.columns = tuple(columns)
        self.rows = 0
        self._arrays: dict[str, NDArray[Any]] = {}
        self._together = tuple(c for c in self.columns if by_row and c.name not in apart)
        fields = [(c.name, np.dtype((c.dtype, c.shape))) for c in self._together]
        self._record = np.dtype(fields, align=True)
        self._allocate(_SMALLEST)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """All columns by name; longer than `rows`."""
        return self._arrays

    @property
    def records(self) -> NDArray[Any]:
        """What lies together of a table by row, a structured array. Valid until a row is added."""
        return self._records

    @property
    def bytes_per_row(self) -> int:
        """Bytes that one row takes over all columns, but for what aligns them."""
        return sum(a.dtype.itemsize * int(np.prod(a.shape[1:])) for a in self._arrays.values())

    def add(self) -> int:
        """A new row, filled with the columns' initial values; its number."""
        row = self.rows
        if row == len(next(iter(self._arrays.values()))):
            self._allocate(2 * row)
        self.rows = row + 1
        return row

    def take(self, rows: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any]]:
        """Copies of the used part of every column, or of some rows of it."""
        if rows is None:
            return {name: array[: self.rows].copy() for name, array in self._arrays.items()}
        return {name: array[rows] for name, array in self._arrays.items()}

    def put(self, rows: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> None:
        """Overwrite some rows, growing as needed, with columns as `take` gave them.

        Raises:
            StateMismatch: the columns' names, types or shapes differ from this table's.
        """
        if set(values) != set(self._arrays):
            odd = set(values) ^ set(self._arrays)
            raise StateMismatch(f"stored columns differ: {', '.join(sorted(odd))}")
        while len(rows) and rows.max() >= self.rows:
            self.add()
        for name, array in values.items():
            own = self._arrays[name]
            if array.dtype != own.dtype or array.shape[1:] != own.shape[1:]:
                raise StateMismatch(
                    f"column {name} is stored as {array.dtype}{array.shape[1:]}, "
                    f"but is {own.dtype}{own.shape[1:]}"
                )
            own[rows] = array

    def _allocate(self, size: int) -> None:
        self._records = np.zeros(size, self._record)
        for column in self.columns:
            if column in self._together:
                grown = self._records[column.name]
            else:
                grown = np.empty((size, *column.shape), dtype=column.dtype)
            grown[:] = column.fill
            if self.rows:
                grown[: self.rows] = self._arrays[column.name][: self.rows]
            self._arrays[column.name] = grown


def pack(kind: str, version: int, state: Any) -> bytes:
    """Builtins and arrays, nested, as compressed msgpack that says what it is and in which form.

    Nothing in it can execute: arrays are their type, shape and bytes.
    """
    body = msgspec.msgpack.encode(
        {"format": _FORMAT, "kind": kind, "version": version, "state": state},
        enc_hook=_encode_array,
    )
    return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(body)


def unpack(kind: str, version: int, packed: bytes) -> Any:
    """What `pack` packed.

    Raises:
        StateMismatch: it is damaged, of another kind, or of a version this program does not read.
    """
    try:
        body = msgspec.msgpack.decode(
            zstandard.ZstdDecompressor().decompress(packed), ext_hook=_decode_array
        )
        found = (body["format"], body["kind"], body["version"])
        state = body["state"]
    except (zstandard.ZstdError, msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        raise StateMismatch(f"stored {kind} state is damaged: {error}") from None
    if found != (_FORMAT, kind, version):
        raise StateMismatch(
            f"stored state is {found[1]} version {found[2]} in format {found[0]}; "
            f"this program reads {kind} version {version} in format {_FORMAT}"
        )
    return state


def _encode_array(value: Any) -> Any:
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        header = msgspec.msgpack.encode((value.dtype.str, value.shape))
        data = len(header).to_bytes(2, "little") + header + np.ascontiguousarray(value).tobytes()
        return msgspec.msgpack.Ext(1, data)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot store a {type(value).__name__}")


def _decode_array(code: int, data: memoryview) -> NDArray[Any]:
    if code != 1:
        raise ValueError(f"unknown extension {code}")
    size = int.from_bytes(data[:2], "little")
    dtype, shape = msgspec.msgpack.decode(data[2 : 2 + size], type=tuple[str, tuple[int, ...]])
    if np.dtype(dtype).hasobject:
        raise ValueError("arrays of objects are not read")
    return np.frombuffer(data, dtype=dtype, offset=2 + size).reshape(shape).copy()
