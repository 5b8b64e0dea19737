"""The local copy of decisions: fed by a real verdict API, asked as the middleware asks it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from velvetrope_client.copy import Caller, Copy, Decision

from responders.allowlist import AllowEntry
from responders.gateways.app import create_app
from responders.limits import StaticLimit, StaticPolicy
from responders.settings import ApiSettings
from responders.stores.base import Identity
from responders.stores.memory import MemoryStore
from tests.real_uvicorn import serving, until
from tests.responders.making import NOW, decision

QUICK = 0.02


class Clock:
    """Event time that a test sets."""

    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    store = MemoryStore(clock=clock, changes_kept=8)
    store.set_mode("enforce")
    return store


@pytest.fixture
def copy(store: MemoryStore, clock: Clock) -> Iterator[Copy]:
    app = create_app(store, ApiSettings(refresh_s=1e-9), clock=clock)
    with serving(app) as url, Copy(url, refresh_s=QUICK, clock=clock) as copy:
        assert copy.wait(5.0)
        yield copy


def becomes(copy: Copy, action: str | None, **caller: str) -> Decision | None:
    """Wait until a caller's decision has the action (None: until there is none); it."""

    def found() -> str | None:
        decision = copy.find(Caller(**caller))
        return None if decision is None else decision.action

    until(lambda: found() == action, within_s=2.0)
    return copy.find(Caller(**caller))


def blocked(version: int = 1, **changes: Any) -> Any:
    return decision(version, **({"action": "block", "params": {}} | changes))


def test_a_decision_arrives_with_what_a_gateway_sees(store: MemoryStore, copy: Copy) -> None:
    store.apply([decision(campaign="c-1")])
    found = becomes(copy, "throttle", account="acct-1")
    assert found == Decision(
        id="d-1",
        version=1,
        scope="account",
        value="acct-1",
        action="throttle",
        level=1,
        params={"rate_per_min": 6.0, "burst": 3, "bucket": "account:acct-1"},
        endpoints=("*",),
        models=("*",),
        campaign="c-1",
        issued_at=NOW,
        expires_at=NOW + 3600.0,
    )
    assert found.subject == "c-1"


def test_a_snapshot_holds_what_was_there_before(store: MemoryStore, clock: Clock) -> None:
    store.apply([blocked(i, value=f"acct-{i}") for i in range(1, 31)])
    app = create_app(store, ApiSettings(refresh_s=1e-9), clock=clock)
    with serving(app) as url, Copy(url, refresh_s=QUICK, clock=clock) as copy:
        assert copy.wait(5.0)
        assert len(copy) == 30


@pytest.mark.parametrize(
    ("scope", "value", "caller"),
    [
        ("account", "acct-1", {"account": "acct-1"}),
        ("api_key", "sha256:ab", {"api_key": "sha256:ab"}),
        ("org", "org-1", {"org": "org-1"}),
        ("ip", "2001:db8:0::1", {"ip": "2001:db8::1"}),
        ("cidr", "192.0.2.0/24", {"ip": "192.0.2.77"}),
        ("cidr", "2001:db8::/32", {"ip": "2001:db8:1::1"}),
    ],
)
def test_every_scope_is_matched(
    store: MemoryStore, copy: Copy, scope: str, value: str, caller: dict[str, str]
) -> None:
    store.apply([blocked(scope=scope, value=value)])
    becomes(copy, "block", **caller)
    assert copy.find(Caller(account="another", ip="198.51.100.1")) is None


def test_the_strongest_over_all_scopes_wins(store: MemoryStore, copy: Copy) -> None:
    store.apply(
        [
            decision(7, scope="cidr", value="192.0.2.0/24", action="poison", level=2, params={}),
            decision(8, scope="org", value="org-1", action="poison", level=1, params={}),
            decision(9),
        ]
    )
    found = becomes(copy, "poison", account="acct-1", org="org-1", ip="192.0.2.1")
    assert found is not None
    assert found.level == 2


def test_a_decision_ends_at_its_expiry(store: MemoryStore, copy: Copy, clock: Clock) -> None:
    store.apply([blocked()])
    becomes(copy, "block", account="acct-1")
    clock.now = NOW + 3600.0
    assert copy.find(Caller(account="acct-1")) is None


def test_a_clear_ends_it(store: MemoryStore, copy: Copy) -> None:
    store.apply([blocked()])
    becomes(copy, "block", account="acct-1")
    store.apply([decision(2, action="clear", level=0)])
    becomes(copy, None, account="acct-1")


