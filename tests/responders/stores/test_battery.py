"""The battery that every decision store passes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from responders.actions.challenge import Passed
from responders.allowlist import AllowEntry
from responders.settings import RedisSettings
from responders.stores.base import CursorTooOld, DecisionStore, Identity, gateway_json
from responders.stores.memory import MemoryStore
from responders.stores.redis import RedisStore
from responders.stores.sqlite import SqliteStore
from tests.responders.making import NOW, decision

KEPT = 100


@dataclass
class Clock:
    """Event time that a test sets."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def make_store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> Iterator[Callable[[], DecisionStore]]:
    """Makes empty stores of one kind, all on one clock, keeping KEPT changes."""
    made: list[DecisionStore] = []

    def make() -> DecisionStore:
        store: DecisionStore
        if request.param == "memory":
            store = MemoryStore(clock=clock, changes_kept=KEPT)
        elif request.param == "sqlite":
            path = tmp_path / f"{uuid.uuid4().hex}.db"
            store = SqliteStore(path, clock=clock, changes_kept=KEPT)
        else:
            url = request.getfixturevalue("redis_running").url
            prefix = f"{{{uuid.uuid4().hex}}}[*?]:"
            store = RedisStore(
                RedisSettings(url=url, prefix=prefix, changes_kept=KEPT), clock=clock
            )
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: Callable[[], DecisionStore]) -> DecisionStore:
    return make_store()


def versions(store: DecisionStore, since: str) -> list[int]:
    return [d.version for d in store.changes(since).decisions]


def test_an_applied_decision_is_there_and_live_until_it_ends(store: DecisionStore) -> None:
    assert store.apply([decision()]) == [True]
    kept = store.get("account", "acct-1")
    assert kept is not None
    assert (kept.id, kept.params["rate_per_min"], kept.expires_at) == ("d-1", 6.0, NOW + 3600)
    assert [d.id for d in store.live(NOW + 3599)] == ["d-1"]
    assert store.live(NOW + 3600) == []


def test_applying_again_changes_nothing(store: DecisionStore) -> None:
    start = store.changes().cursor
    assert store.apply([decision(1)]) == [True]
    assert store.apply([decision(1)]) == [False]
    assert versions(store, start) == [1]


def test_a_lower_version_loses(store: DecisionStore) -> None:
    store.apply([decision(2, level=2)])
    assert store.apply([decision(1)]) == [False]
    kept = store.get("account", "acct-1")
    assert kept is not None
    assert kept.level == 2


def test_versions_near_2_to_the_53_are_told_apart_and_larger_ones_refused(
    store: DecisionStore,
) -> None:
    top = 2**53 - 1
    assert store.apply([decision(top - 1), decision(top - 2), decision(top)]) == [
        True,
        False,
        True,
    ]
    with pytest.raises(ValueError, match="out of range"):
        store.apply([decision(2**53)])


def test_an_older_writer_loses_against_a_clear_a_day_past_its_expiry(
    store: DecisionStore, clock: Clock
) -> None:
    store.apply([decision(5), decision(6, action="clear", level=0)])
    assert store.live(NOW) == []
    clock.now = NOW + 3600 + 86_399
    assert store.apply([decision(5)]) == [False]


def test_a_decision_that_ended_before_it_came_only_guards(store: DecisionStore) -> None:
    past = decision(7, issued_at=NOW - 7200, expires_at=NOW - 3600)
    assert store.apply([past]) == [True]
    assert store.live(NOW) == []
    assert store.apply([decision(6)]) == [False]


def test_shadow_and_observe_decisions_are_kept_but_gateways_are_not_told(
    store: DecisionStore,
) -> None:
    start = store.changes().cursor
    store.apply([decision(1, mode="shadow"), decision(2, value="acct-2", action="observe")])
    assert [d.value for d in store.live(NOW)] == ["acct-1", "acct-2"]
    assert versions(store, start) == []
    assert store.changes().decisions == []


def test_a_shadow_decision_ends_the_enforced_one_it_replaces(store: DecisionStore) -> None:
    store.apply([decision(1)])
    start = store.changes().cursor
    store.apply([decision(2, mode="shadow")])
    (told,) = store.changes(start).decisions
    assert (told.version, told.action, told.mode) == (2, "clear", "enforce")
    assert store.changes().decisions == []
    assert store.apply([decision(1)]) == [False]


def test_a_clear_is_told_to_gateways(store: DecisionStore) -> None:
    store.apply([decision(1)])
    start = store.changes().cursor
    store.apply([decision(2, action="clear", level=0)])
    assert [d.action for d in store.changes(start).decisions] == ["clear"]


def test_gateways_never_see_evidence(store: DecisionStore) -> None:
    if isinstance(store, MemoryStore):
        store.apply([decision()])
        kept = store.get("account", "acct-1")
        assert kept is not None
        assert kept.evidence is not None  # in this process; the API leaves it out
        return
    start = store.changes().cursor
    store.apply([decision()])
    assert [d.evidence for d in store.changes(start).decisions] == [None]


