"""Which allowlist entries cover a value, and why."""

from __future__ import annotations

from typing import Any

import pytest

from responders.allowlist import AllowEntry, covering

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
