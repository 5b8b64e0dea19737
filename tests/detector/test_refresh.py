"""The reference follows customers, and a poisoner gains no more than the stated bound."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.refresh import MOST, STEP, Adwin, Refresh

BAR = 1.0


def week_tops(rng: np.random.Generator, count: int, *, shift: float = 0.0) -> list[float]:
    """Customers of whom 5 % pass the bar, moved."""
    return [float(top) for top in rng.exponential(size=count) - math.log(20.0) + BAR + shift]


def run(refresh: Refresh, days: list[list[float]], first: int = 0) -> list[float]:
    """Shift at the end of each day."""
    shifts = []
    for day, tops in enumerate(days, first):
        refresh.turn(day, 1000 * day, 86_400.0 * day)
        refresh.take(tops)
        shifts.append(refresh.active.shift)
    return shifts


def test_customers_as_they_were_move_nothing() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        refresh = Refresh("shipped", BAR)
        assert run(refresh, [week_tops(rng, 300) for _ in range(120)]) == [0.0] * 120
        assert [version.name for version in refresh.versions] == ["shipped"]


def test_customers_who_rise_are_followed_by_a_step_a_day_and_back() -> None:
    rng = np.random.default_rng(1)
    refresh = Refresh("shipped", BAR)
    calm = [week_tops(rng, 300) for _ in range(20)]
    risen = [week_tops(rng, 300, shift=0.4) for _ in range(40)]
    back = [week_tops(rng, 300) for _ in range(40)]
    shifts = run(refresh, [*calm, *risen, *back])
    assert max(abs(b - a) for a, b in pairwise(shifts)) <= STEP + 1e-9
    assert set(shifts[:20]) == {0.0}
    assert shifts[59] == pytest.approx(0.4, abs=0.12)
    assert shifts[-1] == 0.0
    names = [version.name for version in refresh.versions]
    assert names == ["shipped", *(f"shipped+{i}" for i in range(1, len(names)))]
    assert [v.tick for v in refresh.versions] == sorted(v.tick for v in refresh.versions)
    assert {v.why.split(";")[0] for v in refresh.versions[1:]} == {
        "customers' log-odds rose",
        "they fell back",
    }


@pytest.mark.parametrize("share_a_day", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("height", [0.2, 1.0, 50.0])
def test_a_poisoner_moves_thresholds_by_the_stated_bound_at_most(
    share_a_day: float, height: float
) -> None:
    """Each day a larger share of the unsuspected weeks is his, as far up as he likes."""
    rng = np.random.default_rng(3)
    refresh = Refresh("shipped", BAR)
    days = []
    for day in range(100):
        his = int(300 * min(share_a_day * day, 0.9))
        days.append(rng.permutation([*week_tops(rng, 300 - his), *[BAR + height] * his]).tolist())
    shifts = run(refresh, days)
    assert 0.0 < max(shifts) <= MOST
    assert max(np.diff(shifts)) <= STEP + 1e-9


@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(-5.0, 50.0)), max_size=12),
    st.integers(0, 2**32),
)
@settings(max_examples=20, deadline=None)
def test_whatever_is_fed_the_bound_holds_and_never_below(
    said: list[tuple[float, float]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    days = [np.where(rng.uniform(size=300) < share, at, 0.0).tolist() for share, at in said]
    shifts = run(Refresh("shipped", BAR), days)
    assert all(0.0 <= shift <= MOST for shift in shifts)


def risen() -> Refresh:
    rng = np.random.default_rng(5)
    refresh = Refresh("shipped", BAR)
    run(refresh, [week_tops(rng, 300, shift=0.4) for _ in range(12)])
    assert refresh.active.shift >= 0.2
    assert refresh.active.name == f"shipped+{len(refresh.versions) - 1}"
    return refresh


def test_a_version_can_be_taken_back_and_is_kept_until_told_otherwise() -> None:
    refresh = risen()
    rng = np.random.default_rng(6)
    assert refresh.ask("shipped", 99, 9.0)
    assert (refresh.active.name, refresh.active.shift, refresh.active.tick) == ("shipped", 0.0, 99)
    more = [week_tops(rng, 300, shift=0.4) for _ in range(5)]
    assert set(run(refresh, more, 20)) == {0.0}
    assert not refresh.ask("shipped+77", 100, 10.0)
    assert refresh.describe()["held"] is True
    assert refresh.ask(None, 101, 11.0)
    assert max(run(refresh, more, 30)) > 0.0
    names = [version.name for version in refresh.versions]
    assert names.count("shipped") == 2
    assert len({n for n in names if n != "shipped"}) == len(names) - 2


def test_in_the_middle_of_anything_a_restart_changes_nothing() -> None:
    rng = np.random.default_rng(8)
    days = [week_tops(rng, 301, shift=0.02 * day) for day in range(30)]
    whole = Refresh("shipped", BAR)
    expected = run(whole, days)
    for cut in (1, 7, 15):
        first, second = Refresh("shipped", BAR), Refresh("shipped", BAR)
        run(first, days[:cut])
        second.restore(first.export())
        assert run(second, days[cut:], cut) == expected[cut:]
        assert second.describe() == whole.describe()


def test_another_reference_begins_its_own_versions() -> None:
    old = risen()
    new = Refresh("own", BAR)
    new.restore(old.export())
    assert [version.name for version in new.versions] == ["own"]
    assert new.active.shift == 0.0


def test_so_many_versions_are_kept_and_the_first_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.refresh._VERSIONS_KEPT", 4)
    refresh = Refresh("shipped", BAR)
    for day in range(9):
        refresh._begin(0.1, day, 86_400.0 * day, "a test")
    assert [v.name for v in refresh.versions] == ["shipped", "shipped+7", "shipped+8", "shipped+9"]


def test_of_other_models_only_the_names_used_stay() -> None:
    before = risen()
    after = Refresh("shipped", BAR)
    after.restore(before.export(), anew=True)
    assert after.describe() == Refresh("shipped", BAR).describe()
    assert after._begin(0.1, 1, 1.0, "a test").name not in {v.name for v in before.versions}


def test_few_weeks_move_nothing() -> None:
    refresh = Refresh("shipped", BAR)
    assert run(refresh, [[9.0] * 40] * 12) == [0.0] * 12


# ADWIN


def test_one_stretch_is_hardly_ever_cut() -> None:
    cut = 0
    for seed in range(20):
        adwin = Adwin()
        bits = (np.random.default_rng(seed).uniform(size=2000) < 0.05).astype(float)
        cut += max(adwin.add(bit) for bit in bits.tolist())
    assert cut <= 2


def test_it_finds_what_rivers_finds() -> None:
    """A change is seen within a few looks of when River's ADWIN sees it."""
    from river import drift

    for seed, (before, after) in enumerate([(0.05, 0.3), (0.05, 0.15), (0.5, 0.2)]):
        rng = np.random.default_rng(seed)
        bits = [
            *(rng.uniform(size=1500) < before).astype(float).tolist(),
            *(rng.uniform(size=1500) < after).astype(float).tolist(),
        ]
        own, rivers = Adwin(), cast(Any, drift).ADWIN(delta=0.002)
        seen = [i for i, bit in enumerate(bits) if own.add(bit)]
        theirs = []
        for i, bit in enumerate(bits):
            rivers.update(bit)
            if rivers.drift_detected:
                theirs.append(i)
        assert 1500 <= seen[0] <= 2200
        assert abs(seen[0] - theirs[0]) <= 160
        # What is left is of the new kind.
        assert len(own.values) <= 1600
        assert np.mean(own.values) == pytest.approx(after, abs=0.05)
