"""Accounts that lie near one another, and their mean scores."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from detector.vector_alike import ALIKE, MOST_ACCOUNTS, Alike, squashed
from detector.vector_kernels import FEATURES

N = len(FEATURES)


def two_groups() -> Alike:
    """Ten accounts about the origin that score 1, ten far away that score 5."""
    rng = np.random.default_rng(1)
    alike = Alike()
    for i in range(10):
        alike.put(f"near-{i}", rng.normal(0.0, 0.1, N), 1.0, float(i))
        alike.put(f"far-{i}", 9.0 + rng.normal(0.0, 0.1, N), 5.0, float(i))
    return alike


def mean_of(alike: Alike, account: str) -> float:
    """Mean score of the accounts most like it."""
    around = alike.around(account)
    assert around is not None
    return float(around[0])


def test_the_nearest_accounts_speak() -> None:
    alike = two_groups()
    assert mean_of(alike, "near-3") == pytest.approx(1.0)
    assert mean_of(alike, "far-3") == pytest.approx(5.0)


def test_what_is_around_an_account_is_mean_deviation_and_distance() -> None:
    alike = Alike()
    for i in range(ALIKE + 3):
        place = np.zeros(N)
        place[0] = float(i)
        alike.put(f"a{i}", place, float(i), 0.0)
    nearest = np.arange(1.0, ALIKE + 1.0)
    around = alike.around("a0")
    assert around is not None
    assert around == pytest.approx([nearest.mean(), nearest.std(), ALIKE])


def test_an_account_does_not_speak_for_itself() -> None:
    alike = two_groups()
    alike.put("near-3", np.zeros(N), 1000.0, 20.0)
    assert mean_of(alike, "near-3") == pytest.approx(1.0)


def test_an_account_moves() -> None:
    alike = two_groups()
    alike.put("near-3", np.full(N, 9.0), 1.0, 20.0)
    assert mean_of(alike, "near-3") == pytest.approx(5.0)


def test_a_few_accounts_are_no_company() -> None:
    alike = Alike()
    for i in range(ALIKE):
        alike.put(f"a{i}", np.zeros(N), 1.0, 0.0)
        assert alike.around(f"a{i}") is None
    alike.put("one more", np.zeros(N), 1.0, 0.0)
    assert mean_of(alike, "one more") == pytest.approx(1.0)


def test_the_longest_silent_makes_room() -> None:
    alike = Alike()
    place = np.zeros(N)
    for i in range(MOST_ACCOUNTS):
        alike.put(f"a{i}", place, 0.0, float(i))
    alike.put("a0", place, 0.0, float(MOST_ACCOUNTS))
    alike.put("new", place, 0.0, float(MOST_ACCOUNTS))
    held = alike.export()["rows"]
    assert len(held) == MOST_ACCOUNTS
    assert "a1" not in held
    assert {"a0", "a2", "new"} <= held.keys()


def test_goes_on_alike_after_a_restart() -> None:
    first, second = two_groups(), Alike()
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.export())))
    for i in range(80):
        place = np.full(N, i / 10.0)
        first.put(f"more-{i}", place, float(i), 30.0 + i)
        second.put(f"more-{i}", place, float(i), 30.0 + i)
        assert np.array_equal(first.around(f"more-{i}"), second.around(f"more-{i}"))
    assert first.export() == second.export()


def test_squashing_keeps_sign_and_order() -> None:
    given = np.array([-50.0, -1.0, 0.0, 1.0, 50.0])
    found = squashed(given)
    assert (np.diff(found) > 0.0).all()
    assert found[2] == 0.0
    assert abs(found).max() < 4.0
