"""A log of a composed span: accounts and what they send, turned into events at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.detection import vectors
from benchmarks.detection.arrivals import WEEK
from benchmarks.detection.identities import Account, Registry
from benchmarks.detection.material import Traffic
from detector.events import Event, Output

__all__ = ["WEEK_START", "EventLog", "Label"]

Rng = np.random.Generator
WEEK_START: Final = 1_740_960_000.0  # Monday 3 March 2025, 00:00 UTC
_ACCOUNT_BYTES: Final = 4_000_000  # of text a week; more of an account is cut off
_RETRY: Final = (429, 429, 500, 503, 502)
_REFUSED: Final = (400, 401, 403, 404, 413, 422, 429)


class Label(msgspec.Struct, frozen=True):
    """What an account is. `traits` says how its campaign, or its kind, was drawn."""

    harvesting: bool
    group: str
    campaign: str | None = None
    traits: dict[str, str | float] = {}


class EventLog:
    """Collects accounts and turns them into events at the end, when identities are settled.

    Args:
        registry: whose accounts these are.
        weeks: the span; what comes later is moved to its end.
        inputs: False for a log of metadata only.
    """

    def __init__(self, registry: Registry, rng: Rng, weeks: int, inputs: bool) -> None:
        self.registry = registry
        self._rng = rng
        self._span = weeks * WEEK
        self._inputs = inputs
        self._text: list[tuple[Account, Traffic]] = []
        self._vector: list[tuple[Account, str, vectors.VectorTraffic]] = []
        self._labels: dict[str, Label] = {}

    def add(self, account: Account, traffic: Traffic, label: Label) -> None:
        size = np.cumsum([len(text) for text in traffic.texts])
        most = _ACCOUNT_BYTES * self._span / WEEK
        traffic = traffic.trimmed(int(np.searchsorted(size, most)) + 1)
        if len(traffic.times):
            self._text.append((account, traffic))
            self._labels[account.name] = label

    def relabel(self, account: Account, group: str, campaign: str) -> None:
        """Put a customer into a group of its own, because of what a campaign does."""
        label = self._labels[account.name]
        traits: dict[str, str | float] = {"kind": label.group, "by": campaign}
        self._labels[account.name] = Label(False, group, traits=traits)

    def add_vectors(self, members: Sequence[Account], part: vectors.Part) -> None:
        for hint, share in part.shared.items():
            self.registry.pool(members, share, hint, max(len(members), 2) if part.harvesting else 8)
        for account, traffic in zip(members, part.traffic, strict=True):
            if len(traffic.times):
                account.endpoint = "/v1/classify"
                self._vector.append((account, part.model, traffic))
                self._labels[account.name] = Label(
                    part.harvesting, part.group, part.campaign, part.traits
                )

    def finish(self) -> tuple[list[Event], dict[str, Label]]:
        events: list[Event] = []
        for account, traffic in self._text:
            events += self._text_events(account, traffic)
        for account, model, rows in self._vector:
            events += self._vector_events(account, model, rows)
        order = np.argsort([event.ts for event in events], kind="stable")
        return [events[i] for i in order.tolist()], self._labels

    def _text_events(self, account: Account, traffic: Traffic) -> list[Event]:
        rng, n = self._rng, len(traffic.times)
        tokens = np.maximum(rng.lognormal(math.log(account.answer_tokens), 0.7, n), 1).astype(int)
        read = np.maximum(
            np.array([len(t) for t in traffic.texts]) * rng.uniform(0.22, 0.3), 1
        ).astype(int)
        latency = 180.0 + 1000 * tokens * account.seconds_a_token * rng.lognormal(0, 0.2, n)
        events = [
            Event(
                ts=ts,
                account=account.name,
                request_id=f"r{number:x}",
                api_key=account.keys[pick % len(account.keys)],
                org=account.org,
                plan=account.plan,
                ip=account.addresses[pick % len(account.addresses)],
                user_agent=account.user_agent,
                endpoint=account.endpoint,
                model=account.model,
                links=account.links,
                latency_ms=waited,
                input_tokens=i,
                output_tokens=o,
                input=text if self._inputs else None,
                params=account.params[pick % len(account.params)],
                served=True,
            )
            for ts, text, number, pick, waited, i, o in zip(
                self._clock(traffic.times),
                traffic.texts,
                rng.integers(1 << 62, size=n).tolist(),
                rng.integers(720720, size=n).tolist(),
                np.round(latency, 1).tolist(),
                read.tolist(),
                tokens.tolist(),
                strict=True,
            )
        ]
        return events + self._failures(account, events)

    def _vector_events(
        self, account: Account, model: str, rows: vectors.VectorTraffic
    ) -> list[Event]:
        rng, n = self._rng, len(rows.times)
        if rows.labels is None or rows.confidence is None:
            raise ValueError(f"the rows for {model} have no answers yet")
        events = [
            Event(
                ts=ts,
                account=account.name,
                request_id=f"r{number:x}",
                api_key=account.keys[pick % len(account.keys)],
                org=account.org,
                plan=account.plan,
                ip=account.addresses[pick % len(account.addresses)],
                user_agent=account.user_agent,
                endpoint=account.endpoint,
                model=model,
                links=account.links,
                latency_ms=waited,
                input=x if self._inputs else None,
                output=Output(label=label, confidence=sure),
                served=True,
            )
            for ts, x, label, sure, number, pick, waited in zip(
                self._clock(rows.times),
                np.round(rows.x.astype(np.float64), 6).tolist(),
                map(str, rows.labels.tolist()),
                rows.confidence.tolist(),
                rng.integers(1 << 62, size=n).tolist(),
                rng.integers(720720, size=n).tolist(),
                np.round(rng.lognormal(math.log(12.0), 0.5, n), 2).tolist(),
                strict=True,
            )
        ]
        return events + self._failures(account, events)

    def _clock(self, times: NDArray[np.float64]) -> list[float]:
        stamps: list[float] = np.round(WEEK_START + np.clip(times, 0, self._span), 3).tolist()
        return stamps

    def _failures(self, account: Account, events: Sequence[Event]) -> list[Event]:
        """Attempts that failed and were made again, refusals, and lines logged twice."""
        rng = self._rng
        drawn = rng.random(len(events))
        extra: list[Event] = []
        for i in np.flatnonzero(drawn < account.error_rate + 0.0005).tolist():
            event = events[i]
            if drawn[i] < 0.0005:
                extra.append(msgspec.structs.replace(event))
                continue
            status = _RETRY[int(rng.integers(len(_RETRY)))]
            if rng.random() < 0.2:  # not tried again: this one was refused
                event.status, event.served = int(rng.choice(_REFUSED)), False
                event.output = event.output_tokens = None
                continue
            for attempt in range(int(rng.geometric(0.7))):
                back = float(rng.uniform(0.5, 2.0) * 2**attempt)
                extra.append(
                    msgspec.structs.replace(
                        event,
                        ts=round(max(float(event.ts) - back, WEEK_START), 3),
                        request_id=f"r{int(rng.integers(1 << 62)):x}",
                        status=status,
                        served=False,
                        latency_ms=round(float(rng.exponential(80.0)) + 2.0, 1),
                        output=None,
                        output_tokens=None,
                    )
                )
        return extra
