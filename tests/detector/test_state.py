"""State: tables that grow, and a packed form that comes back to the bit or is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector.state import Column, StateMismatch, Table, pack, unpack

COLUMNS = (Column("count", "int64"), Column("last", "float32", (3,), fill=-1))


def same(a: Any, b: Any) -> bool:
    """Equal, with arrays equal to the bit, in type and in shape."""
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and a.tobytes() == b.tobytes()
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def packed_by_hand(body: Any) -> bytes:
    return zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(body))


def test_a_table_grows_and_keeps_its_rows() -> None:
    table = Table(COLUMNS)
    for i in range(1000):
        assert table.add() == i
        assert table["last"][i].tolist() == [-1.0, -1.0, -1.0]
        table["count"][i] = i
        table["last"][i] = i
    assert table.rows == 1000
    assert table["count"][:1000].tolist() == list(range(1000))
    assert table["last"][999].tolist() == [999.0] * 3
    assert table.bytes_per_row == 8 + 3 * 4


def test_a_table_by_row_is_the_same_table_with_its_rows_together() -> None:
    table, by_row = Table(COLUMNS), Table(COLUMNS, by_row=True)
    for one in (table, by_row):
        for i in range(200):
            row = one.add()
            one["count"][row] = i
        one["last"][7] = 0.5
    assert same(table.take(), by_row.take())
    assert by_row.bytes_per_row == table.bytes_per_row
    assert table.records.dtype.names == ()
    record = by_row.records[7]
    assert (int(record["count"]), record["last"].tolist()) == (7, [0.5] * 3)
    by_row.records[7]["last"] = 2.0  # it is the table, not a copy
    assert by_row["last"][7].tolist() == [2.0] * 3
    apart = Table(COLUMNS, by_row=True, apart=["count"])
    apart.put(np.arange(200), table.take())
    assert same(apart.take(), table.take())
    assert apart.records.dtype.names == ("last",)
    assert apart["count"].flags.contiguous
    assert not by_row["count"].flags.contiguous
    back = Table(COLUMNS, by_row=True)
    back.put(np.arange(200), table.take())
    assert same(back.take(), table.take())


def test_taken_rows_are_copies() -> None:
    table = Table(COLUMNS)
    for _ in range(3):
        table.add()
    for taken in (table.take(), table.take(np.array([1, 2]))):
        taken["count"][:] = 7
    assert table["count"][:3].tolist() == [0, 0, 0]
    assert len(table.take()["count"]) == 3


def test_put_restores_what_take_took_and_grows_for_it() -> None:
    table = Table(COLUMNS)
    for i in range(5):
        table["count"][table.add()] = 10 * i
    copy = Table(COLUMNS)
    copy.put(np.array([100, 3]), table.take(np.array([4, 2])))
    assert copy.rows == 101
    assert copy["count"][[100, 3, 4]].tolist() == [40, 20, 0]
    assert copy["last"][99].tolist() == [-1.0] * 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((Column("count", "int64"),), "stored columns differ: last"),
        ((*COLUMNS, Column("new", "int8")), "stored columns differ: new"),
        ((Column("count", "int32"), COLUMNS[1]), "column count is stored as int32"),
        ((COLUMNS[0], Column("last", "float32", (4,))), "column last is stored as float32"),
    ],
)
def test_columns_of_another_form_are_refused(columns: tuple[Column, ...], message: str) -> None:
    other = Table(columns)
    other.add()
    with pytest.raises(StateMismatch, match=message):
        Table(COLUMNS).put(np.array([0]), other.take())


_BUILTINS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | arrays.arrays(
        st.sampled_from(["bool", "int8", "int32", "int64", "uint64", "float32", "float64"]),
        arrays.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(_BUILTINS)
def test_what_is_packed_comes_back(state: Any) -> None:
    assert same(unpack("measure", 1, pack("measure", 1, state)), state)


def test_arrays_come_back_writable_and_scalars_as_builtins() -> None:
    state = {"a": np.arange(6).reshape(2, 3).T, "n": np.int64(5), "x": np.float32(0.5)}
    back = unpack("judge", 2, pack("judge", 2, state))
    assert back["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    back["a"][:] = 0
    assert (type(back["n"]), back["n"]) == (int, 5)
    assert (type(back["x"]), back["x"]) == (float, 0.5)


def test_equal_states_are_equal_bytes() -> None:
    state = {"rows": np.arange(10_000), "names": ["a", "b"]}
    assert pack("measure", 1, state) == pack("measure", 1, {**state})


@pytest.mark.parametrize(
    ("kind", "version", "message"),
    [
        ("judge", 1, r"is measure version 1 in format 1; this program reads judge version 1"),
        ("measure", 2, r"is measure version 1 in format 1; this program reads measure version 2"),
    ],
)
def test_another_kind_or_version_is_refused_by_name(kind: str, version: int, message: str) -> None:
    with pytest.raises(StateMismatch, match=message):
        unpack(kind, version, pack("measure", 1, {}))


def test_another_format_is_refused_by_name() -> None:
    body = {"format": 9, "kind": "measure", "version": 1, "state": {}}
    with pytest.raises(StateMismatch, match="version 1 in format 9; this program reads"):
        unpack("measure", 1, packed_by_hand(body))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"format": 1, "kind": "measure"},
        {"format": 1, "kind": "measure", "version": 1},
        [],
        None,
        5,
        "measure",
    ],
)
def test_a_body_without_its_parts_is_damaged(body: Any) -> None:
    with pytest.raises(StateMismatch, match="stored measure state is damaged"):
        unpack("measure", 1, packed_by_hand(body))


def test_every_cut_and_every_flipped_byte_is_refused() -> None:
    state = {"names": ["a", "b"], "rows": np.arange(20, dtype=np.int32)}
    packed = pack("measure", 1, state)
    for size in range(len(packed)):
        with pytest.raises(StateMismatch, match="damaged"):
            unpack("measure", 1, packed[:size])
    for at in range(len(packed)):
        harmed = bytearray(packed)
        harmed[at] ^= 0xFF
        with pytest.raises(StateMismatch, match="damaged"):
            unpack("measure", 1, bytes(harmed))


def extension(dtype: str, shape: tuple[int, ...], data: bytes, code: int = 1) -> Any:
    header = msgspec.msgpack.encode((dtype, shape))
    return msgspec.msgpack.Ext(code, len(header).to_bytes(2, "little") + header + data)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (extension("|O", (1,), b"\0" * 8), "arrays of objects are not read"),
        (extension("O", (0,), b""), "arrays of objects are not read"),
        (extension("<i4", (2,), b"\0" * 4), "damaged"),
        (extension("<i4", (1,), b"\0" * 3), "damaged"),
        (extension("<i4", (-5, 2), b"\0" * 4), "damaged"),
        (extension("nonsense", (1,), b"\0" * 8), "damaged"),
        (extension("<i4", (1,), b"\0" * 4, code=2), "unknown extension 2"),
        (msgspec.msgpack.Ext(1, b""), "damaged"),
        (msgspec.msgpack.Ext(1, b"\xff\xff\x00"), "damaged"),
    ],
)
def test_arrays_that_are_not_what_they_say_are_refused(array: Any, message: str) -> None:
    body = {"format": 1, "kind": "measure", "version": 1, "state": array}
    with pytest.raises(StateMismatch, match=message):
        unpack("measure", 1, packed_by_hand(body))


@pytest.mark.parametrize("value", [object(), {1, 2}.__iter__(), np.array([{}])])
def test_only_builtins_and_plain_arrays_are_packed(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot store"):
        pack("measure", 1, {"value": value})
