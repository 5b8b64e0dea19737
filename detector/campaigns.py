"""Campaigns: accounts that are watched and act as one. Linking alone convicts nobody.

Only accounts whose own evidence is out of the ordinary are watched. What they have in common are
links on several planes: payment, device and other hints of the sender, templates, networks, client
fingerprints, inputs that are alike, and requests that rise and fall together. A link weighs
`1 / log(d + 5)` of the `d` accounts that hold it and are not watched (after FRAUDAR's column
weights, Hooi et al. 2016, which count all): what ordinary customers have too says little, and that
many thieves have it does not make it say less.

An account joins a campaign when its links to several members, added up over the planes, pass a
bar, so that one common thing chains nobody in. Three make a campaign when each passes the bar with
the others. Once an hour all are formed anew from the links as they are by then: groups grow
together, fall apart and close, and keep their ids.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.blocks import Identity
from detector.rhythm import HOUR_S, HOURS, correlation, count, ring, turn
from detector.state import StateMismatch

__all__ = ["PLANES", "Campaigns", "Change", "Link", "client_keys"]

_VERSION: Final = 2
_SMALLEST: Final = 3  # two accounts alike are a coincidence or one customer
_QUIET_S: Final = 604_800.0  # after which an account is forgotten; without any a campaign closes
_ACCOUNTS_KEPT: Final = 50_000
_KEYS_KEPT: Final = 48  # of one account
_HOLDERS: Final = 64  # a key held by more free accounts, or campaigns, is no place to look
_HISTORY: Final = 16  # changes of one campaign that are remembered
_BECAME_KEPT: Final = 4096
_MET_KEPT: Final = 1 << 17

# What a link weighs that nobody else holds. What belongs to a person or a purse weighs most; an
# address, a program and a rhythm are shared by chance, and pass the bar only together.
PLANES: Final[Mapping[str, float]] = {
    "payment": 1.0,
    "device": 1.0,
    "hint": 1.0,
    "template": 0.8,
    "network": 0.7,
    "client": 0.3,
    "sketch": 0.8,
    "rate": 0.3,
}
_BAR: Final = 0.6
_ALIKE_FROM: Final = 0.5  # cosine at which the sketch plane begins to count,
_ALIKE_FULL: Final = 0.8  # and at which it counts in full
_RATE_HOURS: Final = 12  # of common history, below which rhythms are not compared

_NAMES: Final = tuple(PLANES)
_PREFIXES: Final = (
    ("link:payment:", "payment"),
    ("link:device:", "device"),
    ("head:", "template"),
    ("net:", "network"),
    ("client:", "client"),
)
_HASH_BITS: Final = 56


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One event in a campaign's life. `others`: merged into it, or split off from it."""

    kind: Literal["born", "grew", "split", "merged", "closed"]
    campaign: str
    time: float
    members: int
    others: tuple[str, ...] = ()


class Link(msgspec.Struct, frozen=True):
    """What ties an account to its campaign on one plane."""

    plane: str
    weight: float  # what it adds; all of an account's together are compared with the bar
    members: int  # other members on it; of several links the one that most share


@dataclass(slots=True)
class _Account:
    order: int  # in which it came to be watched
    since: int  # hour since the epoch
    time: float
    hour: int  # last one in `hours`
    keys: dict[int, None] = field(default_factory=dict)
    alike: dict[str, float] = field(default_factory=dict)  # watched account → likeness, 0 to 1
    campaign: str | None = None
    hours: NDArray[np.int32] = field(default_factory=ring)


@dataclass(slots=True)
class _Campaign:
    born: float
    announced: int = 0  # members when its growth was last told
    history: list[Change] = field(default_factory=list)
    # What follows from its members:
    size: int = 0
    since: int = 1 << 60
    hour: int = 0
    hours: NDArray[np.int32] = field(default_factory=ring)

    def take_in(self, member: _Account) -> None:
        """Count one more."""
        self.size += 1
        self.since = min(self.since, member.since)
        if self.hour < member.hour:
            turn(self.hours, self.hour, member.hour)
            self.hour = member.hour
        hours = member.hours.copy()
        turn(hours, member.hour, self.hour)
        self.hours += hours


