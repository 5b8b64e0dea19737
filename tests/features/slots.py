"""Blocks made by hand, by chance and by malice, as the arrays that families read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from features.base import BLOCK_EVENTS, SKETCH_DIMS, Array, Slots
from features.kernels import OPENS_UP, head_tail, read_text

__all__ = [
    "HOSTILE",
    "Request",
    "block",
    "chance",
    "empty",
    "hostile",
    "of_requests",
    "stack",
    "take",
]

_MINHASH = 16
_SHAPES: Mapping[str, tuple[tuple[int, ...], str]] = {
    "n": ((), "int32"),
    "index": ((), "int32"),
    "final": ((), "bool"),
    "ts": ((BLOCK_EVENTS,), "float64"),
    "latency": ((BLOCK_EVENTS,), "float32"),
    "length": ((BLOCK_EVENTS,), "int32"),
    "entropy": ((BLOCK_EVENTS,), "float32"),
    "words": ((BLOCK_EVENTS,), "int32"),
    "fresh_words": ((BLOCK_EVENTS,), "int32"),
    "function_words": ((BLOCK_EVENTS,), "int32"),
    "odd_pairs": ((BLOCK_EVENTS,), "int32"),
    "head": ((BLOCK_EVENTS,), "uint32"),
    "tail": ((BLOCK_EVENTS,), "uint32"),
    "text": ((BLOCK_EVENTS,), "uint64"),
    "signs": ((BLOCK_EVENTS,), "uint8"),
    "answer": ((BLOCK_EVENTS,), "float32"),
    "sketch_sum": ((SKETCH_DIMS,), "float32"),
    "sketched": ((), "int32"),
    "minhash": ((_MINHASH,), "uint32"),
}
assert set(_SHAPES) == {field.name for field in fields(Slots)}


@dataclass(frozen=True)
class Request:
    """One request of a block: when it came, what it said, how long the answer took and was."""

    ts: float = 0.0
    text: str = ""
    latency: float = 0.0
    answer: float = 0.0
    opens_up: bool = False


def empty(blocks: int) -> Slots:
    """Blocks of one event each, all zeros."""
    arrays = {name: np.zeros((blocks, *shape), dtype) for name, (shape, dtype) in _SHAPES.items()}
    arrays["n"][:] = 1
    arrays["final"][:] = True
    return Slots(**arrays)


def block(*, index: int = 0, final: bool = True, **columns: Any) -> Slots:
    """One block from the values of its events; `n` follows from the longest, at least 1.

    >>> slots = block(ts=[0.0, 2.0, 4.0])
    >>> int(slots.n[0]), slots.ts[0, :3].tolist()
    (3, [0.0, 2.0, 4.0])
    """
    slots = empty(1)
    slots.index[0] = index
    slots.final[0] = final
    n = columns.pop("n", None)
    longest = 1
    for name, values in columns.items():
        array = getattr(slots, name)
        if array.ndim == 1:
            array[0] = values
            continue
        array[0, : len(values)] = values
        if _SHAPES[name][0] == (BLOCK_EVENTS,):
            longest = max(longest, len(values))
    slots.n[0] = longest if n is None else n
    return slots


def of_requests(requests: Sequence[Request], *, index: int = 0, final: bool = True) -> Slots:
    """One block of requests, their texts read by the kernels."""
    slots = empty(1)
    slots.n[0] = len(requests)
    slots.index[0] = index
    slots.final[0] = final
    slots.minhash[:] = 0xFFFFFFFF
    seen = np.zeros(16, np.uint64)
    counts = np.zeros(256, np.int64)
    sketch = np.zeros(SKETCH_DIMS)
    for i, request in enumerate(requests):
        data = np.frombuffer(request.text.encode(), np.uint8)
        entropy, words, fresh, norm2, text, signs, function, odd = read_text(
            data, 0, len(data), counts, sketch, seen, slots.minhash[0]
        )
        slots.ts[0, i] = request.ts
        slots.latency[0, i] = request.latency
        slots.length[0, i] = len(data)
        slots.entropy[0, i] = entropy
        slots.words[0, i] = words
        slots.fresh_words[0, i] = fresh
        slots.function_words[0, i] = function
        slots.odd_pairs[0, i] = odd
        slots.text[0, i] = text
        slots.signs[0, i] = int(signs) | (OPENS_UP if request.opens_up else 0)
        slots.answer[0, i] = request.answer
        slots.head[0, i], slots.tail[0, i] = head_tail(data, 0, len(data))
        if norm2 > 0.0:
            slots.sketch_sum[0] += (sketch / np.sqrt(norm2)).astype(np.float32)
            slots.sketched[0] += 1
    return slots


def take(slots: Slots, chosen: Array | slice) -> Slots:
    """Some of the blocks, as copies, in the order asked for."""
    return Slots(**{name: getattr(slots, name)[chosen].copy() for name in _SHAPES})


def stack(parts: Sequence[Slots]) -> Slots:
    """Blocks one after the other."""
    return Slots(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _SHAPES}
    )


def chance(seed: int, accounts: int, blocks_each: int) -> tuple[Slots, Array]:
    """Plausible blocks of several accounts, interleaved, and the account of each.

    Each account's first block comes three times, as revisions at 8, 16 and 32 events; the last
    blocks are short, as those of idle accounts are.
    """
    rng = np.random.default_rng(seed)
    words = [f"word{i}" for i in range(250)]
    words += ["explain", "why", "but", "my", "rubric", "step", "by", "the", "of", "?"] * 5
    queues: list[list[Slots]] = []
    for _ in range(accounts):
        queue: list[Slots] = []
        now = 1.7e9 + rng.uniform(0, 1e4)
        pace = 10.0 ** rng.uniform(-2, 3)
        for index in range(blocks_each):
            size = BLOCK_EVENTS if index + 1 < blocks_each else int(rng.integers(1, BLOCK_EVENTS))
            requests = []
            for _ in range(size):
                now += rng.exponential(pace)
                text = " ".join(rng.choice(words, size=int(rng.integers(0, 40))))
                answer = float(rng.integers(0, 900)) * (rng.random() < 0.5)
                opens_up = bool(rng.random() < 0.1)
                latency = float(rng.exponential(1.0))
                requests.append(Request(now, text, latency, answer, opens_up))
            if index == 0:
                queue += [
                    of_requests(requests[:early], index=0, final=False)
                    for early in (8, 16)
                    if early < size
                ]
            queue.append(of_requests(requests, index=index))
        queues.append(queue)
    order = rng.permutation(np.repeat(np.arange(accounts), [len(queue) for queue in queues]))
    slots = stack([queues[a].pop(0) for a in order.tolist()])
    return slots, order.astype(np.int64)


def _everywhere(value: float, **columns: Any) -> Slots:
    slots = empty(1)
    slots.n[0] = BLOCK_EVENTS
    for name, (shape, dtype) in _SHAPES.items():
        if shape == (BLOCK_EVENTS,):
            limit = np.iinfo(dtype).max if dtype[0] in "iu" else np.inf
            getattr(slots, name)[:] = min(value, limit)
    for name, values in columns.items():
        getattr(slots, name)[0] = values
    return slots


_FULL = np.arange(BLOCK_EVENTS, dtype=np.float64)
_NOW = 1.8e9  # the latest stamp that an event can carry, and so the longest gap

HOSTILE: Mapping[str, Slots] = {
    "one event of zeros": empty(1),
    "32 events of zeros": _everywhere(0),
    "equal stamps": _everywhere(1, ts=_NOW),
    "stamps backwards": _everywhere(1, ts=_NOW - _FULL),
    "stamps in no order": _everywhere(1, ts=_NOW + (_FULL * 7919 % 32)),
    "stamps one bit apart": _everywhere(1, ts=np.where(_FULL < 16, _NOW, np.nextafter(_NOW, 0.0))),
    "smallest possible span": _everywhere(1, ts=5e-324 * _FULL),
    "a gap of 57 years": _everywhere(1, ts=np.where(_FULL < 31, 0.0, _NOW)),
    "endless latency": _everywhere(1, ts=_NOW + _FULL, latency=np.inf),
    "endless answers": _everywhere(1, answer=np.inf),
    "every sign, no answer": _everywhere(0, signs=255, answer=-1.0),
    "lengths of 2 GiB": _everywhere(2**31 - 1, ts=_FULL, entropy=8.0, latency=0.0),
    "one length of 2 GiB": _everywhere(0, length=np.where(_FULL == 3, 2**31 - 1, 0)),
    "constant hashes": _everywhere(0, head=2**32 - 1, tail=2**32 - 1, text=2**64 - 1),
    "words without a sketch": _everywhere(5),
    "a sketch that cancels out": _everywhere(1, sketch_sum=0.0, sketched=32),
    "a sketch next to nothing": _everywhere(1, sketch_sum=1e-30, sketched=32),
    "a sketch below the normal floats": _everywhere(1, sketch_sum=1e-45, sketched=1),
    "one sketch, 32 times": _everywhere(1, sketch_sum=32.0 / np.sqrt(128.0), sketched=32),
    "an empty MinHash": _everywhere(1, minhash=0xFFFFFFFF),
    "leftovers past n": _everywhere(2**31 - 1, n=1, ts=np.where(_FULL < 1, 5.0, np.nan)),
}


def hostile() -> Slots:
    """All of `HOSTILE`, each as a first block and again as a later one of the same account."""
    parts: list[Slots] = []
    for slots in HOSTILE.values():
        again = take(slots, slice(None))
        again.index[0] = 1
        parts += [slots, again]
    return stack(parts)
