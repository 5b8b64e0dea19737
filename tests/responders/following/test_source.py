"""What a follower sees of a store, and of a store behind the real verdict API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from responders.allowlist import AllowEntry
from responders.following.source import ApiSource, Source, StoreSource
from responders.limits import StaticPolicy
from responders.settings import ApiSettings
from responders.stores.base import Identity, StoreUnavailable
from responders.stores.memory import MemoryStore
from tests.real_nginx import free_port
from tests.responders.following.serving import serving
from tests.responders.making import NOW, decision


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore(clock=lambda: NOW, changes_kept=10)
    store.set_mode("enforce")
    return store


@pytest.fixture(params=["store", "api"])
def source(request: pytest.FixtureRequest, store: MemoryStore) -> Iterator[Source]:
    if request.param == "store":
        yield StoreSource(store, clock=lambda: NOW)
    else:
        settings = ApiSettings(secret=SecretStr("s3cret"), refresh_s=1e-9)
        with serving(store, settings) as url, ApiSource(url, "s3cret") as following:
            yield following


def test_the_first_look_is_everything(store: MemoryStore, source: Source) -> None:
    store.apply([decision()])
    store.allow(AllowEntry(scope="org", value="org-1"))
    store.set_identity("sha256:aa", Identity(account="acct-1"))
    seen = source.look()
    assert (seen.mode, seen.snapshot) == ("enforce", True)
    assert [d.value for d in seen.decisions] == ["acct-1"]
    assert seen.allowed is not None
    assert [(e.scope, e.value) for e in seen.allowed] == [("org", "org-1")]
    assert seen.identities == {"aa": Identity(account="acct-1")}


def test_later_looks_are_what_changed(store: MemoryStore, source: Source) -> None:
    source.look()
    store.apply([decision(1)])
    store.set_mode("off")
    seen = source.look()
    assert (seen.mode, seen.snapshot) == ("off", False)
    assert [d.version for d in seen.decisions] == [1]
    assert (seen.allowed, seen.identities) == (None, None)
    assert source.look().decisions == []


def test_whole_lists_come_again_when_they_change(store: MemoryStore, source: Source) -> None:
    source.look()
    store.allow(AllowEntry(scope="account", value="acct-1"))
    allowed = source.look()
    assert allowed.allowed is not None
    assert [e.value for e in allowed.allowed] == ["acct-1"]
    assert allowed.identities is None
    store.set_identity("aa", Identity(account="acct-1"))
    assert source.look().identities == {"aa": Identity(account="acct-1")}


def test_what_fails_closed_comes_with_every_look(store: MemoryStore, source: Source) -> None:
    assert source.look().fail_closed == ()
    store.set_policy(StaticPolicy(fail_closed=("block",)).encode())
    assert source.look().fail_closed == ("block",)
    assert source.look().fail_closed == ("block",)


def test_a_follower_left_behind_gets_everything_again(store: MemoryStore, source: Source) -> None:
    source.look()
    store.apply([decision(version, value=f"acct-{version}") for version in range(20)])
    seen = source.look()
    assert seen.snapshot
    assert len(seen.decisions) == 20


def test_an_api_that_is_away_is_said_so_with_its_url() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with ApiSource(url) as source, pytest.raises(StoreUnavailable, match=url):
        source.look()


def test_an_api_that_wants_a_secret_is_said_so(store: MemoryStore) -> None:
    with (
        serving(store, ApiSettings(secret=SecretStr("s3cret"), refresh_s=1e-9)) as url,
        ApiSource(url, "wrong") as source,
        pytest.raises(StoreUnavailable, match="answered 401"),
    ):
        source.look()
