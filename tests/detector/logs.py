"""Events for tests: made by hand, or a random log in which everything happens that can happen."""

from __future__ import annotations

from random import Random
from typing import Any

from detector.events import Event, Output

__all__ = ["START", "event", "random_log"]

START = 1.8e9


def event(account: str = "a", at: float = 0.0, input: Any = "hello there", **fields: Any) -> Event:
    """A served event `at` seconds after START, unless the fields say otherwise."""
    fields.setdefault("served", fields.get("status", 200) < 400)
    return Event(ts=START + at, account=account, input=input, **fields)


def random_log(seed: int, size: int, accounts: int = 4) -> list[Event]:
    """A log of several accounts, each of its own kind, with what real logs have wrong with them.

    Repeated requests (soon, and long after), refusals, stamps out of order and from wrong clocks,
    pauses past any idle time, identities that change, vectors of all widths, inputs missing.
    """
    rng = Random(seed)
    vocabulary = [f"word{i}" for i in range(rng.choice((3, 40, 400)))]
    kinds = [rng.choice(("text", "text", "vector", "metadata", "mixed")) for _ in range(accounts)]
    widths = [rng.choice((1, 8, 57, 128, 129, 300)) for _ in range(accounts)]
    sent: list[list[str]] = [[] for _ in range(accounts)]
    now = 0.0
    log = []
    for number in range(size):
        now += rng.expovariate(1.0 / rng.choice((0.01, 1.0, 5.0)))
        if rng.random() < 0.004:
            now += rng.choice((50.0, 350.0, 2500.0))
        a = rng.randrange(accounts)
        stamp = now
        if rng.random() < 0.1:
            stamp -= rng.uniform(0.0, 30.0)
        elif rng.random() < 0.01:
            stamp += rng.choice((61.0, 1000.0, 80_000.0))
        request_id = None
        if rng.random() < 0.5:
            if sent[a] and rng.random() < 0.2:
                request_id = rng.choice(sent[a][-70:])
            else:
                request_id = f"r{number}"
                sent[a].append(request_id)
        kind = kinds[a] if kinds[a] != "mixed" else rng.choice(("text", "vector", "metadata"))
        content: Any = None
        output = None
        if kind == "text":
            content = " ".join(rng.choices(vocabulary, k=rng.randrange(30)))
            opening = rng.choice(("", "Explain ", "Why ", "And my ", "Step by step, the of "))
            content = opening + content + rng.choice(("", "?"))
        elif kind == "vector":
            width = widths[a] if rng.random() < 0.9 else rng.randrange(200)
            content = [rng.gauss(0.0, 1.0) for _ in range(width)]
            if rng.random() < 0.8:
                output = Output(
                    label=rng.choice((None, 0, 1, "cat", "dog")),
                    confidence=rng.choice((None, 0.5, 0.99)),
                )
        log.append(
            event(
                f"account-{a}",
                stamp,
                content,
                request_id=request_id,
                status=rng.choice((200, 200, 200, 200, 429)),
                latency_ms=rng.choice((None, 0.0, 250.0, 9000.0)),
                ip=rng.choice((None, "192.0.2.1", "192.0.2.2")),
                model=rng.choice(("small", "large")),
                links=rng.choice((None, {"payment": "p1"})),
                output=output,
                output_tokens=rng.choice((None, 0.0, 7.0, 500.0)),
                params=rng.choice((None, {}, {"temperature": 1.0}, {"logprobs": True}, {"n": 4})),
            )
        )
    return log
