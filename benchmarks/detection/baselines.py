"""Detectors that others published or use, as scores of an account's week.

Each gives a number per account that grows with suspicion; `benchmark.py` sets the threshold of each
at the same false-alarm rate, on the customers of the same weeks of the `calibrate` sources. A
detector that looks at windows has the account's worst window for a score: deployed, it would have
raised its alarm there.

Here are those that read times, rows and actions; `baselines_windows.py` has those that compare a
window with customers' inputs, `baselines_learned.py` those that are fitted to block features.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.stats import shapiro

from benchmarks.detection.compose import Label
from benchmarks.detection.weeks import Measured
from detector.events import Event
from features.kernels import hash_bytes, read_text

__all__ = ["Detector", "Jaccard", "Prada", "Rita", "Trace", "Traffic", "Volume", "bowley_skew"]
__all__ += ["collected", "prada_score", "rita_score", "synchronised", "traces_of"]

Floats = NDArray[np.float64]

_ROWS_KEPT: Final = 256  # of an account's inputs: PRADA decides at a hundred and some
_TEXTS_KEPT: Final = 16  # for the embeddings: one window of an account
_TEXTS_AMONG: Final = 512
_HEAD_BYTES: Final = 40


class Trace(msgspec.Struct):
    """What the baselines read of one account. Byte fields are arrays; n requests, k rows kept."""

    ts: bytes  # float64 (n,), arrivals of all requests, Unix seconds, ascending
    heads: bytes = b""  # uint64 (n,), hash of an input's first 40 bytes
    rows: bytes = b""  # text: int8 (k, 128) sketches; vectors: float32 (k, dims)
    width: int = 128
    labels: tuple[str, ...] = ()  # of the rows; empty for text
    texts: tuple[str, ...] = ()  # at most 16, evenly out of the first 512
    model: str = ""

    @property
    def times(self) -> Floats:
        return np.frombuffer(self.ts, np.float64)

    @property
    def matrix(self) -> NDArray[np.float32]:
        """Rows as float32 (k, width); sketches at norm 1, or 0 for a text without words."""
        if not self.labels:
            rows = np.frombuffer(self.rows, np.int8).reshape(-1, self.width).astype(np.float32)
            norm = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
            return np.asarray(rows / np.maximum(norm, 1.0))
        return np.frombuffer(self.rows, np.float32).reshape(-1, self.width)


class Traffic(msgspec.Struct):
    """A week as the baselines see it."""

    week: Measured
    traces: dict[str, Trace]


class Detector(ABC):
    """A baseline. `reads` is "text", "vectors" or "both"."""

    name: ClassVar[str]
    reads: ClassVar[str]

    def fit(self, customers: Sequence[Traffic]) -> None:  # noqa: B027
        """Learn from weeks without thieves; most have nothing to learn."""

    def published(self, rate: float) -> float | None:
        """The threshold that the publication itself would set, where it says how."""
        return None

    @abstractmethod
    def scores(self, traffic: Traffic) -> dict[str, float]:
        """Account → score; -inf where it has no opinion, nothing for one that it was not shown."""


# -- what is kept of a week --------------------------------------------------------------------


@njit(cache=True)
def _sketches(buf, lo, hi, out):  # type: ignore[no-untyped-def]
    counts = np.zeros(256, np.int64)
    sketch = np.zeros(128, np.float64)
    seen = np.zeros(16, np.uint64)
    minhash = np.zeros(16, np.uint32)
    for i in range(len(lo)):
        read_text(buf, lo[i], hi[i], counts, sketch, seen, minhash)
        top = 0.0
        for k in range(128):
            top = max(top, abs(sketch[k]))
        scale = 127.0 / top if top > 0.0 else 0.0
        for k in range(128):
            out[i, k] = np.int8(np.rint(sketch[k] * scale))


@njit(cache=True)
def _head_hashes(buf, lo, hi, out):  # type: ignore[no-untyped-def]
    for i in range(len(lo)):
        out[i] = hash_bytes(buf, lo[i], min(hi[i], lo[i] + _HEAD_BYTES))


def collected(events: Sequence[Event], labels: Mapping[str, Label]) -> bytes:
    """What `traces_of` reads back: for `weeks.measured(look=…)`."""
    by_account: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.account in labels:
            by_account[event.account].append(event)
    traces = {name: _trace(own) for name, own in by_account.items()}
    return msgspec.msgpack.encode(traces)


def traces_of(packed: bytes) -> dict[str, Trace]:
    """Account → trace."""
    return msgspec.msgpack.decode(packed, type=dict[str, Trace])


def _trace(events: Sequence[Event]) -> Trace:
    trace = Trace(np.array([float(event.ts) for event in events]).tobytes())
    served = [event for event in events if event.served and event.input]
    texts = [event.input for event in served if isinstance(event.input, str)]
    if texts:
        joined = [text.encode("utf-8", "replace") for text in texts]
        hi = np.cumsum([len(piece) for piece in joined])
        lo = hi - np.array([len(piece) for piece in joined])
        buf = np.frombuffer(b"".join(joined), np.uint8)
        sketches = np.empty((min(len(texts), _ROWS_KEPT), 128), np.int8)
        _sketches(buf, lo[:_ROWS_KEPT], hi[:_ROWS_KEPT], sketches)
        heads = np.empty(len(texts), np.uint64)
        _head_hashes(buf, lo, hi, heads)
        trace.rows = sketches.tobytes()
        among = min(len(texts), _TEXTS_AMONG)
        take = np.unique(np.linspace(0, among - 1, _TEXTS_KEPT).astype(int))
        trace.texts = tuple(texts[i][:2000] for i in take.tolist())
        trace.heads = _aligned(events, heads).tobytes()
        return trace
    rows = [event for event in served if not isinstance(event.input, str)][:_ROWS_KEPT]
    if rows:
        x = np.array([event.input for event in rows], dtype=np.float32)
        trace.rows, trace.width = x.tobytes(), x.shape[1]
        trace.labels = tuple(
            str(event.output.label) if event.output is not None else "" for event in rows
        )
        trace.model = rows[0].model or ""
    return trace


def _aligned(events: Sequence[Event], heads: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The heads at the places of their requests; 0 for those without a text."""
    out = np.zeros(len(events), np.uint64)
    at = [i for i, e in enumerate(events) if e.served and e.input and isinstance(e.input, str)]
    out[at] = heads
    return out


