"""Every family passes the battery, and the battery catches families that should not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from features import FAMILIES, NAMES, TEXTS
from features.base import Array, Family, Feature, Slots, StateColumn
from tests.features import battery
from tests.features.battery import CHECKS, check_feature


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_passes_every_check(family: Family, check: Callable[[Family], None]) -> None:
    check(family)


def test_a_block_has_one_column_a_feature_and_each_is_explained() -> None:
    assert len(set(NAMES)) == len(NAMES) == sum(len(family.features) for family in FAMILIES)
    assert set(TEXTS) == set(NAMES)


class _Counting:
    """Counts an account's final blocks: sound. The broken ones differ from it in one thing."""

    name = "counting"
    version = 1
    features: tuple[Feature, ...] = (Feature("blocks", "blocks of the account so far"),)
    state: tuple[StateColumn, ...] = (StateColumn("count", (), "int64"),)

    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        for b, row in enumerate(rows.tolist()):
            count = state["count"][row] if slots.index[b] > 0 else 0
            out[b, 0] = self.number(slots, b, int(count))
            if slots.final[b]:
                state["count"][row] = count + 1

    def number(self, slots: Slots, b: int, count: int) -> float:
        return float(count)


class _BatchMean(_Counting):
    def number(self, slots: Slots, b: int, count: int) -> float:
        return float(slots.n.mean())


class _CountsCalls(_Counting):
    calls = 0

    def number(self, slots: Slots, b: int, count: int) -> float:
        self.calls += 1
        return float(self.calls)


class _NotFinite(_Counting):
    def number(self, slots: Slots, b: int, count: int) -> float:
        with np.errstate(divide="ignore"):
            return float(np.log(slots.length[b, 0]))


class _ReadsOn(_Counting):
    def number(self, slots: Slots, b: int, count: int) -> float:
        return float(slots.length[b].mean())


class _LeavesOut(_Counting):
    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        out[slots.n > 1] = 1.0


class _Eager(_Counting):
    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        state["count"][rows] += 1
        out[:] = 0.0


class _Haunted(_Counting):
    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        for b, row in enumerate(rows.tolist()):
            out[b, 0] = state["count"][row]
            state["count"][row] += slots.final[b]


class _Scribbles(_Counting):
    def number(self, slots: Slots, b: int, count: int) -> float:
        slots.ts[b].sort()
        return 0.0


class _Grows(_Counting):
    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        out[:] = 0.0
        if isinstance(state, dict):
            state["history"] = np.append(state.get("history", np.zeros(0)), slots.ts)


class _Unexplained(_Counting):
    features = (Feature("blocks", ""),)


def test_a_sound_family_passes() -> None:
    check_feature(_Counting())


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (_Unexplained, battery.named_and_explained),
        (_BatchMean, battery.same_in_batches),
        (_CountsCalls, battery.any_order_of_accounts),
        (_CountsCalls, battery.keeps_nothing_else),
        (_CountsCalls, battery.survives_a_restart),
        (_Grows, battery.memory_stays),
        (_NotFinite, battery.finite_on_hostile_input),
        (_ReadsOn, battery.reads_only_the_block),
        (_LeavesOut, battery.writes_every_number),
        (_Scribbles, battery.changes_no_input),
        (_Eager, battery.early_revisions_leave_no_trace),
        (_Haunted, battery.a_first_block_is_of_a_new_account),
    ],
    ids=lambda part: part.__name__.lstrip("_"),
)
def test_each_check_catches_the_family_it_is_for(
    broken: Callable[[], Family], check: Callable[[Family], None]
) -> None:
    with pytest.raises(AssertionError):
        check(broken())


def test_the_battery_says_which_family_failed_which_check() -> None:
    with pytest.raises(AssertionError, match=r"^counting: finite_on_hostile_input: not finite: "):
        check_feature(_NotFinite())