def test_only_what_it_applies_to_is_covered(store: MemoryStore, copy: Copy) -> None:
    applies = {"endpoints": ("/v1/chat/*",), "models": ("big-*",)}
    store.apply([blocked(applies_to=applies_to(**applies))])
    becomes(copy, "block", account="acct-1", endpoint="/v1/chat/x", model="big-1")
    for endpoint, model in (("/v1/other", "big-1"), ("/v1/chat/x", "small"), ("/v1/chat/x", None)):
        assert copy.find(Caller(account="acct-1", endpoint=endpoint, model=model)) is None
    assert copy.depends_on_model(Caller(account="acct-1"))
    assert not copy.depends_on_model(Caller(account="acct-2"))


def applies_to(**changes: Any) -> Any:
    from responders.decisions import AppliesTo

    return AppliesTo(**changes)


@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_the_kill_switch_ends_everything(store: MemoryStore, copy: Copy, mode: Any) -> None:
    store.apply([blocked()])
    becomes(copy, "block", account="acct-1")
    store.set_mode(mode)
    becomes(copy, None, account="acct-1")
    assert copy.mode == mode


@pytest.mark.parametrize(
    ("scope", "value"), [("account", "acct-1"), ("org", "org-1"), ("cidr", "192.0.2.0/24")]
)
def test_the_allowlist_beats_a_decision_until_it_ends(
    store: MemoryStore, copy: Copy, clock: Clock, scope: Any, value: str
) -> None:
    caller = {"account": "acct-1", "org": "org-1", "ip": "192.0.2.1"}
    store.apply([blocked()])
    becomes(copy, "block", **caller)
    store.allow(AllowEntry(scope=scope, value=value, expires_at=NOW + 60.0))
    becomes(copy, None, **caller)
    assert copy.allows(Caller(**caller))
    clock.now = NOW + 60.0
    becomes(copy, "block", **caller)
    assert not copy.allows(Caller(**caller))


def test_after_a_rebuild_there_is_a_new_snapshot(store: MemoryStore, copy: Copy) -> None:
    store.apply([blocked(value="old"), blocked(2, value="kept")])
    becomes(copy, "block", account="old")
    store.rebuild([blocked(1, value="kept")])
    becomes(copy, None, account="old")
    becomes(copy, "block", account="kept")


def test_more_changes_than_the_feed_keeps_are_not_missed(store: MemoryStore, copy: Copy) -> None:
    store.apply([blocked(i, value=f"acct-{i}") for i in range(1, 101)])
    until(lambda: len(copy) == 100, within_s=2.0)


def test_the_account_of_a_known_key_counts_first(store: MemoryStore, copy: Copy) -> None:
    key = "sha256:" + "ab" * 32
    assert copy.resolve(Caller(api_key=key)).account == key
    store.set_identity(key, Identity(account="acct-1", org="org-1", plan="pro"))
    until(lambda: copy.resolve(Caller(api_key=key)).account == "acct-1", within_s=2.0)
    assert copy.resolve(Caller(account="said", api_key=key)) == Caller(
        account="acct-1", api_key=key, org="org-1", plan="pro"
    )
    assert copy.resolve(Caller(account="said")).account == "said"
    assert copy.resolve(Caller(ip="192.0.2.1")).account == "ip:192.0.2.1"


def test_static_limits_say_whose_requests_they_may_be_about(store: MemoryStore, copy: Copy) -> None:
    limit = StaticLimit(
        name="free", plans=("free",), endpoints=("/v1/embed*",), models=("big-*",), rate_per_min=6.0
    )
    store.set_policy(StaticPolicy(limits=(limit,), fail_closed=("block",)).encode())
    asked = Caller(account="a", plan="free", endpoint="/v1/embeddings", model="big-1")
    until(lambda: copy.is_limited(asked), within_s=2.0)
    assert copy.is_limited(asked._replace(model=None)), "it may be any"
    assert not copy.is_limited(asked._replace(model="small"))
    assert not copy.is_limited(asked._replace(plan="paid"))
    assert not copy.is_limited(asked._replace(plan=None))
    assert not copy.is_limited(asked._replace(endpoint="/v1/chat"))
    assert copy.fail_closed == {"block"}


@pytest.mark.parametrize(
    ("scope", "value"), [("account", "a"), ("org", "org-1"), ("cidr", "192.0.2.0/24")]
)
def test_the_allowlist_beats_static_limits(
    store: MemoryStore, copy: Copy, scope: Any, value: str
) -> None:
    store.set_policy(StaticPolicy(limits=(StaticLimit(name="all", rate_per_min=6.0),)).encode())
    caller = Caller(account="a", org="org-1", ip="192.0.2.1")
    until(lambda: copy.is_limited(caller), within_s=2.0)
    store.allow(AllowEntry(scope=scope, value=value))
    until(lambda: not copy.is_limited(caller), within_s=2.0)


