"""The checks that every feature family passes, whatever it measures.

`check_feature(family)` runs them all; each raises AssertionError with what it found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from features.base import Array, Family, Slots
from tests.features import slots as make

__all__ = ["CHECKS", "check_feature", "measured", "new_state", "run"]

_ACCOUNTS: Final = 5
_BLOCKS_EACH: Final = 4
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


def new_state(family: Family, rows: int) -> dict[str, Array]:
    """State columns of accounts never seen before."""
    return {column.name: np.zeros((rows, *column.shape), column.dtype) for column in family.state}


def run(
    family: Family,
    slots: Slots,
    rows: Array,
    state: Mapping[str, Array],
    *,
    batch: int | None = None,
    fill: float = np.nan,
) -> Array:
    """What the family writes, `batch` blocks at a time (None: all at once)."""
    out = np.full((len(slots), len(family.features)), fill, np.float32)
    for lo in range(0, len(slots), batch or len(slots)):
        part = slice(lo, lo + (batch or len(slots)))
        family.measure(make.take(slots, part), rows[part], state, out[part])
    return out


def _differences(family: Family, a: Array, b: Array) -> list[str]:
    return [
        feature.name
        for column, feature in enumerate(family.features)
        if a[:, column].tobytes() != b[:, column].tobytes()
    ]


def _same_state(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return all(a[name].tobytes() == b[name].tobytes() for name in a)


def named_and_explained(family: Family) -> None:
    """Names are unique and of lower case, versions count from 1, features say what they are."""
    names = [feature.name for feature in family.features]
    assert names, "no feature"
    assert family.version >= 1
    for name in (family.name, *names, *(column.name for column in family.state)):
        assert _NAME.fullmatch(name), f"{name!r} is not a name"
    assert len(set(names)) == len(names), "two features of one name"
    columns = [column.name for column in family.state]
    assert len(set(columns)) == len(columns), "two columns of one name"
    for feature in family.features:
        assert len(feature.text.split()) >= 3, f"{feature.name} does not say what it is"


def same_in_batches(family: Family) -> None:
    """One block at a time, some, or all: the same numbers and the same state, to the bit."""
    slots, rows = make.chance(1, _ACCOUNTS, _BLOCKS_EACH)
    whole_state = new_state(family, _ACCOUNTS)
    whole = run(family, slots, rows, whole_state)
    for batch in (1, 2, 7):
        state = new_state(family, _ACCOUNTS)
        differ = _differences(family, whole, run(family, slots, rows, state, batch=batch))
        assert not differ, f"{differ} differ when measured {batch} at a time"
        assert _same_state(whole_state, state), f"state differs when measured {batch} at a time"


def any_order_of_accounts(family: Family) -> None:
    """How the blocks of different accounts interleave, and in which rows they are, is no matter."""
    slots, rows = make.chance(2, _ACCOUNTS, _BLOCKS_EACH)
    state = new_state(family, _ACCOUNTS)
    before = run(family, slots, rows, state)
    places = np.random.default_rng(2).permutation(_ACCOUNTS)
    for order in (np.argsort(rows, kind="stable"), np.argsort(-rows, kind="stable")):
        moved = new_state(family, _ACCOUNTS)
        after = run(family, make.take(slots, order), places[rows[order]], moved)
        differ = _differences(family, before[order], after)
        assert not differ, f"{differ} depend on other accounts"
        back = {name: column[places] for name, column in moved.items()}
        assert _same_state(state, back), "state depends on other accounts"


def survives_a_restart(family: Family) -> None:
    """State that was written to bytes and read into other rows goes on as if nothing was."""
    slots, rows = make.chance(3, _ACCOUNTS, _BLOCKS_EACH)
    whole = run(family, slots, rows, new_state(family, _ACCOUNTS))
    for cut in (1, len(slots) // 2, len(slots) - 1):
        state = new_state(family, _ACCOUNTS)
        first = run(family, make.take(slots, slice(0, cut)), rows[:cut], state)
        restored = new_state(family, _ACCOUNTS + 3)
        for column in family.state:
            stored = state[column.name].tobytes()
            values = np.frombuffer(stored, column.dtype).reshape(_ACCOUNTS, *column.shape)
            restored[column.name][3:] = values
        second = run(family, make.take(slots, slice(cut, None)), rows[cut:] + 3, restored)
        differ = _differences(family, whole, np.concatenate([first, second]))
        assert not differ, f"{differ} differ after a restart at block {cut}"


def memory_stays(family: Family) -> None:
    """A row's state takes the bytes that it declares, however long the account lives."""
    slots, _ = make.chance(4, 1, 40)
    rows = np.zeros(len(slots), np.int64)
    state = new_state(family, 1)
    columns = dict(state)
    for _ in range(3):
        run(family, slots, rows, state)
    assert state.keys() == columns.keys(), "columns came or went"
    for column in family.state:
        array = state[column.name]
        assert array is columns[column.name], f"{column.name} was replaced, not changed in place"
        assert array.nbytes == np.dtype(column.dtype).itemsize * int(np.prod(column.shape))
        assert array.dtype == np.dtype(column.dtype)
        assert not array.dtype.hasobject, f"{column.name} holds objects"


def keeps_nothing_else(family: Family) -> None:
    """What a family knows of an account is in its state: zero it and the account is new."""
    slots, rows = make.chance(5, _ACCOUNTS, _BLOCKS_EACH)
    first = run(family, slots, rows, new_state(family, _ACCOUNTS))
    again = run(family, slots, rows, new_state(family, _ACCOUNTS))
    differ = _differences(family, first, again)
    assert not differ, f"{differ} differ between two equal runs"


