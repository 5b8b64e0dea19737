"""The kernel that folds a batch of events, as columns, into rows of open blocks.

Everything that depends on the order of events happens here, one event after the other: the
watermark, repeated requests, the closing of idle accounts' blocks, the filling of blocks. So a
result cannot depend on how the events were batched.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit

from detector.blocks import BLOCK_EVENTS, FIRST_BLOCK_REVISIONS, SKETCH_DIMS
from detector.state import Column
from features.kernels import hash_bytes, head_tail, read_sketch, read_text

__all__ = [
    "ACCOUNTS",
    "OUT_BLOCKS",
    "REQUEST_IDS",
    "ROWS",
    "VECTORS",
    "VECTOR_DIMS",
    "Accounts",
    "Batch",
    "Closed",
    "Partition",
    "Rows",
    "Vectors",
    "close_oldest",
    "closed",
    "fold",
]

VECTOR_DIMS: Final = 128  # wider vectors are folded into this many by signed hashing
REQUEST_IDS: Final = 64  # the same id among an account's last 64 requests is the same request
OUT_BLOCKS: Final = 256  # blocks that one call of the kernel can give out

_EARLY_0, _EARLY_1, _FULL = FIRST_BLOCK_REVISIONS
_SLOT = (BLOCK_EVENTS,)

ROWS: Final = (
    Column("account", "int32"),  # row in ACCOUNTS
    Column("n", "int32"),  # events in the open block
    Column("index", "int32"),  # number of the open block
    Column("given", "int32"),  # times the open block was given out
    Column("events", "int64"),  # served events so far
    Column("last_seen", "float64"),  # watermark at the last event
    Column("last_event", "int64", fill=-1),  # number of the last event within the partition
    Column("before", "int32", fill=-1),  # neighbours in the queue of open rows, by last_seen
    Column("after", "int32", fill=-1),
    Column("vector", "int32", fill=-1),  # row in VECTORS, or -1
    Column("changed", "bool"),  # since the last full checkpoint
    Column("seen", "uint64", (16,)),  # bitmap of the block's words
    Column("minhash", "uint32", (16,), fill=0xFFFFFFFF),
    Column("sketch_sum", "float32", (SKETCH_DIMS,)),
    Column("sketched", "int32"),
    Column("ts", "float64", _SLOT),
    Column("latency", "float32", _SLOT),
    Column("length", "int32", _SLOT),
    Column("entropy", "float32", _SLOT),
    Column("words", "int32", _SLOT),
    Column("fresh_words", "int32", _SLOT),
    Column("function_words", "int32", _SLOT),
    Column("odd_pairs", "int32", _SLOT),
    Column("head", "uint32", _SLOT),
    Column("tail", "uint32", _SLOT),
    Column("text", "uint64", _SLOT),
    Column("signs", "uint8", _SLOT),
    Column("answer", "float32", _SLOT),
)
VECTORS: Final = (
    Column("dims", "int32"),
    Column("label", "int32", _SLOT, fill=-1),
    Column("confidence", "float32", _SLOT),
    Column("values", "float32", (BLOCK_EVENTS, VECTOR_DIMS)),
)
ACCOUNTS: Final = (
    Column("requests", "int64"),
    Column("served", "int64"),
    Column("refused", "int64"),
    Column("last_seen", "float64"),  # watermark at the last request, refused ones too
    Column("changed", "bool"),
    Column("ids_seen", "int32"),  # request ids so far; the ring's next place is this modulo 64
    Column("ids", "int32", fill=-1),  # row in the table of rings, or -1
)


class Rows(NamedTuple):
    """The arrays of ROWS, in its order."""

    account: Any
    n: Any
    index: Any
    given: Any
    events: Any
    last_seen: Any
    last_event: Any
    before: Any
    after: Any
    vector: Any
    changed: Any
    seen: Any
    minhash: Any
    sketch_sum: Any
    sketched: Any
    ts: Any
    latency: Any
    length: Any
    entropy: Any
    words: Any
    fresh_words: Any
    function_words: Any
    odd_pairs: Any
    head: Any
    tail: Any
    text: Any
    signs: Any
    answer: Any


class Vectors(NamedTuple):
    """The arrays of VECTORS, in its order."""

    dims: Any
    label: Any
    confidence: Any
    values: Any


class Accounts(NamedTuple):
    """The arrays of ACCOUNTS, in its order, and the rings of request ids, uint64 (R, 64)."""

    requests: Any
    served: Any
    refused: Any
    last_seen: Any
    changed: Any
    ids_seen: Any
    ids: Any
    rings: Any


class Batch(NamedTuple):
    """E events of one partition as columns.

    `row` is -1 for a refused request; `lo` and `hi` bound its bytes in `data`. For a vector the
    bytes are its float32 numbers, at `values[value_lo:value_hi]` too.
    """

    account: Any  # int32 (E,)
    row: Any  # int32 (E,)
    ts: Any  # float64 (E,), arrival
    latency: Any  # float64 (E,), seconds
    answer: Any  # float32 (E,), tokens, 0 where they are not logged
    opens_up: Any  # uint8 (E,), features.kernels.OPENS_UP or 0, by the request's parameters
    data: Any  # uint8
    lo: Any  # int64 (E,)
    hi: Any  # int64 (E,)
    sketched: Any  # bool (E,), whether the bytes are the sketch of a text
    ids: Any  # uint8, joined request ids
    id_lo: Any  # int64 (E,)
    id_hi: Any  # int64 (E,), equal to id_lo without an id
    values: Any  # float32, joined vectors
    value_lo: Any  # int64 (E,)
    value_hi: Any  # int64 (E,)
    label: Any  # int32 (E,), -1 without one
    confidence: Any  # float32 (E,), NaN without one


class Partition(NamedTuple):
    """One partition's clock and queue, each an array, so that the kernel can change them."""

    clock: Any  # float64 (2,): watermark, pending far stamp; -1 for none
    ends: Any  # int32 (2,): first and last row of the queue of open rows; -1 for none
    progress: Any  # int64 (4,): next event of the batch, its phase, events before it, blocks out