def test_the_kill_switch_ends_static_limits_too(store: MemoryStore, copy: Copy) -> None:
    limit = StaticLimit(name="all", rate_per_min=6.0)
    store.set_policy(StaticPolicy(limits=(limit,)).encode())
    until(lambda: copy.is_limited(Caller(account="a")), within_s=2.0)
    store.set_mode("off")
    until(lambda: not copy.is_limited(Caller(account="a")), within_s=2.0)


def test_ended_decisions_are_dropped_as_new_ones_come(store: MemoryStore, clock: Clock) -> None:
    store.apply([blocked(i, value=f"acct-{i}") for i in range(1, 1101)])
    app = create_app(store, ApiSettings(refresh_s=1e-9), clock=clock)
    with serving(app) as url, Copy(url, refresh_s=QUICK, clock=clock) as copy:
        until(lambda: len(copy) == 1100, within_s=5.0)
        clock.now = NOW + 3601.0
        # Doubled, so that it is time to look whether or not the copy did before the clock moved.
        new = [blocked(i, value=f"new-{i}", expires_at=NOW + 9000.0) for i in range(2000, 3200)]
        store.apply(new)
        until(lambda: len(copy) == 1200, within_s=5.0)


def follow(handler: Any, **settings: Any) -> Copy:
    """A copy of a feed that a test makes up."""
    transport = httpx.MockTransport(handler)
    return Copy("http://velvetrope", refresh_s=QUICK, transport=transport, **settings)


def feed(**changes: Any) -> dict[str, Any]:
    return {"cursor": "0.1", "mode": "enforce", "more": False, "decisions": []} | changes


def test_the_mode_is_obeyed_while_a_snapshot_is_on_its_way() -> None:
    # The cursor is too old, the snapshot never comes: what is known holds, but for the mode.
    fields = json.loads(
        '{"id": "d-1", "version": 1, "scope": "account", "value": "a", "action": "block", '
        '"level": 1, "mode": "enforce", "issued_at": 1, "expires_at": 4e9}'
    )
    mode = "enforce"
    taken = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal taken
        if "since" in request.url.params:
            if taken == 1 and request.url.params["since"] == "0.1":
                return httpx.Response(200, json=feed(cursor="0.2", decisions=[fields]))
            return httpx.Response(410, json={"type": "about:blank", "mode": mode})
        taken += 1
        if taken > 1:
            time.sleep(0.5)
            return httpx.Response(503)
        return httpx.Response(200, json=feed())

    with follow(handler) as copy:
        becomes(copy, "block", account="a")
        until(lambda: taken > 1, within_s=2.0)
        mode = "off"
        becomes(copy, None, account="a")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, text='{"cursor": "0.1", "decisions": ['),
        httpx.Response(401, text="no"),
        httpx.Response(500),
    ],
    ids=["html", "cut", "secret", "ill"],
)
def test_what_is_no_feed_leaves_the_copy_as_it_was(answer: httpx.Response) -> None:
    asked = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return answer

    with follow(handler) as copy:
        until(lambda: asked > 2, within_s=5.0)
        assert not copy.wait(0.0)
        assert copy.stale
        assert copy.find(Caller(account="acct-1")) is None


def test_what_is_no_decision_is_passed_over() -> None:
    good = {
        "id": "d-1",
        "version": 1,
        "scope": "account",
        "value": "acct-1",
        "action": "block",
        "level": 1,
        "mode": "enforce",
        "issued_at": 1.0,
        "expires_at": 4e9,
    }
    bad = [
        {"scope": "account"},
        good | {"scope": "planet"},
        good | {"scope": "ip", "value": "x"},
        7,
    ]
    with follow(lambda _: httpx.Response(200, json=feed(decisions=[*bad, good]))) as copy:
        assert copy.wait(2.0)
        assert len(copy) == 1
        assert copy.find(Caller(account="acct-1")) is not None


def test_a_wrong_secret_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    asked = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return httpx.Response(401 if request.headers["X-Velvetrope-Secret"] != "right" else 200)

    with follow(handler, secret="wrong"):
        until(lambda: asked > 3, within_s=5.0)
    assert caplog.text.count("X-Velvetrope-Secret is missing or wrong") == 1
    assert "wrong'" not in caplog.text


def test_the_order_and_spacing_of_a_feed_do_not_matter() -> None:
    text = json.dumps(
        {
            "decisions": [],
            "more": False,
            "mode": "off",
            "new": [{"decisions": [1]}],
            "cursor": "1.2",
        },
        indent=4,
    )
    with follow(lambda _: httpx.Response(200, text=text)) as copy:
        assert copy.wait(2.0)
        assert copy.mode == "off"