def test_a_snapshot_and_the_changes_after_it_miss_nothing(store: DecisionStore) -> None:
    store.apply([decision(1)])
    snapshot = store.changes()
    assert [d.version for d in snapshot.decisions] == [1]
    store.apply([decision(v, value=f"acct-{v}") for v in range(2, 8)])
    first = store.changes(snapshot.cursor, limit=4)
    assert ([d.version for d in first.decisions], first.more) == ([2, 3, 4, 5], True)
    second = store.changes(first.cursor, limit=4)
    assert ([d.version for d in second.decisions], second.more) == ([6, 7], False)
    assert store.changes(second.cursor).decisions == []


def test_a_cursor_older_than_the_feed_is_refused(store: DecisionStore) -> None:
    start = store.changes().cursor
    for base in range(0, 20 * KEPT, KEPT):
        store.apply([decision(1 + base + v, value=f"acct-{v}") for v in range(KEPT)])
    with pytest.raises(CursorTooOld):
        store.changes(start)


@pytest.mark.parametrize("cursor", ["", "x", "0", "0.", "0.x", "9.1", "0.9-9-9", "٣.٣", "0.-1"])
def test_a_cursor_of_another_feed_is_refused(store: DecisionStore, cursor: str) -> None:
    store.apply([decision(1)])
    with pytest.raises(CursorTooOld):
        store.changes(cursor)


def test_rebuild_replaces_everything_and_starts_an_epoch(store: DecisionStore) -> None:
    store.apply([decision(9), decision(10, value="acct-2"), decision(11, value="acct-3")])
    before = store.changes().cursor
    store.rebuild([decision(1), decision(2, value="acct-2", mode="shadow")])
    assert [(d.value, d.version) for d in store.live(NOW)] == [("acct-1", 1), ("acct-2", 2)]
    assert [d.value for d in store.changes().decisions] == ["acct-1"]
    with pytest.raises(CursorTooOld):
        store.changes(before)


def test_the_kill_switch_is_shadow_until_set_and_set_once_at_start(store: DecisionStore) -> None:
    assert store.mode() == "shadow"
    assert store.init_mode("enforce") == "enforce"
    assert store.init_mode("shadow") == "enforce"
    store.set_mode("off")
    assert store.mode() == "off"


def test_the_static_limits_are_kept_as_they_are(store: DecisionStore) -> None:
    assert store.policy() is None
    store.set_policy(b'{"format":1}')
    store.set_policy(b'{"format":1,"limits":[]}')
    assert store.policy() == b'{"format":1,"limits":[]}'


def test_allowlist_entries_match_by_scope_until_they_end(store: DecisionStore) -> None:
    store.allow(AllowEntry(scope="account", value="acct-1", reason="tester", expires_at=NOW + 60))
    store.allow(AllowEntry(scope="org", value="org-1", reason="partner", by="ann"))
    assert [e.value for e in store.allowed(NOW)] == ["acct-1", "org-1"]
    assert store.allows({"account": "acct-1"}, NOW) is not None
    assert store.allows({"account": "acct-1"}, NOW + 60) is None
    assert store.allows({"account": "org-1"}, NOW) is None
    found = store.allows({"account": "acct-2", "org": "org-1"}, NOW)
    assert found is not None
    assert (found.reason, found.by) == ("partner", "ann")
    assert store.allows({}, NOW) is None


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.1.0.0/16", "10.1.255.7", "10.2.0.1"),
        ("0.0.0.0/0", "8.8.8.8", "2001:db8::1"),
        ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
        ("192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
    ],
)
def test_an_allowed_network_covers_its_addresses(
    store: DecisionStore, network: str, inside: str, outside: str
) -> None:
    store.allow(AllowEntry(scope="cidr", value=network))
    assert store.allows({"ip": inside}, NOW) is not None
    assert store.allows({"ip": outside}, NOW) is None


def test_disallow_removes_an_entry(store: DecisionStore) -> None:
    store.allow(AllowEntry(scope="account", value="acct-1"))
    assert store.disallow("account", "acct-1") is True
    assert store.disallow("account", "acct-1") is False
    assert store.allows({"account": "acct-1"}, NOW) is None


def test_keys_belong_to_accounts(store: DecisionStore) -> None:
    assert store.identity("ab" * 32) is None
    store.set_identity("sha256:" + "ab" * 32, Identity(account="acct-1", org="org-1", plan="pro"))
    assert store.identity("ab" * 32) == Identity(account="acct-1", org="org-1", plan="pro")


def test_values_with_any_characters_are_kept_apart(store: DecisionStore) -> None:
    values = ["a:b", "a", "b:c*?[x]", "ä€😀", "line\nbreak", " "]
    store.apply([decision(i + 1, value=value) for i, value in enumerate(values)])
    assert sorted(d.value for d in store.changes().decisions) == sorted(values)
    for value in values:
        kept = store.get("account", value)
        assert kept is not None
        assert kept.value == value