def finite_on_hostile_input(family: Family) -> None:
    """No NaN and no infinity, in numbers or state, whatever a log can hold."""
    slots = make.hostile()
    names = [name for name in make.HOSTILE for _ in range(2)]
    for rows in (np.repeat(np.arange(len(make.HOSTILE)), 2), np.zeros(len(slots), np.int64)):
        state = new_state(family, len(make.HOSTILE))
        out = run(family, slots, rows.astype(np.int64), state)
        bad = [
            f"{feature.name} of {names[b]!r}"
            for b, column in np.argwhere(~np.isfinite(out)).tolist()
            for feature in (family.features[column],)
        ]
        assert not bad, f"not finite: {', '.join(bad)}"
        for name, column in state.items():
            assert np.isfinite(column).all(), f"state {name} is not finite"


def reads_only_the_block(family: Family) -> None:
    """What lies in the arrays past a block's `n` events is another account's: it has no effect."""
    slots, rows = make.chance(6, _ACCOUNTS, _BLOCKS_EACH)
    clean = run(family, slots, rows, new_state(family, _ACCOUNTS))
    dirty = make.take(slots, slice(None))
    for name in (
        *("ts", "latency", "length", "entropy", "words", "fresh_words"),
        *("function_words", "odd_pairs", "answer", "signs"),
    ):
        for b, n in enumerate(dirty.n.tolist()):
            getattr(dirty, name)[b, n:] = 77
    for name in ("head", "tail", "text"):
        for b, n in enumerate(dirty.n.tolist()):
            getattr(dirty, name)[b, n:] = 7
    differ = _differences(family, clean, run(family, dirty, rows, new_state(family, _ACCOUNTS)))
    assert not differ, f"{differ} read past the block"


def writes_every_number(family: Family) -> None:
    """`out` comes with whatever was in memory, and is overwritten whole."""
    both = [make.chance(7, _ACCOUNTS, _BLOCKS_EACH)[0], make.hostile()]
    slots = make.stack(both)
    rows = np.arange(len(slots), dtype=np.int64)
    one = run(family, slots, rows, new_state(family, len(slots)), fill=-7.0)
    two = run(family, slots, rows, new_state(family, len(slots)), fill=123.0)
    differ = _differences(family, one, two)
    assert not differ, f"{differ} are not always written"


def changes_no_input(family: Family) -> None:
    """The blocks are still to be read by the next family."""
    slots, rows = make.chance(8, _ACCOUNTS, _BLOCKS_EACH)
    before = make.take(slots, slice(None))
    out = np.empty((len(slots), len(family.features)), np.float32)
    family.measure(slots, rows, new_state(family, _ACCOUNTS), out)
    for name in Slots.__dataclass_fields__:
        same = getattr(slots, name).tobytes() == getattr(before, name).tobytes()
        assert same, f"{name} was changed"


def early_revisions_leave_no_trace(family: Family) -> None:
    """A first block is given out up to three times; only the last may move state."""
    slots, rows = make.chance(9, _ACCOUNTS, _BLOCKS_EACH)
    early = make.take(slots, slice(None))
    early.final[:] = False
    state = new_state(family, _ACCOUNTS)
    run(family, early, rows, state)
    assert _same_state(state, new_state(family, _ACCOUNTS)), "an early revision moved the state"
    moved, spared = new_state(family, _ACCOUNTS), new_state(family, _ACCOUNTS)
    whole = run(family, slots, rows, moved)
    final = np.flatnonzero(slots.final)
    assert len(final) < len(slots)
    differ = _differences(
        family, whole[final], run(family, make.take(slots, final), rows[final], spared)
    )
    assert not differ, f"{differ} of final blocks depend on early revisions"
    assert _same_state(moved, spared), "state depends on early revisions"


def a_first_block_is_of_a_new_account(family: Family) -> None:
    """A row may still hold the past of an account forgotten since: index 0 says it is void."""
    slots, rows = make.chance(10, _ACCOUNTS, _BLOCKS_EACH)
    used = new_state(family, _ACCOUNTS)
    fresh = run(family, slots, rows, used)
    differ = _differences(family, fresh, run(family, slots, rows, used))
    assert not differ, f"{differ} remember a forgotten account"


CHECKS: Final[tuple[Callable[[Family], None], ...]] = (
    named_and_explained,
    same_in_batches,
    any_order_of_accounts,
    survives_a_restart,
    memory_stays,
    keeps_nothing_else,
    finite_on_hostile_input,
    reads_only_the_block,
    writes_every_number,
    changes_no_input,
    early_revisions_leave_no_trace,
    a_first_block_is_of_a_new_account,
)


def check_feature(family: Family) -> None:
    """Run every check on a family.

    Raises:
        AssertionError: a check failed; the text says which and what it found.
    """
    for check in CHECKS:
        try:
            check(family)
        except AssertionError as error:
            raise AssertionError(f"{family.name}: {check.__name__}: {error}") from error


def measured(family: Family, *blocks: Slots) -> dict[str, float]:
    """The features of the last of an account's blocks, by name."""
    slots = make.stack(blocks)
    out = run(family, slots, np.zeros(len(slots), np.int64), new_state(family, 1))
    return {f.name: float(value) for f, value in zip(family.features, out[-1], strict=True)}
