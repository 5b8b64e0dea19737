"""Campaigns: accounts that are watched and linked, as one. Linking alone convicts nobody."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["Campaigns"]

_SMALLEST: Final = 3  # two accounts alike are a coincidence or one customer


class Campaigns:
    """Groups of watched accounts, joined by shared links, templates and alike inputs.

    Only accounts whose own evidence is out of the ordinary are watched, so a customer who shares a
    network or a framework with thieves is in no campaign. An id is that of the group's first
    member and stays when groups join: the older group's wins.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._parent: dict[str, str] = {}
        self._order: dict[str, int] = {}  # watched account → when it came, counted
        self._members: dict[str, list[str]] = {}  # root → members
        self._first: dict[str, str] = {}  # root → its first member, which names the group
        self._holders: dict[str, str] = {}  # link key → a watched account that has it

    def watch(self, account: str, keys: Iterable[str], alike: Iterable[str]) -> None:
        """Take an account in, or its new links: `keys` it holds, `alike` watched accounts."""
        if account not in self._parent:
            self._parent[account] = account
            self._order[account] = len(self._order)
            self._members[account] = [account]
            self._first[account] = account
        for key in keys:
            holder = self._holders.setdefault(key, account)
            if holder != account:
                self._join(account, holder)
        for other in alike:
            if other in self._parent:
                self._join(account, other)

    def of(self, account: str) -> str | None:
        """The id of the account's campaign; None when it is in none of three or more."""
        if account not in self._parent:
            return None
        root = self._root(account)
        if len(self._members[root]) < _SMALLEST:
            return None
        return self._id(self._first[root])

    def all(self) -> dict[str, list[str]]:
        """Campaign id → members, in the order in which they came."""
        return {
            self._id(self._first[root]): sorted(members, key=self._order.__getitem__)
            for root, members in self._members.items()
            if len(members) >= _SMALLEST
        }

    def export(self) -> dict[str, Any]:
        """Everything, as builtins."""
        return {
            "parent": self._parent,
            "order": self._order,
            "members": self._members,
            "first": self._first,
            "holders": self._holders,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take in what `export` gave."""
        self._parent = dict(state["parent"])
        self._order = dict(state["order"])
        self._members = {root: list(members) for root, members in state["members"].items()}
        self._first = dict(state["first"])
        self._holders = dict(state["holders"])

    def _root(self, account: str) -> str:
        root = account
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[account] != root:
            self._parent[account], account = root, self._parent[account]
        return root

    def _join(self, one: str, other: str) -> None:
        a, b = self._root(one), self._root(other)
        if a == b:
            return
        # The larger takes the smaller in; the older names the whole.
        if (len(self._members[a]), b) < (len(self._members[b]), a):
            a, b = b, a
        if self._order[self._first[b]] < self._order[self._first[a]]:
            self._first[a] = self._first[b]
        self._parent[b] = a
        self._members[a] += self._members.pop(b)
        del self._first[b]

    def _id(self, first: str) -> str:
        digest = hmac.new(self._key, b"campaign\x1f" + first.encode(), hashlib.sha256)
        return f"c-{digest.hexdigest()[:24]}"
