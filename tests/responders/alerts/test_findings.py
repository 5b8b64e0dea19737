"""When a finding opens, is updated and closes."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from responders.alerts.findings import Findings
from responders.alerts.ocsf import Alert
from responders.decisions import Decision
from tests.responders.making import NOW, decision

KEY = b"key"


def said(alerts: list[Alert]) -> list[str]:
    return [alert.activity for alert in alerts]


def test_a_first_enforcement_opens_a_finding_and_a_stronger_one_updates_it() -> None:
    findings = Findings(KEY)
    opened = findings.decided([decision(1)], NOW)
    assert said(opened) == ["create"]
    assert findings.decided([decision(2)], NOW + 1) == []  # a renewal
    (updated,) = findings.decided([decision(3, action="block")], NOW + 2)
    assert (updated.activity, updated.uid) == ("update", opened[0].uid)
    assert updated.version > opened[0].version
    assert updated.id != opened[0].id


def test_observing_opens_nothing() -> None:
    assert Findings(KEY).decided([decision(1, action="observe")], NOW) == []


def test_a_clear_closes_and_so_does_an_expiry() -> None:
    for close in (
        lambda f: f.decided([decision(2, action="clear", level=0)], NOW + 1),
        lambda f: f.ended([("account", "acct-1")], NOW + 1),
    ):
        findings = Findings(KEY)
        (opened,) = findings.decided([decision(1)], NOW)
        (closed,) = close(findings)
        assert (closed.activity, closed.uid) == ("close", opened.uid)
        assert findings.ended([("account", "acct-1")], NOW + 2) == []
        assert len(findings) == 0


def test_a_finding_that_opens_again_has_its_uid_but_says_something_new() -> None:
    findings = Findings(KEY)
    (first,) = findings.decided([decision(1)], NOW)
    findings.ended([("account", "acct-1")], NOW + 1)
    (again,) = findings.decided([decision(2)], NOW + 2)
    assert (again.activity, again.uid) == ("create", first.uid)
    assert again.id != first.id


def test_a_campaign_is_one_finding_that_says_when_its_members_double() -> None:
    findings = Findings(KEY)
    lengths = []
    for n in range(1, 10):
        alerts = findings.decided([decision(n, value=f"a{n}", campaign="c-1")], NOW + n)
        lengths += [(n, a.activity, a.finding["unmapped"]["members"]) for a in alerts]
    assert lengths == [(1, "create", 1), (2, "update", 2), (4, "update", 4), (8, "update", 8)]
    alerts = findings.ended([("account", f"a{n}") for n in range(1, 10)], NOW + 20)
    assert said(alerts) == ["close"]


def test_a_tick_says_one_thing_of_a_finding() -> None:
    tick = [decision(n, value=f"a{n}", campaign="c-1") for n in range(1, 50)]
    (alert,) = Findings(KEY).decided(tick, NOW)
    assert alert.activity == "create"
    assert alert.finding["unmapped"]["members"] == 49


def test_an_account_that_joins_a_campaign_leaves_its_own_finding() -> None:
    findings = Findings(KEY)
    (own,) = findings.decided([decision(1)], NOW)
    moved = findings.decided([decision(2, campaign="c-1")], NOW + 1)
    assert [(a.activity, a.uid == own.uid) for a in moved] == [("close", True), ("create", False)]
    assert len(findings) == 1


def test_the_mode_is_stamped_and_a_change_of_it_is_said() -> None:
    findings = Findings(KEY)
    (opened,) = findings.decided([decision(1, mode="shadow")], NOW)
    assert opened.finding["unmapped"]["mode"] == "shadow"
    assert "shadow" in opened.finding["finding_info"]["title"]
    assert opened.finding["action_id"] == 3  # observed
    (switched,) = findings.decided([decision(2, mode="enforce")], NOW + 1)
    assert (switched.activity, switched.finding["unmapped"]["mode"]) == ("update", "enforce")


def test_the_document_is_an_ocsf_detection_finding() -> None:
    (alert,) = Findings(KEY).decided([decision(1, campaign="c-1", action="block")], NOW)
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(alert.finding))
    assert (document["class_uid"], document["category_uid"]) == (2004, 2)
    assert (document["activity_id"], document["type_uid"]) == (1, 200401)
    assert document["time"] == NOW * 1000
    assert document["metadata"]["version"] == "1.4.0"
    assert document["metadata"]["uid"] == alert.id
    assert document["finding_info"]["uid"] == alert.uid
    techniques = [attack["technique"]["uid"] for attack in document["attacks"]]
    assert techniques == ["AML.T0024.002", "AML.T0005.001", "AML.T0008.005"]
    assert document["finding_info"]["attacks"] == document["attacks"]
    assert any("LLM10:2025" in kind for kind in document["finding_info"]["types"])
    assert document["resources"] == [{"type": "account", "uid": "acct-1"}]
    assert document["evidences"][0]["data"]["name"] == "coverage.self_similarity"
    assert document["unmapped"]["e_value"] == 2310.0


def test_type_uids_of_update_and_close() -> None:
    findings = Findings(KEY)
    findings.decided([decision(1)], NOW)
    (updated,) = findings.decided([decision(2, level=2)], NOW + 1)
    (closed,) = findings.ended([("account", "acct-1")], NOW + 2)
    assert (updated.finding["type_uid"], closed.finding["type_uid"]) == (200402, 200403)
    assert (closed.finding["status_id"], closed.finding["status_detail"]) == (4, "expired")


TICKS = st.lists(
    st.tuples(
        st.lists(
            st.builds(
                decision,
                st.integers(1, 1000),
                value=st.sampled_from(["a", "b", "c"]),
                action=st.sampled_from(["observe", "throttle", "block", "clear"]),
                mode=st.sampled_from(["shadow", "enforce"]),
                campaign=st.sampled_from([None, "c-1", "c-2"]),
            ),
            max_size=4,
        ),
        st.lists(st.sampled_from([("account", "a"), ("account", "b")]), max_size=2),
    ),
    max_size=15,
)


@given(TICKS, st.integers(0, 14))
def test_findings_open_before_they_change_and_survive_a_restore(
    ticks: list[tuple[list[Decision], list[tuple[str, str]]]], restore_at: int
) -> None:
    findings, plain = Findings(KEY), Findings(KEY)
    open_now: set[str] = set()
    for i, (decisions, gone) in enumerate(ticks):
        if i == restore_at:
            packed = msgspec.msgpack.encode(findings.export())
            findings = Findings(KEY)
            findings.restore(msgspec.msgpack.decode(packed))
        alerts = findings.ended(gone, NOW + i) + findings.decided(decisions, NOW + i)
        assert alerts == plain.ended(gone, NOW + i) + plain.decided(decisions, NOW + i)
        for alert in alerts:
            assert (alert.uid in open_now) == (alert.activity != "create")
            (open_now.discard if alert.activity == "close" else open_now.add)(alert.uid)
    assert len(findings) == len(open_now)


def test_campaigns_that_the_cap_holds_back_are_one_finding_until_none_waits() -> None:
    findings = Findings(KEY)
    assert findings.held_back(0, 30, NOW) == []
    (opened,) = findings.held_back(5, 30, NOW + 1)
    assert "5 wait, 30 a minute" in opened.finding["finding_info"]["title"]
    assert findings.held_back(9, 30, NOW + 2) == []
    (doubled,) = findings.held_back(10, 30, NOW + 3)
    restored = Findings(KEY)
    restored.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(findings.export())))
    (closed,) = restored.held_back(0, 30, NOW + 60)
    assert said([opened, doubled, closed]) == ["create", "update", "close"]
    assert len({opened.uid, doubled.uid, closed.uid}) == 1
    assert opened.version < doubled.version < closed.version


def test_findings_exported_before_there_was_a_cap_are_read() -> None:
    findings, old = Findings(KEY), Findings(KEY)
    old.decided([decision(1)], NOW)
    findings.restore(old.export()["open"])
    assert len(findings) == 1