class Closed(NamedTuple):
    """Up to OUT_BLOCKS blocks given out, in order."""

    row: Any
    time: Any
    index: Any
    revision: Any
    final: Any
    n: Any
    events: Any
    refused: Any
    last_event: Any
    ts: Any
    latency: Any
    length: Any
    entropy: Any
    words: Any
    fresh_words: Any
    function_words: Any
    odd_pairs: Any
    head: Any
    tail: Any
    text: Any
    signs: Any
    answer: Any
    sketch_sum: Any
    sketched: Any
    minhash: Any
    dims: Any
    label: Any
    confidence: Any
    values: Any


def closed() -> Closed:
    """Room for the blocks that one call of `fold` gives out."""
    slot = (OUT_BLOCKS, BLOCK_EVENTS)
    return Closed(
        row=np.zeros(OUT_BLOCKS, np.int64),
        time=np.zeros(OUT_BLOCKS),
        index=np.zeros(OUT_BLOCKS, np.int32),
        revision=np.zeros(OUT_BLOCKS, np.int32),
        final=np.zeros(OUT_BLOCKS, np.bool_),
        n=np.zeros(OUT_BLOCKS, np.int32),
        events=np.zeros(OUT_BLOCKS, np.int64),
        refused=np.zeros(OUT_BLOCKS, np.int64),
        last_event=np.zeros(OUT_BLOCKS, np.int64),
        ts=np.zeros(slot),
        latency=np.zeros(slot, np.float32),
        length=np.zeros(slot, np.int32),
        entropy=np.zeros(slot, np.float32),
        words=np.zeros(slot, np.int32),
        fresh_words=np.zeros(slot, np.int32),
        function_words=np.zeros(slot, np.int32),
        odd_pairs=np.zeros(slot, np.int32),
        head=np.zeros(slot, np.uint32),
        tail=np.zeros(slot, np.uint32),
        text=np.zeros(slot, np.uint64),
        signs=np.zeros(slot, np.uint8),
        answer=np.zeros(slot, np.float32),
        sketch_sum=np.zeros((OUT_BLOCKS, SKETCH_DIMS), np.float32),
        sketched=np.zeros(OUT_BLOCKS, np.int32),
        minhash=np.zeros((OUT_BLOCKS, 16), np.uint32),
        dims=np.zeros(OUT_BLOCKS, np.int32),
        label=np.zeros(slot, np.int32),
        confidence=np.zeros(slot, np.float32),
        values=np.zeros((*slot, VECTOR_DIMS), np.float32),
    )


@njit(cache=True)
def _advance(clock, far, t):  # type: ignore[no-untyped-def]
    # Running maximum; a stamp far past it moves it only when a second one agrees, and then to the
    # smaller of the two, so that one wrong clock cannot close everybody's blocks.
    watermark = clock[0]
    if watermark < 0.0:
        clock[0] = t
    elif t > watermark + far:
        pending = clock[1]
        if pending > watermark + far:
            clock[0] = min(t, pending)
            clock[1] = max(t, pending)
        else:
            clock[1] = t
    elif t > watermark:
        clock[0] = t


@njit(cache=True)
def _unlink(r, rows, ends):  # type: ignore[no-untyped-def]
    before, after = rows.before[r], rows.after[r]
    if before >= 0:
        rows.after[before] = after
        rows.changed[before] = True
    else:
        ends[0] = after
    if after >= 0:
        rows.before[after] = before
        rows.changed[after] = True
    else:
        ends[1] = before
    rows.before[r] = -1
    rows.after[r] = -1


