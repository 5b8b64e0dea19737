"""python -m benchmarks.speed.rewriting [--rounds N]

What rewriting costs a poisoned caller's answer, and the guard any request: µs of one core.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from velvetrope_client import profile
from velvetrope_client.guard import asked, kind_of
from velvetrope_client.keys import Key, Keyring
from velvetrope_client.rewriter_settings import EndpointSettings, RewriterSettings
from velvetrope_client.rewriting import Rewriter
from velvetrope_client.wrong_answers import WrongAnswerSettings

_EXAMPLES = 4000
_WORDS = 3000  # of the texts' vocabulary


def main() -> None:
    """The command line."""
    parser = ArgumentParser(prog="python -m benchmarks.speed.rewriting", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    table = Table("", "µs")
    for name, took in measure(options.rounds).items():
        table.add_row(name, f"{took:.0f}")
    Console().print(table)


def measure(rounds: int) -> dict[str, float]:
    """Microseconds of processor time of each kind of work, the mean over `rounds`."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(_EXAMPLES, 16)).tolist()
    # Words as common as in English: Zipf's law.
    drawn = np.minimum(rng.zipf(1.3, size=(_EXAMPLES, 10)), _WORDS).tolist()
    texts = [" ".join(f"w{word}" for word in text) for text in drawn]
    event = {"choices": [{"index": 0, "delta": {"content": "word "}, "logprobs": {"content": []}}]}
    stream = Rewriter().stream(**_what({}), content_type="text/event-stream")
    prompt = json.dumps({"messages": [{"role": "user", "content": " ".join(texts[:2])}]}).encode()
    wrong_of = {name: _wrong(profile.fit(given)) for name, given in (("r", rows), ("t", texts))}
    return {
        "an event of a stream": _took(lambda n: stream.feed(_event(event)), rounds),
        "a classifier's answer, shaped": _took(lambda n: _answer(Rewriter(), rows[n]), rounds),
        "the same, wrong, 16 numbers": _took(lambda n: _answer(wrong_of["r"], rows[n]), rounds),
        "the same, wrong, 10 words": _took(lambda n: _answer(wrong_of["t"], texts[n]), rounds),
        "the guard, a prompt of 20 words": _took(lambda n: kind_of(asked(prompt)), rounds),
    }


def _took(work: Callable[[int], Any], rounds: int) -> float:
    start = time.process_time()
    for n in range(rounds):
        work(n % _EXAMPLES)
    return 1e6 * (time.process_time() - start) / rounds


def _wrong(known: profile.Profile) -> Rewriter:
    wrong = WrongAnswerSettings(wrong_from=1, profile=known)
    keys = Keyring((Key("benchmark", bytes(range(32))),))
    return Rewriter(RewriterSettings((EndpointSettings(wrong_answers=wrong),), keys))


def _what(request: Any) -> dict[str, Any]:
    encoded = json.dumps(request).encode()
    caller = {"action": "poison", "level": 1, "subject": "acct-1"}
    return {**caller, "endpoint": "/v1/classify", "request": encoded}


def _event(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _answer(rewriter: Rewriter, given: Any) -> bytes:
    answer = {"label": "c0", "probabilities": {f"c{n}": 0.55 if not n else 0.05 for n in range(10)}}
    body = json.dumps(answer).encode()
    what = _what({"input": given})
    return rewriter.rewrite(**what, body=body, content_type="application/json")


if __name__ == "__main__":
    main()
