"""The copy finds what the verdict API finds, and reads a feed however it is cut."""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from velvetrope_client.copy import Caller, Copy, FeedError, _members

from responders.decisions import AppliesTo
from responders.gateways.caller import Caller as ServiceCaller
from responders.gateways.view import View
from responders.settings import ApiSettings
from responders.stores.base import gateway_json
from responders.stores.memory import MemoryStore
from tests.responders.making import NOW, decision

VALUES = {
    "account": ["a", "b"],
    "api_key": ["sha256:" + "0" * 64],
    "org": ["o", "p"],
    "ip": ["192.0.2.1", "2001:db8::1"],
    "cidr": ["192.0.2.0/24", "192.0.0.0/16", "2001:db8::/32", "0.0.0.0/0"],
}


def random_decisions(random: Random) -> list[Any]:
    found = []
    for version in range(1, random.randrange(2, 25)):
        scope = random.choice(sorted(VALUES))
        action = random.choice(["clear", "throttle", "challenge", "poison", "block"])
        found.append(
            decision(
                version,
                scope=scope,
                value=random.choice(VALUES[scope]),
                action=action,
                level=random.randrange(1, 4),
                mode=random.choice(["enforce", "enforce", "shadow"]),
                expires_at=NOW + random.choice([-1.0, 60.0]),
                applies_to=AppliesTo(
                    endpoints=random.choice([("*",), ("/v1/*",), ("/v2", "/v1/x")]),
                    models=random.choice([("*",), ("*",), ("big-*",)]),
                ),
            )
        )
    return found


@pytest.mark.parametrize("seed", range(20))
async def test_copy_and_service_find_the_same(seed: int) -> None:
    random = Random(seed)
    store = MemoryStore(clock=lambda: NOW)
    store.set_mode("enforce")
    store.apply(random_decisions(random))
    view = View(store, ApiSettings(), lambda: NOW)
    await view.current()
    told = [json.loads(gateway_json(one)) for one in store.changes().decisions]
    document = {"cursor": "0.1", "mode": "enforce", "more": False, "decisions": told}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=document))
    with Copy("http://velvetrope", transport=transport, clock=lambda: NOW) as copy:
        assert copy.wait(5.0)
        for _ in range(200):
            known = {
                scope: random.choice([None, *VALUES[scope]])
                for scope in ("account", "api_key", "org", "ip")
            }
            path, model = random.choice(["/v1/x", "/v2", "/"]), random.choice([None, "big-1", "s"])
            identity = {scope: value for scope, value in known.items() if value is not None}
            expected = view.strongest(identity, ServiceCaller(path=path, model=model))
            found = copy.find(Caller(**known, endpoint=path, model=model))
            assert (found and found.id) == (expected and expected.id)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.sampled_from(["cursor", "mode", "more", "decisions"]), VALUE)


def pieces(text: str, cuts: list[int]) -> list[str]:
    at = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    return [text[lo:hi] for lo, hi in pairwise(at)]


@given(
    DOCUMENTS.filter(bool), st.lists(st.integers(0, 10**6), max_size=12), st.sampled_from([None, 2])
)
def test_a_document_is_read_the_same_however_it_is_cut(
    document: dict[str, Any], cuts: list[int], indent: int | None
) -> None:
    text = json.dumps(document, indent=indent)
    found: dict[str, Any] = {}
    for name, value in _members(iter(pieces(text, cuts))):
        if name == "decisions[]":
            found.setdefault("decisions", []).append(value)
        else:
            found[name] = value
    if document.get("decisions") == []:
        del document["decisions"]  # no item, so nothing is given
    assert found == document


@given(DOCUMENTS.filter(bool), st.integers(0, 10**6))
def test_a_document_that_ends_early_is_refused(document: dict[str, Any], cut: int) -> None:
    text = json.dumps(document)
    with pytest.raises(FeedError, match="not a feed"):
        list(_members(iter([text[: cut % len(text)]])))