# -- volume ------------------------------------------------------------------------------------


class Volume(Detector):
    """Requests in the week: the rate limit that everybody has."""

    name = "volume"
    reads = "both"

    def scores(self, traffic: Traffic) -> dict[str, float]:
        """Requests."""
        return {name: float(len(trace.times)) for name, trace in traffic.traces.items()}


# -- RITA --------------------------------------------------------------------------------------

_MADM_CUTOFF_S: Final = 30.0
_COUNT_S: Final = 10.0
_BEACON_REQUESTS: Final = 20  # RITA's default connection limit of its beacon module


def bowley_skew(gaps: Floats) -> float:
    """Bowley's quartile skew (Q1 + Q3 - 2·Q2)/(Q3 - Q1); 0 where RITA calls it unreliable."""
    ordered = np.sort(gaps)
    low, mid, high = (float(ordered[_rounded(q * (len(gaps) - 1))]) for q in (0.25, 0.5, 0.75))
    if high == low or mid in (low, high):
        return 0.0
    return (low + high - 2 * mid) / (high - low)


def rita_score(times: Floats, observed_s: float) -> float:
    """RITA's time score of a beacon, 0 to 1, with gaps in milliseconds instead of whole seconds.

    The mean of 1 - |Bowley skew of the gaps|, of 1 - MADM/30 s (median absolute deviation about
    the median, floored at 0), and of the connections per ten seconds of the observed time, at most
    1 (Active Countermeasures, RITA 4, `pkg/beacon/analyzer.go`; quantiles are order statistics at
    rounded places there too). Its size score has no counterpart, since lengths of prompts are not
    payloads. Rounding the result up to three decimals is left out: it only makes ties.

    Args:
        times: ascending, seconds.
        observed_s: length of the whole log.
    """
    gaps = np.round(np.diff(times), 3)
    ordered = np.sort(gaps)
    middle = ordered[_rounded(0.5 * (len(gaps) - 1))]
    spread = np.sort(np.abs(gaps - middle))[_rounded(0.5 * (len(gaps) - 1))]
    skew_score = 1.0 - abs(bowley_skew(gaps))
    madm_score = max(1.0 - float(spread) / _MADM_CUTOFF_S, 0.0)
    count_score = min(len(times) / (observed_s / _COUNT_S), 1.0)
    return (skew_score + madm_score + count_score) / 3.0


