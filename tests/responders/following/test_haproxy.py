"""What a decision becomes in HAProxy's maps. The real HAProxy is in tests/deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from responders.allowlist import AllowEntry
from responders.decisions import AppliesTo
from responders.following.haproxy import Haproxy, encode, entry
from responders.following.haproxy_runtime import Runtime
from responders.following.source import Followed
from responders.stores.base import Identity
from tests.responders.making import NOW, decision


@pytest.fixture
def target(tmp_path: Path) -> Haproxy:
    return Haproxy(tmp_path, Runtime(tmp_path / "no.sock"), stale_after_s=10.0)


def learn(target: Haproxy, *decisions: Any, at: float = NOW, **fields: Any) -> None:
    target.learn(Followed(mode="enforce", decisions=list(decisions), **fields), at)
    target.push(at)


def written(tmp_path: Path, name: str) -> list[str]:
    return (tmp_path / f"{name}.map").read_text().splitlines()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # 6 a minute: one in 10 s, three at once are 30 s.
        ({}, "throttle|1|429|10|1781003600|2001|0|10000|30000|6|60|account%3Aacct-1"),
        ({"action": "challenge"}, "challenge|1|401|0|1781003600|3001|0|0|0|0|0|"),
        ({"action": "block", "level": 2}, "block|2|403|0|1781003600|5002|0|0|0|0|0|"),
        ({"action": "poison", "params": {}}, "poison|1|200|0|1781003600|4001|0|0|0|0|0|"),
    ],
)
def test_a_decision_is_fields_without_spaces(changes: dict[str, Any], expected: str) -> None:
    assert entry(decision(**changes), 0) == expected


def test_names_are_encoded_as_haproxys_url_enc_does_it() -> None:
    assert encode("a b/ü|c~_.-") == "a%20b%2F%C3%BC%7Cc~_.-"
    assert encode("a\nb") == "a%250Ab"


def test_files_hold_what_is_enforced_for_haproxys_next_start(
    target: Haproxy, tmp_path: Path
) -> None:
    learn(
        target,
        decision(value="acct 1", action="block"),
        decision(scope="ip", value="2001:db8::1", action="challenge"),
        allowed=[AllowEntry(scope="org", value="org-1"), AllowEntry(scope="ip", value="10.0.0.1")],
        identities={"aa": Identity(account="acct 1", org="org-1")},
    )
    assert written(tmp_path, "state") == ["mode enforce", f"until {NOW + 10:.0f}"]
    assert written(tmp_path, "decisions") == [
        "account:acct%201 block|1|403|0|1781003600|5001|0|0|0|0|0|"
    ]
    assert written(tmp_path, "networks") == [
        "2001:db8::1/128 challenge|1|401|0|1781003600|3001|0|0|0|0|0|"
    ]
    assert written(tmp_path, "allowed") == ["org:org-1 9999999999"]
    assert written(tmp_path, "allowed_networks") == ["10.0.0.1/32 9999999999"]
    assert written(tmp_path, "identities") == ["aa acct%201|org-1"]


def test_what_haproxy_cannot_tell_apart_is_left_out(target: Haproxy) -> None:
    learn(target, decision(applies_to=AppliesTo(models=("gpt-x",))))
    assert len(target) == 0


@pytest.mark.parametrize(
    "changes", [{"mode": "shadow"}, {"action": "observe"}, {"expires_at": NOW - 1}]
)
def test_what_is_not_in_force_is_left_out(target: Haproxy, changes: dict[str, Any]) -> None:
    learn(target, decision(**changes))
    assert len(target) == 0


def test_an_older_version_changes_nothing(target: Haproxy) -> None:
    learn(target, decision(2), decision(1, action="clear"))
    assert len(target) == 1
    learn(target, decision(3, action="clear"))
    assert len(target) == 0


def test_a_snapshot_takes_the_place_of_everything(target: Haproxy) -> None:
    learn(target, decision(7, value="old"))
    learn(target, decision(1, value="new"), snapshot=True)
    assert len(target) == 1


def test_a_decision_that_ended_is_dropped(target: Haproxy) -> None:
    learn(target, decision(expires_at=NOW + 5), decision(value="acct-2"))
    target.push(NOW + 5)
    assert len(target) == 1


def test_files_that_cannot_be_written_at_first_are_an_error(tmp_path: Path) -> None:
    target = Haproxy(tmp_path / "nowhere", Runtime(tmp_path / "no.sock"), stale_after_s=10.0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        learn(target)


def test_a_network_gets_the_strongest_decision_of_those_around_it(
    target: Haproxy, tmp_path: Path
) -> None:
    learn(
        target,
        decision(scope="cidr", value="10.0.0.0/8", action="block", expires_at=NOW + 5),
        decision(scope="cidr", value="10.1.0.0/16", action="challenge"),
        decision(scope="ip", value="10.1.2.3", action="poison", params={}),
    )
    assert actions(tmp_path) == {
        "10.0.0.0/8": "block",
        "10.1.0.0/16": "block",
        "10.1.2.3/32": "block",
    }
    again = Haproxy(tmp_path, Runtime(tmp_path / "no.sock"), stale_after_s=10.0)
    learn(
        again,
        decision(scope="cidr", value="10.1.0.0/16", action="challenge"),
        decision(scope="ip", value="10.1.2.3", action="poison", params={}),
    )
    assert actions(tmp_path) == {"10.1.0.0/16": "challenge", "10.1.2.3/32": "poison"}


def actions(tmp_path: Path) -> dict[str, str]:
    """Network to action."""
    lines = [line.split() for line in written(tmp_path, "networks")]
    return {network: value.partition("|")[0] for network, value in lines}
