"""A pipeline that decides by counting, for tests of what runs around the pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from detector.campaigns import Campaigns
from detector.events import EndOfInput, Event
from detector.judge import AccountSummary, Judgement
from responders.decisions import Decision, Evidence, Reason
from responders.feedback import Feedback, with_tick

__all__ = ["EVERY", "FakePipeline", "native_line"]

EVERY = 10


def native_line(account: str, ts: float, **fields: object) -> bytes:
    return msgspec.json.encode({"ts": ts, "account": account, **fields}) + b"\n"


class FakeJudge:
    def __init__(self) -> None:
        self.summaries: dict[str, AccountSummary] = {}
        self.campaigns = Campaigns(b"key")

    def accounts(self) -> Iterator[tuple[str, AccountSummary]]:
        yield from self.summaries.items()

    def promise(self) -> dict[str, Any]:
        return {"baseline": "fake"}


class FakePipeline:
    """Throttles an account at each 10th event it counts, with a version that counts decisions."""

    def __init__(self, exported: bytes | None = None) -> None:
        self.judge = FakeJudge()
        self.counts: dict[str, int] = {}
        self.version = 0
        self.commands: list[str] = []
        self.ended = 0
        if exported is not None:
            self.counts, self.version, self.commands, self.ended = msgspec.msgpack.decode(exported)

    def feed(self, events: Sequence[Event | EndOfInput]) -> Judgement:
        judgement = Judgement()
        for event in events:
            if isinstance(event, EndOfInput):
                self.ended += 1
                continue
            count = self.counts[event.account] = self.counts.get(event.account, 0) + 1
            if count % EVERY == 0:
                self.version += 1
                judgement.decisions.append(self.decide(event.account, float(event.ts), count))
        return judgement

    def decide(self, account: str, ts: float, count: int) -> Decision:
        self.judge.summaries[account] = AccountSummary(blocks=count // EVERY, score=1.5)
        return Decision(
            id=f"d-{account}-{count}",
            version=self.version,
            scope="account",
            value=account,
            action="throttle",
            level=1 if count == EVERY else 2,
            mode="shadow",
            reason=Reason(code="extraction", text=f"{count} requests"),
            evidence=Evidence(e_value=float(count)),
            n_events=count,
            issued_at=ts,
            expires_at=ts + 3600.0,
        )

    def command(self, feedback: Feedback) -> Feedback:
        self.commands.append(feedback.id)
        return with_tick(feedback, 7)

    def silence(self) -> Judgement:
        return Judgement()

    def end(self) -> Judgement:
        self.ended += 1
        return Judgement()

    def accounts(self) -> Iterator[tuple[str, int, int]]:
        for account, count in self.counts.items():
            yield account, count, count

    def export(self) -> bytes:
        return msgspec.msgpack.encode((self.counts, self.version, self.commands, self.ended))