def _rounded(place: float) -> int:
    return math.floor(place + 0.5)


class Rita(Detector):
    """RITA's beacon score on an account's arrivals; no opinion below 20 requests."""

    name = "RITA beacon score (ms)"
    reads = "both"

    def scores(self, traffic: Traffic) -> dict[str, float]:
        """Time score."""
        ends = [trace.times for trace in traffic.traces.values()]
        observed = max(float(t[-1]) for t in ends) - min(float(t[0]) for t in ends)
        return {
            name: rita_score(trace.times, observed)
            if len(trace.times) >= _BEACON_REQUESTS
            else -math.inf
            for name, trace in traffic.traces.items()
        }


# -- PRADA -------------------------------------------------------------------------------------

_PRADA_EVERY: Final = 10
_PRADA_LEAST: Final = 100
_PRADA_CLASS_LEAST: Final = 10


@njit(cache=True)
def _minimum_distances(x, label, classes):  # type: ignore[no-untyped-def]
    """Distance of each row to the nearest of its class's growing set; NaN for a class's first."""
    n, d = x.shape
    found = np.full(n, np.nan)
    members = np.zeros((classes, n), np.int64)
    size = np.zeros(classes, np.int64)
    kept = np.zeros((classes, n + 1))  # distances of the growing set's members
    threshold = np.zeros(classes)
    for i in range(n):
        c = label[i]
        if size[c] == 0:
            members[c, 0] = i
            size[c] = 1
            continue
        nearest = np.inf
        for j in range(size[c]):
            total = 0.0
            for k in range(d):
                step = x[members[c, j], k] - x[i, k]
                total += step * step
            nearest = min(nearest, total)
        nearest = np.sqrt(nearest)
        found[i] = nearest
        if nearest > threshold[c]:
            kept[c, size[c]] = nearest
            members[c, size[c]] = i
            size[c] += 1
            own = kept[c, : size[c]]
            threshold[c] = max(threshold[c], own.mean() - own.std())
    return found


def prada_score(x: NDArray[Any], labels: Sequence[str]) -> float:
    """1 - W of PRADA's test, the largest over the stream; -inf before it may speak.

    PRADA (Juuti et al. 2019, algorithm 1, and the authors' `growing_set.py`): for each class a
    growing set; a query's minimum distance to it is recorded, and the query joins when that passes
    the class's threshold max(mean - std of the members' distances). Every ten queries the
    distances of all classes with at least ten, without those three standard deviations out, are
    tested for normality (Shapiro-Wilk) once there are more than a hundred: W < δ is an attack.

    Args:
        x: (n, d) in the order of the log.
        labels: the model's answers; empty when there is one class.
    """
    codes: dict[str, int] = {}
    label = np.array(
        [codes.setdefault(name, len(codes)) for name in labels] or [0] * len(x), dtype=np.int64
    )
    if len(x) <= _PRADA_LEAST:
        return -math.inf
    distances = _minimum_distances(np.ascontiguousarray(x, np.float64), label, max(len(codes), 1))
    worst = -math.inf
    for end in range(0, len(x) + 1, _PRADA_EVERY):
        so_far, of = distances[:end], label[:end]
        there = ~np.isnan(so_far)
        enough = np.bincount(of[there], minlength=max(len(codes), 1)) >= _PRADA_CLASS_LEAST
        tested = so_far[there & enough[of]]
        if len(tested):
            tested = tested[np.abs(tested - tested.mean()) < 3 * tested.std()]
        if len(tested) > _PRADA_LEAST and np.ptp(tested) > 0:
            worst = max(worst, 1.0 - float(shapiro(tested).statistic))
    return worst