def test_a_batch_larger_than_one_script_is_applied_whole(store: DecisionStore) -> None:
    batch = [decision(v + 1, value=f"acct-{v:04}") for v in range(700)]
    assert store.apply(batch) == [True] * 700
    assert len(store.live(NOW)) == 700
    assert store.apply([]) == []


CHANGES = st.lists(
    st.tuples(
        st.integers(1, 12),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["throttle", "observe", "block", "clear"]),
        st.sampled_from(["shadow", "enforce"]),
        st.sampled_from([-10.0, 50.0, 500.0]),
    ),
    max_size=12,
)


@given(CHANGES)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_store_does_as_the_one_in_memory_does(
    make_store: Callable[[], DecisionStore],
    clock: Clock,
    drawn: list[tuple[int, str, str, str, float]],
) -> None:
    store, reference = make_store(), MemoryStore(clock=clock, changes_kept=KEPT)
    start, start_there = store.changes().cursor, reference.changes().cursor
    for version, value, action, mode, lives in drawn:
        change = decision(version, value=value, action=action, mode=mode, expires_at=NOW + lives)
        assert store.apply([change]) == reference.apply([change])
    bare = [msgspec.structs.replace(d, evidence=None) for d in reference.live(NOW)]
    assert [msgspec.structs.replace(d, evidence=None) for d in store.live(NOW)] == bare
    assert versions(store, start) == versions(reference, start_there)


def test_every_identity_is_listed_by_its_keys_hash(store: DecisionStore) -> None:
    store.set_identity("sha256:aa", Identity(account="acct-1"))
    store.set_identity("bb", Identity(account="acct-2", org="o"))
    assert store.identities() == {
        "aa": Identity(account="acct-1"),
        "bb": Identity(account="acct-2", org="o"),
    }


def test_a_revision_changes_with_its_own_list_alone(store: DecisionStore) -> None:
    first = store.revisions()
    assert store.revisions() == first
    store.allow(AllowEntry(scope="account", value="acct-1"))
    allowed = store.revisions()
    assert allowed.allowed != first.allowed
    assert allowed.identities == first.identities
    store.disallow("account", "acct-1")
    assert store.revisions().allowed != allowed.allowed
    store.set_identity("aa", Identity(account="acct-1"))
    assert store.revisions().identities != first.identities


def passed(**changes: Any) -> Passed:
    fields = {"decision": "d-1", "difficulty": 2, "how": "proof", "until": NOW + 600}
    return Passed(**(fields | changes))


def test_what_was_passed_is_kept_for_its_life(store: DecisionStore, clock: Clock) -> None:
    assert store.passed("acct-1") is None
    assert store.pass_challenge("acct-1", passed(), "answer-1", 60)
    assert store.passed("acct-1") == passed()
    assert store.passed("acct-2") is None
    clock.now = NOW + 600
    assert store.passed("acct-1") is None


def test_an_answer_counts_once_for_whomever(store: DecisionStore) -> None:
    assert store.pass_challenge("acct-1", passed(), "answer-1", 60)
    assert not store.pass_challenge("acct-2", passed(), "answer-1", 60)
    assert store.passed("acct-2") is None
    assert store.pass_challenge("acct-2", passed(), "answer-2", 60)


def test_the_last_challenge_passed_is_what_counts(store: DecisionStore) -> None:
    for n in (1, 3):
        store.pass_challenge("acct-1", passed(difficulty=n), f"answer-{n}", 60)
    assert store.passed("acct-1") == passed(difficulty=3)


def test_of_many_who_bring_one_answer_at_once_one_passes(store: DecisionStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        counted = list(
            pool.map(
                lambda n: store.pass_challenge(f"acct-{n % 4}", passed(), "answer-1", 60),
                range(32),
            )
        )
    assert counted.count(True) == 1


def test_passing_ends_no_decision(store: DecisionStore) -> None:
    challenge = decision(action="challenge")
    store.apply([challenge])
    store.pass_challenge("acct-1", passed(), "answer-1", 60)
    assert [d.id for d in store.changes().decisions] == [challenge.id]


def test_an_account_of_any_bytes_can_pass(store: DecisionStore) -> None:
    assert store.pass_challenge("Zoë\udcff", passed(), "answer-1", 60)
    assert store.passed("Zoë\udcff") == passed()


def test_gateways_see_every_field_but_the_evidence() -> None:
    odd = decision(1, value='"evidence":null,', params={"evidence": None, "rate_per_min": 6.0})
    shown = json.loads(gateway_json(odd))
    assert shown == {n: v for n, v in msgspec.to_builtins(odd).items() if n != "evidence"} | {
        "params": {"evidence": None, "rate_per_min": 6.0},
        "applies_to": {"endpoints": ["*"], "models": ["*"]},
    }