class Campaigns:
    """All campaigns of a deployment. Fed by the judge, in the order of the log."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._accounts: dict[str, _Account] = {}  # in their order
        self._campaigns: dict[str, _Campaign] = {}
        self._orders = 0
        self._due = -math.inf  # when all are formed anew
        self._common: dict[int, int] = {}  # key → accounts of the population with it, when told
        self._met: dict[int, int] = {}  # the same, where only `passed` counts
        self._traffic = ring()  # requests an hour, of everybody
        self._traffic_hour = 0
        self._became: dict[str, str] = {}  # a merged campaign's id → whose it became
        self._changes: list[Change] = []
        # Since everything was exported:
        self._touched: set[str] = set()
        self._gone: set[str] = set()
        self._met_touched: set[int] = set()
        # What follows from the accounts:
        self._holders: dict[int, int] = {}  # key → watched accounts with it
        self._free: dict[int, set[str]] = {}  # key → those in no campaign
        self._holding: dict[int, dict[str, int]] = {}  # key → campaign → its members with it

    # -- what the judge feeds ----------------------------------------------------------------

    def passed(self, time: float, events: int, met: Iterable[str] = ()) -> None:
        """A block of anybody: `events` at `time`; `met` are the keys of an account that is new."""
        hour = int(time // HOUR_S)
        self._traffic_hour = count(self._traffic, self._traffic_hour, hour, events)
        for name in met:
            key = _key(name)
            if key in self._met or len(self._met) < _MET_KEPT:
                self._met[key] = self._met.get(key, 0) + 1
                self._met_touched.add(key)

    def watch(
        self,
        account: str,
        links: Mapping[str, int | None],
        alike: Iterable[tuple[str, float]] = (),
        *,
        time: float = 0.0,
        events: int = 0,
    ) -> None:
        """Take a watched account in, or what is new about it.

        Args:
            account: its name.
            links: keys it holds, with the number of accounts that do; None where `passed` counts.
            alike: watched accounts that send alike, with the cosine.
            time: of its block, Unix seconds.
            events: served events of the block.
        """
        hour = int(time // HOUR_S)
        known = self._accounts.get(account)
        if known is None:
            if len(self._accounts) >= 1.25 * _ACCOUNTS_KEPT:
                return  # the quietest are forgotten within the hour
            known = _Account(order=self._orders, since=hour, time=time, hour=hour)
            self._accounts[account] = known
            self._orders += 1
        self._touched.add(account)
        known.hour = count(known.hours, known.hour, hour, events)
        known.time = max(known.time, time)
        fresh = []
        for name, holders in links.items():
            key = _key(name)
            self._common[key] = self._met.get(key, 1) if holders is None else holders
            if key not in known.keys and len(known.keys) < _KEYS_KEPT:
                known.keys[key] = None
                self._holders[key] = self._holders.get(key, 0) + 1
                fresh.append(key)
        known.alike = {
            other: min(1.0, (cosine - _ALIKE_FROM) / (_ALIKE_FULL - _ALIKE_FROM))
            for other, cosine in alike
            if cosine > _ALIKE_FROM and other != account
        }
        if known.campaign is None:
            for key in fresh:
                self._free.setdefault(key, set()).add(account)
            self._place(account, known, time)
            return
        campaign = self._campaigns[known.campaign]
        campaign.hour = count(campaign.hours, campaign.hour, hour, events)
        for key in fresh:
            _add(self._holding, key, known.campaign)

    def advance(self, now: float) -> list[Change]:
        """Let time pass to `now`; the changes since the last call."""
        if now >= self._due:
            if self._due > -math.inf:  # the first call only sets the clock
                self._form_anew(now)
            self._due = (now // HOUR_S + 1.0) * HOUR_S
        changes, self._changes = self._changes, []
        return changes

    # -- what people ask ---------------------------------------------------------------------

    def of(self, account: str) -> str | None:
        """The id of the account's campaign; None when it is in none."""
        known = self._accounts.get(account)
        return known.campaign if known is not None else None

    def all(self) -> dict[str, list[str]]:
        """Campaign id → members, in the order in which they came."""
        members: dict[str, list[str]] = {name: [] for name in self._campaigns}
        for account, known in self._accounts.items():
            if known.campaign is not None:
                members[known.campaign].append(account)
        return members

    def history(self, campaign: str) -> list[Change]:
        """The last changes of a campaign, the oldest first; of a merged one, what it became."""
        while campaign in self._became:
            campaign = self._became[campaign]
        known = self._campaigns.get(campaign)
        return list(known.history) if known is not None else []

    def links(self, account: str) -> list[Link]:
        """What ties an account to its campaign, the strongest plane first."""
        known = self._accounts.get(account)
        if known is None or known.campaign is None:
            return []
        campaign = self._campaigns[known.campaign]
        enough = _enough(campaign.size - 1)
        weights: dict[str, float] = {}
        members: dict[str, int] = {}
        for key in known.keys:
            sharing = self._holding[key][known.campaign] - 1
            if sharing:
                plane = _NAMES[key >> _HASH_BITS]
                weight = self._weight(key) * min(1.0, sharing / enough)
                weights[plane] = weights.get(plane, 0.0) + weight
                members[plane] = max(members.get(plane, 0), sharing)
        near = self._near(known).get(known.campaign)
        if near:
            weights["sketch"] = PLANES["sketch"] * _likeness(near, 3)
            members["sketch"] = len(near)
        rhythm = self._rhythm(known, campaign, among=True)
        if rhythm > 0.0:
            weights["rate"] = PLANES["rate"] * rhythm
            members["rate"] = campaign.size - 1
        strongest = sorted(weights, key=lambda plane: -weights[plane])
        return [Link(plane, weights[plane], members[plane]) for plane in strongest]

    # -- checkpoints -------------------------------------------------------------------------

    def export(self, changes: bool = False) -> dict[str, Any]:
        """Everything, or what has changed since everything was last exported, as builtins."""
        if not changes:
            self._touched, self._gone, self._met_touched = set(), set(), set()
        chosen = [
            (name, known)
            for name, known in self._accounts.items()
            if not changes or name in self._touched
        ]
        keys = sorted({key for _, known in chosen for key in known.keys})
        met = sorted(self._met_touched if changes else self._met)
        return {
            "version": _VERSION,
            "changes": changes,
            "orders": self._orders,
            "due": self._due,
            "traffic": (self._traffic_hour, self._traffic.tobytes()),
            "became": self._became,
            "said": [msgspec.to_builtins(change) for change in self._changes],
            "campaigns": [
                (name, c.born, c.announced, [msgspec.to_builtins(change) for change in c.history])
                for name, c in self._campaigns.items()
            ],
            "accounts": [
                (
                    *(name, a.order, a.since, a.time, a.hour),
                    *(list(a.keys), a.alike, a.campaign, a.hours.tobytes()),
                )
                for name, a in chosen
            ],
            "gone": sorted(self._gone),
            "common": [(key, self._common[key]) for key in keys],
            "met": [(key, self._met[key]) for key in met],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take in what `export` gave: everything first, then changes.

        Raises:
            StateMismatch: it is of another version.
        """
        if state.get("version") != _VERSION:
            raise StateMismatch(
                f"stored campaigns are of version {state.get('version', 1)}; "
                f"this program reads version {_VERSION}"
            )
        if not state["changes"]:
            self._accounts, self._common, self._met = {}, {}, {}
        for name in state["gone"]:
            self._accounts.pop(name, None)
        for name, order, since, time, hour, keys, alike, campaign, hours in state["accounts"]:
            self._accounts[name] = _Account(
                order, since, time, hour, dict.fromkeys(keys), dict(alike), campaign, ring(hours)
            )
        self._accounts = dict(sorted(self._accounts.items(), key=lambda item: item[1].order))
        self._campaigns = {
            name: _Campaign(born, announced, msgspec.convert(history, list[Change]))
            for name, born, announced, history in state["campaigns"]
        }
        self._orders = state["orders"]
        self._due = state["due"]
        self._traffic_hour = state["traffic"][0]
        self._traffic = ring(state["traffic"][1])
        self._became = dict(state["became"])
        self._changes = msgspec.convert(state["said"], list[Change])
        self._common.update(state["common"])
        self._met.update(state["met"])
        self._derive()

    # -- inside ------------------------------------------------------------------------------

    def _weight(self, key: int) -> float:
        others = max(self._common[key] - self._holders[key], 0)
        return PLANES[_NAMES[key >> _HASH_BITS]] * math.log(5.0) / math.log(5.0 + others)

    def _near(self, known: _Account) -> dict[str, list[float]]:
        """Campaign → likeness of those of its members who send alike."""
        near: dict[str, list[float]] = {}
        for other, likeness in known.alike.items():
            neighbour = self._accounts.get(other)
            if neighbour is not None and neighbour.campaign is not None:
                near.setdefault(neighbour.campaign, []).append(likeness)
        return near

    def _affinities(self, known: _Account) -> dict[str, float]:
        """Campaign → the sum of the account's links to it, where there are any."""
        own = known.campaign
        sums: dict[str, float] = {}
        for key in known.keys:
            holding = self._holding.get(key)
            if not holding or len(holding) > _HOLDERS:
                continue
            weight = self._weight(key)
            for name, members in holding.items():
                if name != own:
                    share = min(1.0, members / _enough(self._campaigns[name].size))
                    sums[name] = sums.get(name, 0.0) + weight * share
        for name, near in self._near(known).items():
            if name != own:
                sums[name] = sums.get(name, 0.0) + PLANES["sketch"] * _likeness(near, 3)
        for name, total in sums.items():
            if _BAR - PLANES["rate"] <= total < _BAR:
                rhythm = self._rhythm(known, self._campaigns[name], among=False)
                sums[name] = total + PLANES["rate"] * max(rhythm, 0.0)
        return sums

    def _rhythm(self, known: _Account, others: _Account | _Campaign, *, among: bool) -> float:
        """Correlation of the account's requests an hour with others', beyond everybody's."""
        last = min(known.hour, others.hour)
        newest = max(known.hour, others.hour, self._traffic_hour)
        first = max(known.since, others.since, newest - HOURS + 1)
        if last - first < _RATE_HOURS:
            return 0.0
        return float(correlation(known.hours, others.hours, self._traffic, first, last, among))

    def _place(self, account: str, known: _Account, time: float) -> None:
        """Let a free account join the campaign it is most linked to, or begin one."""
        affinities = self._affinities(known)
        if affinities:
            best = min(affinities, key=lambda name: (-affinities[name], name))
            if affinities[best] >= _BAR:
                self._join(account, known, best, time)
                return
        group = self._group(account, known)
        if group:
            campaign = self._id(group[0])
            self._campaigns[campaign] = _Campaign(time)
            for member in group:
                self._join(member, self._accounts[member], campaign, time)
            self._tell("born", campaign, time)
            self._campaigns[campaign].announced = len(group)

    def _group(self, account: str, known: _Account) -> list[str]:
        """Free accounts that form a campaign with this one, itself included; or nobody."""
        sums: dict[str, float] = {}
        for key in known.keys:
            free = self._free.get(key, ())
            if 1 < len(free) <= _HOLDERS:
                weight = self._weight(key)
                for other in free:
                    sums[other] = sums.get(other, 0.0) + weight
        for other, likeness in known.alike.items():
            neighbour = self._accounts.get(other)
            if neighbour is not None and neighbour.campaign is None:
                sums[other] = sums.get(other, 0.0) + PLANES["sketch"] * likeness
        sums.pop(account, None)
        group = [account]
        for other, total in sums.items():
            if _BAR - PLANES["rate"] <= total < _BAR:
                rhythm = self._rhythm(known, self._accounts[other], among=False)
                total += PLANES["rate"] * max(rhythm, 0.0)
            if total >= _BAR:
                group.append(other)
        group.sort(key=self._order)
        # Whoever is linked least to the rest leaves, until all that are left are linked enough.
        while len(group) >= _SMALLEST:
            whole = _Campaign(0.0)
            for name in group:
                whole.take_in(self._accounts[name])
            held = Counter(key for name in group for key in self._accounts[name].keys)
            ties = [self._tie(name, group, held, whole) for name in group]
            least = min(range(len(group)), key=lambda i: (ties[i], -i))
            if ties[least] >= _BAR:
                return group
            if group.pop(least) == account:
                return []
        return []

    def _order(self, account: str) -> int:
        return self._accounts[account].order

    def _tie(
        self, name: str, group: Sequence[str], held: Mapping[int, int], whole: _Campaign
    ) -> float:
        """An account's links to the others of a group that is none yet."""
        known = self._accounts[name]
        total = 0.0
        for key in known.keys:
            if held[key] > 1:
                total += self._weight(key) * min(1.0, (held[key] - 1) / (_SMALLEST - 1))
        near = []
        for other in group:
            if other != name:
                back = self._accounts[other].alike.get(name, 0.0)
                near.append(max(known.alike.get(other, 0.0), back))
        total += PLANES["sketch"] * _likeness(near, _SMALLEST - 1)
        if _BAR - PLANES["rate"] <= total < _BAR:
            total += PLANES["rate"] * max(self._rhythm(known, whole, among=True), 0.0)
        return total

    def _join(self, account: str, known: _Account, campaign: str, time: float) -> None:
        for key in known.keys:
            free = self._free.get(key)
            if free is not None:
                free.discard(account)
                if not free:
                    del self._free[key]
        known.campaign = campaign
        self._touched.add(account)
        self._take_in(known, campaign)
        joined = self._campaigns[campaign]
        if joined.announced and joined.size >= 2 * joined.announced:
            joined.announced = joined.size
            self._tell("grew", campaign, time)

    def _take_in(self, known: _Account, campaign: str) -> None:
        """Count a member of a campaign."""
        self._campaigns[campaign].take_in(known)
        for key in known.keys:
            _add(self._holding, key, campaign)

    def _derive(self) -> None:
        """Count anew what follows from the accounts."""
        self._holders, self._free, self._holding = {}, {}, {}
        for campaign in self._campaigns.values():
            campaign.size, campaign.since, campaign.hour = 0, 1 << 60, 0
            campaign.hours = ring()
        for account, known in self._accounts.items():
            for key in known.keys:
                self._holders[key] = self._holders.get(key, 0) + 1
            if known.campaign is None:
                for key in known.keys:
                    self._free.setdefault(key, set()).add(account)
            else:
                self._take_in(known, known.campaign)
        self._common = {key: self._common[key] for key in self._holders}

    def _form_anew(self, now: float) -> None:
        """Forget who has been quiet, group the rest by their links of now, and match the names."""
        self._forget(now)
        before = {name: known.campaign for name, known in self._accounts.items()}
        old, said = self._campaigns, self._changes
        self._campaigns, self._changes = {}, []
        for known in self._accounts.values():
            known.campaign = None
        self._derive()
        self._free = {}
        # One by one, as when they came, so that a crowd never has to be looked at all at once.
        for account, known in self._accounts.items():
            for key in known.keys:
                self._free.setdefault(key, set()).add(account)
            if known.campaign is None:
                self._place(account, known, now)
        for account, known in self._accounts.items():
            if known.campaign is None:
                self._place(account, known, now)
        groups = self._merged()
        self._campaigns, self._changes = {}, said
        self._match(groups, before, old, now)
        for name in self._accounts:
            if self._accounts[name].campaign != before[name]:
                self._touched.add(name)
        self._derive()

    def _forget(self, now: float) -> None:
        kept = [name for name, known in self._accounts.items() if known.time > now - _QUIET_S]
        if len(kept) > _ACCOUNTS_KEPT:
            kept.sort(key=lambda name: (-self._accounts[name].time, self._accounts[name].order))
            kept = kept[:_ACCOUNTS_KEPT]
        staying = set(kept)
        self._gone |= self._accounts.keys() - staying
        self._touched &= staying
        self._accounts = {n: known for n, known in self._accounts.items() if n in staying}

    def _merged(self) -> list[list[str]]:
        """Members of each group, groups joined of which half of the smaller are linked across."""
        bridges: Counter[tuple[str, str]] = Counter()
        members: dict[str, list[str]] = {}
        for account, known in self._accounts.items():
            if known.campaign is None:
                continue
            members.setdefault(known.campaign, []).append(account)
            for name, total in self._affinities(known).items():
                if total >= _BAR:
                    bridges[min(name, known.campaign), max(name, known.campaign)] += 1
        into = {name: name for name in members}
        for (one, other), linked in sorted(bridges.items()):
            smaller = min(self._campaigns[one].size, self._campaigns[other].size)
            if linked >= max(_SMALLEST, smaller / 2):
                kept, gone = into[one], into[other]
                if kept != gone:
                    into = {name: kept if to == gone else to for name, to in into.items()}
        groups: dict[str, list[str]] = {}
        for name, accounts in members.items():
            groups.setdefault(into[name], []).extend(accounts)
        ordered = [sorted(g, key=self._order) for g in groups.values()]
        return sorted(ordered, key=lambda group: self._order(group[0]))

    def _match(
        self,
        groups: Sequence[Sequence[str]],
        before: Mapping[str, str | None],
        old: Mapping[str, _Campaign],
        now: float,
    ) -> None:
        """Give each group its name: that of the oldest campaign most of which is in it, or new."""
        shared: dict[str, Counter[int]] = {}
        for number, group in enumerate(groups):
            for account in group:
                was = before[account]
                if was is not None:
                    shared.setdefault(was, Counter())[number] += 1
        claims: dict[int, list[str]] = {}
        for name in old:
            if name in shared:
                # Of equal parts the one whose first member came first: groups are in that order.
                parts = shared[name]
                heir = min(parts, key=lambda number: (-parts[number], number))
                claims.setdefault(heir, []).append(name)
            else:
                self._changes.append(Change("closed", name, now, 0))
        ranks = {name: (campaign.born, rank) for rank, (name, campaign) in enumerate(old.items())}
        named: dict[int, str] = {}
        for number, claimants in claims.items():
            claimants.sort(key=ranks.__getitem__)
            named[number] = claimants[0]
        # Those that keep their names, in the order of old, so that `born` stays ascending.
        for number in sorted(named, key=lambda g: ranks[named[g]]):
            self._campaigns[named[number]] = old[named[number]]
        fresh = [number for number in range(len(groups)) if number not in named]
        for number in fresh:
            named[number] = self._id(groups[number][0], old)
            self._campaigns[named[number]] = _Campaign(now, announced=len(groups[number]))
        for number, group in enumerate(groups):
            self._campaigns[named[number]].size = len(group)
            for account in group:
                self._accounts[account].campaign = named[number]
        for number, group in enumerate(groups):
            name = named[number]
            campaign = self._campaigns[name]
            if number in fresh:
                self._tell("born", name, now)
                origins = Counter(w for account in group if (w := before[account]) is not None)
                origin = min(origins, key=lambda w: (-origins[w], ranks[w]), default=None)
                if origin in self._campaigns:
                    self._tell("split", origin, now, (name,))
                continue
            merged = tuple(claims[number][1:])
            for other in merged:
                self._became[other] = name
            if merged:
                self._tell("merged", name, now, merged)
            if campaign.size >= 2 * campaign.announced:
                campaign.announced = campaign.size
                self._tell("grew", name, now)
        for other in list(self._became)[: max(0, len(self._became) - _BECAME_KEPT)]:
            del self._became[other]

    def _tell(
        self,
        kind: Literal["born", "grew", "split", "merged", "closed"],
        name: str,
        time: float,
        others: tuple[str, ...] = (),
    ) -> None:
        campaign = self._campaigns[name]
        change = Change(kind, name, time, campaign.size, others)
        self._changes.append(change)
        campaign.history = [*campaign.history, change][-_HISTORY:]

    def _id(self, first: str, taken: Mapping[str, Any] = MappingProxyType({})) -> str:
        """A campaign is named after its first member; again, where that name is taken."""
        text = b"campaign\x1f" + first.encode()
        while True:
            name = f"c-{hmac.new(self._key, text, hashlib.sha256).hexdigest()[:24]}"
            if not any(name in names for names in (self._campaigns, self._became, taken)):
                return name
            text += b"\x1f"


def client_keys(identity: Identity) -> list[str]:
    """The link that a client's fingerprint makes; none where the log has no fingerprint."""
    if identity.ja4 is None and identity.user_agent is None:
        return []
    return [f"client:{identity.ja4}\x1f{identity.user_agent}"]


def _enough(size: int) -> float:
    """Members who must share a link for it to count in full: three, in large campaigns more."""
    return min(max(3.0, size / 10.0), 20.0)


def _likeness(near: Sequence[float], most: int) -> float:
    """Of the accounts that send alike: the mean of the `most` highest likenesses."""
    return sum(sorted(near, reverse=True)[:most]) / most


def _add(holding: dict[int, dict[str, int]], key: int, campaign: str) -> None:
    held = holding.setdefault(key, {})
    held[campaign] = held.get(campaign, 0) + 1


@lru_cache(maxsize=1 << 17)
def _key(name: str) -> int:
    """A link's plane and hash: links are kept as numbers, not as what they say."""
    plane = next((plane for prefix, plane in _PREFIXES if name.startswith(prefix)), "hint")
    text = name.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=_HASH_BITS // 8).digest()
    return _NAMES.index(plane) << _HASH_BITS | int.from_bytes(digest, "big")