@njit(cache=True)
def _append(r, rows, ends):  # type: ignore[no-untyped-def]
    rows.before[r] = ends[1]
    rows.after[r] = -1
    if ends[1] >= 0:
        rows.after[ends[1]] = r
        rows.changed[ends[1]] = True
    else:
        ends[0] = r
    ends[1] = r


@njit(cache=True)
def _give_out(r, final, time, rows, vectors, accounts, out, b):  # type: ignore[no-untyped-def]
    size = rows.n[r]
    out.row[b] = r
    out.time[b] = time
    out.index[b] = rows.index[r]
    out.revision[b] = min(rows.given[r], 2) if rows.index[r] == 0 else 2
    out.final[b] = final
    out.n[b] = size
    out.events[b] = rows.events[r]
    out.refused[b] = accounts.refused[rows.account[r]]
    out.last_event[b] = rows.last_event[r]
    for i in range(size):
        out.ts[b, i] = rows.ts[r, i]
        out.latency[b, i] = rows.latency[r, i]
        out.length[b, i] = rows.length[r, i]
        out.entropy[b, i] = rows.entropy[r, i]
        out.words[b, i] = rows.words[r, i]
        out.fresh_words[b, i] = rows.fresh_words[r, i]
        out.function_words[b, i] = rows.function_words[r, i]
        out.odd_pairs[b, i] = rows.odd_pairs[r, i]
        out.head[b, i] = rows.head[r, i]
        out.tail[b, i] = rows.tail[r, i]
        out.text[b, i] = rows.text[r, i]
        out.signs[b, i] = rows.signs[r, i]
        out.answer[b, i] = rows.answer[r, i]
    out.sketch_sum[b, :] = rows.sketch_sum[r, :]
    out.sketched[b] = rows.sketched[r]
    out.minhash[b, :] = rows.minhash[r, :]
    v = rows.vector[r]
    out.dims[b] = 0
    if v >= 0:
        out.dims[b] = vectors.dims[v]
        for i in range(size):
            out.label[b, i] = vectors.label[v, i]
            out.confidence[b, i] = vectors.confidence[v, i]
            out.values[b, i, :] = vectors.values[v, i, :]
    rows.given[r] += 1
    rows.changed[r] = True
    if final:
        rows.n[r] = 0
        rows.given[r] = 0
        rows.index[r] += 1
        rows.seen[r, :] = 0
        rows.minhash[r, :] = 0xFFFFFFFF
        rows.sketch_sum[r, :] = 0.0
        rows.sketched[r] = 0


@njit(cache=True)
def close_oldest(rows, vectors, accounts, partition, out):  # type: ignore[no-untyped-def]
    """Give out open blocks, the longest idle first, while there is room; how many."""
    ends = partition.ends
    count = 0
    while ends[0] >= 0 and count < len(out.row):
        r = ends[0]
        _unlink(r, rows, ends)
        _give_out(r, True, partition.clock[0], rows, vectors, accounts, out, count)
        count += 1
    return count


@njit(cache=True)
def _forget(a, accounts):  # type: ignore[no-untyped-def]
    # As if the account were new: `PartitionMeasure.export` drops it from this moment on.
    accounts.refused[a] = 0
    accounts.ids_seen[a] = 0
    if accounts.ids[a] >= 0:
        accounts.rings[accounts.ids[a], :] = 0


@njit(cache=True)
def _repeated(a, accounts, batch, e):  # type: ignore[no-untyped-def]
    # Whether the event's request id is among the account's last 64; if not, it is noted.
    ring = accounts.ids[a]
    if ring < 0 or batch.id_hi[e] == batch.id_lo[e]:
        return False
    h = hash_bytes(batch.ids, batch.id_lo[e], batch.id_hi[e])
    for k in range(accounts.rings.shape[1]):
        if accounts.rings[ring, k] == h:
            return True
    accounts.rings[ring, accounts.ids_seen[a] % accounts.rings.shape[1]] = h
    accounts.ids_seen[a] += 1
    return False