class Prada(Detector):
    """PRADA on rows and their labels, or on sketches of texts as one class.

    Its δ is the threshold that is calibrated.
    """

    name = "PRADA"
    reads = "both"

    def scores(self, traffic: Traffic) -> dict[str, float]:
        """1 - W."""
        scale = _spread_by_model(traffic)
        return {
            name: prada_score(trace.matrix / scale.get(trace.model, 1.0), trace.labels)
            for name, trace in traffic.traces.items()
        }


def _spread_by_model(traffic: Traffic) -> dict[str, NDArray[np.float32]]:
    """Vector models: the standard deviation of each dimension, so that none rules the distance."""
    rows: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    for trace in traffic.traces.values():
        if trace.labels:
            rows[trace.model].append(trace.matrix[:24])
    return {
        model: np.maximum(np.concatenate(parts).std(axis=0), 1e-6) for model, parts in rows.items()
    }


# -- SynchroTrap -------------------------------------------------------------------------------

_SLOT_S: Final = 3600.0
_CLUSTER: Final = 5
_COMMON: Final = 300  # an action of more accounts than this links nobody


def synchronised(
    actions: Mapping[str, frozenset[tuple[int, int]]], cluster: int = _CLUSTER
) -> dict[str, float]:
    """Account → the Jaccard similarity at which it belongs to a cluster of that many accounts.

    SynchroTrap (Cao et al. 2014): two users' actions match when they are on the same object within
    the same hour; users' similarity is the Jaccard index of their actions; clusters are those of
    single linkage, and large ones are reported. The similarity at which an account is in a large
    cluster is its score, so that the published similarity threshold is what is calibrated. 0 for
    an account that never is.

    Args:
        actions: account → its (hour, object) pairs.
        cluster: accounts from which a cluster is reported.
    """
    by_action: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name, own in sorted(actions.items()):
        for action in own:
            by_action[action].append(name)
    shared: dict[tuple[str, str], int] = defaultdict(int)
    for accounts in by_action.values():
        if 1 < len(accounts) <= _COMMON:
            for pair in combinations(accounts, 2):
                shared[pair] += 1
    edges = sorted(
        (
            (-both / (len(actions[one]) + len(actions[other]) - both), one, other)
            for (one, other), both in shared.items()
        ),
    )
    parent = {name: name for name in actions}
    members: dict[str, list[str]] = {name: [name] for name in actions}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    found = dict.fromkeys(actions, 0.0)
    for similarity, one, other in edges:
        a, b = root(one), root(other)
        if a == b:
            continue
        if len(members[a]) < len(members[b]):
            a, b = b, a
        small = [m for part in (a, b) if len(members[part]) < cluster for m in members[part]]
        parent[b] = a
        members[a] += members.pop(b)
        if len(members[a]) >= cluster:
            for name in small:
                found[name] = -similarity
    return found


class Jaccard(Detector):
    """SynchroTrap's clusters of accounts that use one template in the same hours."""

    name = "SynchroTrap (Jaccard)"
    reads = "text"

    def scores(self, traffic: Traffic) -> dict[str, float]:
        """Similarity at which the account is in a cluster of five."""
        actions = {}
        for name, trace in traffic.traces.items():
            heads = np.frombuffer(trace.heads, np.uint64)
            slots = (trace.times // _SLOT_S).astype(np.int64)
            own = heads > 0
            actions[name] = frozenset(zip(slots[own].tolist(), heads[own].tolist(), strict=True))
        return synchronised(actions)
