"""Which allowlist entries cover a value, and why."""

from __future__ import annotations

from typing import Any

import pytest

from responders.allowlist import AllowEntry, Allowlist, canonical_value, covering
from responders.decisions import Scope
from tests.responders.making import NOW

KEYS = [
    ("sha256:aa", "acct-1", "org-1"),
    ("sha256:bb", "acct-1", "org-2"),
    ("sha256:cc", "acct-2", "org-1"),
]


@pytest.mark.parametrize(
    ("entry", "value", "why"),
    [
        (("account", "acct-1"), ("account", "acct-1"), "it is the entry's own"),
        (("cidr", "10.0.0.0/8"), ("ip", "10.1.2.3"), "the address is in the network"),
        (("cidr", "10.0.0.0/8"), ("cidr", "10.1.0.0/16"), "it is in the network"),
        (("cidr", "10.1.0.0/16"), ("cidr", "10.0.0.0/8"), None),
        (("cidr", "::/0"), ("ip", "10.1.2.3"), None),
        (("account", "acct-1"), ("api_key", "sha256:aa"), "the key belongs to account acct-1"),
        (("org", "org-1"), ("api_key", "sha256:cc"), "the key belongs to org org-1"),
        (("org", "org-2"), ("api_key", "sha256:cc"), None),
        (("org", "org-1"), ("account", "acct-2"), "the account belongs to org org-1"),
        (
            ("org", "org-1"),
            ("account", "acct-1"),
            "the account belongs to org org-1 for 1 of its 2 keys",
        ),
        (("api_key", "sha256:aa"), ("account", "acct-1"), "by this one of its 2 known keys only"),
        (("api_key", "sha256:aa"), ("account", "acct-2"), None),
        (("org", "acct-1"), ("account", "acct-1"), None),
    ],
)
def test_what_an_entry_covers(entry: Any, value: Any, why: str | None) -> None:
    entries = [AllowEntry(scope=entry[0], value=entry[1])]
    assert [found.why for found in covering(entries, *value, KEYS)] == ([why] if why else [])


@pytest.mark.parametrize(
    ("scope", "value", "canonical"),
    [
        ("ip", "::ffff:192.0.2.1", "192.0.2.1"),
        ("cidr", "::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("cidr", "::/0", "::/0"),
        ("cidr", "::ffff:0:0/95", "::fffe:0:0/95"),
    ],
)
def test_an_ipv4_address_has_one_spelling(scope: str, value: str, canonical: str) -> None:
    assert canonical_value(scope, value) == canonical


@pytest.mark.parametrize(("scope", "value"), [("ip", "192.0.2.1"), ("cidr", "192.0.2.0/24")])
def test_an_entry_covers_an_address_that_a_socket_for_both_kinds_saw(
    scope: Scope, value: str
) -> None:
    allowlist = Allowlist()
    allowlist.add(AllowEntry(scope=scope, value=value))
    assert allowlist.match({"ip": "::ffff:192.0.2.1"}, NOW) is not None
    assert allowlist.match({"ip": "::ffff:198.51.100.1"}, NOW) is None
    assert allowlist.match({"ip": "::ffff:nobody"}, NOW) is None