@njit(cache=True)
def _put_vector(v, i, vectors, batch, e):  # type: ignore[no-untyped-def]
    lo, hi = batch.value_lo[e], batch.value_hi[e]
    dims = min(hi - lo, vectors.values.shape[2])
    if i == 0:
        vectors.dims[v] = dims
    vectors.values[v, i, :] = 0.0
    if hi - lo <= vectors.values.shape[2]:
        for j in range(dims):
            vectors.values[v, i, j] = batch.values[lo + j]
    else:
        for j in range(hi - lo):
            # Signed hashing by a multiplicative hash of the position (Knuth): keeps inner products.
            h = (np.uint64(j) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            k = (h >> np.uint64(57)) & np.uint64(127)
            sign = 1.0 if (h >> np.uint64(56)) & np.uint64(1) else -1.0
            # 2^18 numbers of 1e30 still add up to a float32.
            x = min(max(batch.values[lo + j], np.float32(-1e30)), np.float32(1e30))
            vectors.values[v, i, k] += sign * x
    vectors.label[v, i] = batch.label[e]
    vectors.confidence[v, i] = batch.confidence[e]


@njit(cache=True)
def fold(  # type: ignore[no-untyped-def]
    batch, rows, vectors, accounts, partition, out, idle_after, forget_after, far
):
    """Fold events into open blocks until the batch or the room for blocks is used up.

    `partition.progress` says where it stopped: when its first entry is below the number of events,
    take the `progress[3]` blocks of `out`, set `progress[3]` to 0 and call again.
    """
    clock, ends, progress = partition.clock, partition.ends, partition.progress
    counts = np.zeros(256, dtype=np.int64)
    sketch = np.zeros(SKETCH_DIMS)
    room = len(out.row)
    while progress[0] < len(batch.row):
        e = progress[0]
        a = batch.account[e]
        r = batch.row[e]
        if progress[1] == 0:
            accounts.changed[a] = True
            if accounts.requests[a] > 0 and accounts.last_seen[a] + forget_after <= clock[0]:
                _forget(a, accounts)
            if _repeated(a, accounts, batch, e):
                progress[0] += 1
                continue
            _advance(clock, far, batch.ts[e] + batch.latency[e])
            progress[1] = 1
        now = clock[0]
        while ends[0] >= 0 and rows.last_seen[ends[0]] + idle_after <= now:
            if progress[3] == room:
                return
            idle = ends[0]
            _unlink(idle, rows, ends)
            _give_out(idle, True, now, rows, vectors, accounts, out, progress[3])
            progress[3] += 1
        if progress[3] == room:
            return
        accounts.requests[a] += 1
        accounts.last_seen[a] = now
        if r < 0:
            accounts.refused[a] += 1
            progress[0] += 1
            progress[1] = 0
            continue
        accounts.served[a] += 1
        if rows.n[r] > 0:
            _unlink(r, rows, ends)
        elif rows.events[r] > 0 and rows.last_seen[r] + forget_after <= now:
            rows.index[r] = 0
            rows.events[r] = 0
        _append(r, rows, ends)
        rows.last_seen[r] = now
        rows.last_event[r] = progress[2] + e
        rows.changed[r] = True
        i = rows.n[r]
        rows.n[r] = i + 1
        rows.events[r] += 1
        rows.ts[r, i] = batch.ts[e]
        rows.latency[r, i] = batch.latency[e]
        rows.answer[r, i] = batch.answer[e]
        rows.signs[r, i] = batch.opens_up[e]
        lo, hi = batch.lo[e], batch.hi[e]
        rows.length[r, i] = hi - lo
        v = rows.vector[r]
        if v >= 0:
            rows.entropy[r, i] = 0.0
            rows.words[r, i] = 0
            rows.fresh_words[r, i] = 0
            rows.function_words[r, i] = 0
            rows.odd_pairs[r, i] = 0
            rows.head[r, i] = 0
            rows.tail[r, i] = 0
            rows.text[r, i] = hash_bytes(batch.data, lo, hi)
            _put_vector(v, i, vectors, batch, e)
        else:
            if batch.sketched[e]:
                entropy, words, fresh, norm2, text, signs, function, odd, length, head, tail = (
                    read_sketch(batch.data, lo, sketch, rows.seen[r], rows.minhash[r])
                )
                rows.length[r, i] = length
            else:
                entropy, words, fresh, norm2, text, signs, function, odd = read_text(
                    batch.data, lo, hi, counts, sketch, rows.seen[r], rows.minhash[r]
                )
                head, tail = head_tail(batch.data, lo, hi)
            rows.entropy[r, i] = entropy
            rows.words[r, i] = words
            rows.fresh_words[r, i] = fresh
            rows.function_words[r, i] = function
            rows.odd_pairs[r, i] = odd
            rows.text[r, i] = text
            rows.signs[r, i] |= np.uint8(signs)
            rows.head[r, i], rows.tail[r, i] = head, tail
            if norm2 > 0.0:
                scale = 1.0 / np.sqrt(norm2)
                for j in range(SKETCH_DIMS):
                    rows.sketch_sum[r, j] += scale * sketch[j]
                rows.sketched[r] += 1
        full = i + 1 == _FULL
        early = rows.index[r] == 0 and (i + 1 == _EARLY_0 or i + 1 == _EARLY_1)
        if full:
            _unlink(r, rows, ends)
        if full or early:
            _give_out(r, full, now, rows, vectors, accounts, out, progress[3])
            progress[3] += 1
        progress[0] += 1
        progress[1] = 0
