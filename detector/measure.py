"""Measure: the events of one partition to blocks. Pure: time is event time, nothing is read."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.blocks import Block, Identity
from detector.columns import (
    ACCOUNTS,
    REQUEST_IDS,
    ROWS,
    VECTORS,
    Accounts,
    Batch,
    Closed,
    Partition,
    Rows,
    Vectors,
    close_oldest,
    closed,
    fold,
)
from detector.events import Event
from detector.settings import MeasureSettings
from detector.sketches import decode_sketch
from detector.state import Column, StateMismatch, Table, pack, unpack
from features import FAMILIES, NAMES
from features.base import Slots
from features.clustering import fingerprints
from features.kernels import OPENS_UP

__all__ = ["PartitionMeasure"]

_VERSION: Final = 2
_MAX_LABELS: Final = 4096  # a model with more classes than this shares the last code
_MAX_CACHED: Final = 1 << 16  # endpoints may hold whatever a caller puts into a path
_MAX_FLOAT32: Final = 3.4e38
_TEXT, _VECTOR, _METADATA = "text", "vector", "metadata"
_NO_IDENTITY: Final = Identity()


class PartitionMeasure:
    """The open blocks and the pasts of one partition's accounts.

    Feeding events one by one or in batches gives the same blocks, to the bit.
    """

    def __init__(self, partition: int, settings: MeasureSettings) -> None:
        self.partition = partition
        self.settings = settings
        self.next_seq = 0
        self._rows = Table(ROWS)
        self._vectors = Table(VECTORS)
        self._accounts = Table(ACCOUNTS)
        self._ringed: set[int] = set()  # accounts that have a row in it
        self._rings = Table((Column("rings", "uint64", (REQUEST_IDS,)),))
        self._past = {
            family.name: Table([Column(c.name, c.dtype, c.shape) for c in family.state])
            for family in FAMILIES
            if family.state
        }
        self._account_of: dict[str, int] = {}
        self._row_of: dict[tuple[str, str], int] = {}
        self._row_names: list[tuple[str, str, str]] = []  # account, population, kind
        self._identities: list[Identity] = []
        self._label_of: dict[str, int] = {}
        self._labels: list[str] = []
        self._population_of: dict[tuple[str | None, str | None, str], str] = {}
        self._partition = Partition(
            clock=np.array([-1.0, -1.0]),
            ends=np.array([-1, -1], dtype=np.int32),
            progress=np.zeros(4, dtype=np.int64),
        )
        self._out = closed()

    @property
    def watermark(self) -> float:
        """How far the partition's time has come, Unix seconds; -1 before the first event."""
        return float(self._partition.clock[0])

    @property
    def bytes_per_account(self) -> int:
        """Bytes of state of an account that sends text, without its name."""
        past = sum(table.bytes_per_row for table in self._past.values())
        return self._rows.bytes_per_row + self._accounts.bytes_per_row + past

    def accounts(self) -> Iterator[tuple[str, int, int]]:
        """Every account with its requests and, of these, the served ones."""
        requests, served = self._accounts["requests"], self._accounts["served"]
        for name, a in self._account_of.items():
            yield name, int(requests[a]), int(served[a])

    def feed(self, events: Sequence[Event]) -> list[Block]:
        """Take events of this partition, in the order of the log.

        Returns:
            The blocks that they closed, in the order in which they closed.
        """
        if not events:
            return []
        batch = self._columns(events)
        progress = self._partition.progress
        start = int(progress[2])
        progress[0] = progress[1] = progress[3] = 0
        blocks: list[Block] = []
        settings = self.settings
        while True:
            fold(
                batch,
                Rows(**self._rows.arrays),
                Vectors(**self._vectors.arrays),
                Accounts(**self._accounts.arrays, rings=self._rings["rings"]),
                self._partition,
                self._out,
                settings.account_idle_after,
                settings.account_forget_after,
                settings.far_stamp_s,
            )
            if progress[3]:
                self._blocks(int(progress[3]), events, start, blocks)
                progress[3] = 0
            if progress[0] == len(events):
                break
        progress[2] = start + len(events)
        # Of the last event that counted, as within the batch: a repeated one changes nothing.
        touched = np.unique(batch.row[batch.row >= 0])
        last = self._rows["last_event"][touched] - start
        for row, e in zip(touched.tolist(), last.tolist(), strict=True):
            if e >= 0:
                self._identities[row] = _identity(events[e])
        return blocks

    def end(self) -> list[Block]:
        """The input has ended: close every open block, the longest idle first."""
        blocks: list[Block] = []
        while True:
            count = close_oldest(
                Rows(**self._rows.arrays),
                Vectors(**self._vectors.arrays),
                Accounts(**self._accounts.arrays, rings=self._rings["rings"]),
                self._partition,
                self._out,
            )
            if not count:
                return blocks
            self._blocks(count, (), int(self._partition.progress[2]), blocks)

    def export(self) -> bytes:
        """The whole state, packed, without accounts long gone. Changes are counted from here."""
        self._forget()
        self._rows["changed"][:] = False
        self._accounts["changed"][:] = False
        return self._pack(None, None)

    def export_changes(self) -> bytes:
        """What has changed since the last `export`, packed."""
        rows = np.flatnonzero(self._rows["changed"][: self._rows.rows])
        accounts = np.flatnonzero(self._accounts["changed"][: self._accounts.rows])
        return self._pack(rows, accounts)

    @classmethod
    def restore(
        cls, partition: int, settings: MeasureSettings, full: bytes, changes: bytes | None = None
    ) -> PartitionMeasure:
        """A partition from what `export`, and after it `export_changes`, gave.

        Raises:
            StateMismatch: the state is damaged, or of another version of the program.
        """
        measure = cls(partition, settings)
        measure._unpack(full)
        if changes is not None:
            measure._unpack(changes)
        return measure

    def _columns(self, events: Sequence[Event]) -> Batch:
        n = len(events)
        # Lists, not arrays: storing single numbers into an array costs three times as much.
        accounts: list[int] = []
        rows: list[int] = []
        account_of, row_of, population_of = self._account_of, self._row_of, self._population_of
        ringed = self._ringed
        pieces: list[bytes] = []
        lengths: list[int] = []
        ids: list[bytes] = []
        id_ends: dict[int, int] = {}
        id_size = 0
        values: list[NDArray[np.float32]] = []
        value_lo = np.zeros(n, np.int64)
        value_hi = np.zeros(n, np.int64)
        value_size = 0
        labels: dict[int, tuple[int, float]] = {}
        opens_up = np.zeros(n, np.uint8)
        sketched = np.zeros(n, np.bool_)
        for e, event in enumerate(events):
            name = event.account
            account = account_of.get(name, -1)
            if account < 0:
                account = self._add_account(name)
            accounts.append(account)
            if event.request_id is not None:
                piece = event.request_id.encode("utf-8", "replace")
                ids.append(piece)
                id_size += len(piece)
                id_ends[e] = id_size
                if account not in ringed:
                    ringed.add(account)
                    self._accounts["ids"][account] = self._rings.add()
            if not event.served:
                rows.append(-1)
                lengths.append(0)
                continue
            if event.params is not None and _opens_up(event.params):
                opens_up[e] = OPENS_UP
            content = event.input
            if type(content) is str:
                kind = _TEXT
                piece = content.encode("utf-8", "replace")
            elif content is None and event.input_sketch is not None:
                kind = _TEXT
                piece = decode_sketch(event.input_sketch)
                sketched[e] = True
            elif not content:  # a vector of no numbers says as little as none at all
                kind = _METADATA
                piece = b""
            else:
                kind = _VECTOR
                with np.errstate(over="ignore"):
                    vector = np.nan_to_num(np.array(content, dtype=np.float32))
                piece = vector.tobytes()
                values.append(vector)
                value_lo[e] = value_size
                value_size += len(vector)
                value_hi[e] = value_size
                if event.output is not None:
                    labels[e] = self._answer(event)
            pieces.append(piece)
            lengths.append(len(piece))
            key = (event.model, event.endpoint, kind)
            population = population_of.get(key)
            if population is None:
                population = self._population(*key)
            row = row_of.get((name, population), -1)
            if row < 0:
                row = self._add_row(name, population, kind)
            rows.append(row)
        sizes = np.array(lengths, dtype=np.int64)
        hi = np.cumsum(sizes)
        id_hi = np.zeros(n, np.int64)
        id_lo = np.zeros(n, np.int64)
        before = 0
        for e, end in id_ends.items():
            id_lo[e], id_hi[e] = before, end
            before = end
        label = np.full(n, -1, np.int32)
        confidence = np.full(n, np.nan, np.float32)
        for e, (code, sure) in labels.items():
            label[e], confidence[e] = code, sure
        return Batch(
            account=np.array(accounts, dtype=np.int32),
            row=np.array(rows, dtype=np.int32),
            ts=np.array([event.ts for event in events], dtype=np.float64),
            latency=np.array([event.latency_ms or 0.0 for event in events]) / 1000.0,
            answer=np.minimum(
                np.fromiter((event.output_tokens or 0.0 for event in events), np.float64, count=n),
                _MAX_FLOAT32,
            ).astype(np.float32),
            opens_up=opens_up,
            data=np.frombuffer(b"".join(pieces), dtype=np.uint8),
            lo=hi - sizes,
            hi=hi,
            sketched=sketched,
            ids=np.frombuffer(b"".join(ids), dtype=np.uint8),
            id_lo=id_lo,
            id_hi=id_hi,
            values=np.concatenate(values) if values else np.empty(0, np.float32),
            value_lo=value_lo,
            value_hi=value_hi,
            label=label,
            confidence=confidence,
        )

    def _answer(self, event: Event) -> tuple[int, float]:
        output = event.output
        if output is None or output.label is None:
            code = -1
        else:
            name = str(output.label)
            code = self._label_of.get(name, -1)
            if code < 0:
                code = min(len(self._labels), _MAX_LABELS - 1)
                if code == len(self._labels):
                    self._label_of[name] = code
                    self._labels.append(name)
        confidence = None if output is None else output.confidence
        if confidence is None or not abs(confidence) <= _MAX_FLOAT32:
            return code, float("nan")
        return code, confidence

    def _population(self, model: str | None, endpoint: str | None, kind: str) -> str:
        name = f"vector:{model or ''}" if kind == _VECTOR else kind
        for rule in self.settings.populations:
            if _matches(model, rule.models) and _matches(endpoint, rule.endpoints):
                # Kinds have nothing to compare, and a caller who chose the kind of an account's
                # first request must not choose its baseline: the kind is in the name.
                name = rule.name if kind == _TEXT else f"{rule.name}:{kind}"
                break
        if len(self._population_of) >= _MAX_CACHED:
            self._population_of.clear()
        self._population_of[(model, endpoint, kind)] = name
        return name

    def _add_account(self, name: str) -> int:
        account = self._accounts.add()
        self._account_of[name] = account
        return account

    def _add_row(self, account: str, population: str, kind: str) -> int:
        row = self._rows.add()
        self._rows["account"][row] = self._account_of[account]
        self._rows["changed"][row] = True
        self._row_of[(account, population)] = row
        self._row_names.append((account, population, kind))
        self._identities.append(_NO_IDENTITY)
        for table in self._past.values():
            table.add()
        if kind == _VECTOR:
            self._rows["vector"][row] = self._vectors.add()
        return row

    def _blocks(self, count: int, events: Sequence[Event], start: int, blocks: list[Block]) -> None:
        out = self._out
        slots = Slots(
            n=out.n[:count],
            index=out.index[:count],
            final=out.final[:count],
            ts=out.ts[:count],
            latency=out.latency[:count],
            length=out.length[:count],
            entropy=out.entropy[:count],
            words=out.words[:count],
            fresh_words=out.fresh_words[:count],
            function_words=out.function_words[:count],
            odd_pairs=out.odd_pairs[:count],
            head=out.head[:count],
            tail=out.tail[:count],
            text=out.text[:count],
            signs=out.signs[:count],
            answer=out.answer[:count],
            sketch_sum=out.sketch_sum[:count],
            sketched=out.sketched[:count],
            minhash=out.minhash[:count],
        )
        rows = out.row[:count]
        measured = np.empty((count, len(NAMES)), np.float32)
        column = 0
        for family in FAMILIES:
            width = len(family.features)
            past = self._past.get(family.name)
            part = np.empty((count, width), np.float32)
            family.measure(slots, rows, past.arrays if past else {}, part)
            measured[:, column : column + width] = part
            column += width
        sketches, heads = fingerprints(slots)
        for b in range(count):
            blocks.append(self._block(b, out, measured, sketches, heads, events, start))

    def _block(
        self,
        b: int,
        out: Closed,
        measured: NDArray[np.float32],
        sketches: NDArray[np.int8],
        heads: NDArray[np.int64],
        events: Sequence[Event],
        start: int,
    ) -> Block:
        row = int(out.row[b])
        account, population, kind = self._row_names[row]
        n = int(out.n[b])
        last = int(out.last_event[b]) - start
        ts = out.ts[b, :n]
        dims = int(out.dims[b])
        labels: tuple[str, ...] = ()
        vectors = confidences = b""
        if kind == _VECTOR:
            names = self._labels
            labels = tuple(names[c] if c >= 0 else "" for c in out.label[b, :n].tolist())
            vectors = out.values[b, :n, :dims].tobytes()
            confidences = out.confidence[b, :n].tobytes()
        block = Block(
            partition=self.partition,
            seq=self.next_seq,
            time=float(out.time[b]),
            account=account,
            population=population,
            kind=kind,
            index=int(out.index[b]),
            revision=int(out.revision[b]),
            n=n,
            events=int(out.events[b]),
            refused=int(out.refused[b]),
            first_ts=float(ts.min()),
            last_ts=float(ts.max()),
            features=measured[b].tobytes(),
            sketch=sketches[b].tobytes(),
            minhash=out.minhash[b].tobytes(),
            heads=tuple((h, c, d) for h, c, d in heads[b].tolist() if c),
            identity=_identity(events[last]) if last >= 0 else self._identities[row],
            dims=dims,
            vectors=vectors,
            labels=labels,
            confidences=confidences,
        )
        self.next_seq += 1
        return block

    def _forget(self) -> None:
        # The kernel treats an account forgotten by time as new, so when its row goes has no effect
        # on any block: only memory is won. Below a quarter of the rows it is not worth a copy.
        used, accounts = self._rows.rows, self._accounts.rows
        # Summed as the kernel sums it, so that rounding cannot tell them apart.
        after = self.settings.account_forget_after
        gone = self._rows["last_seen"][:used] + after <= self.watermark
        gone &= self._rows["n"][:used] == 0
        stranger = self._accounts["last_seen"][:accounts] + after <= self.watermark
        stranger[self._rows["account"][:used][~gone]] = False
        if 4 * int(gone.sum()) <= used and 4 * int(stranger.sum()) <= accounts:
            return
        kept = PartitionMeasure(self.partition, self.settings)
        for account, a in self._account_of.items():
            if not stranger[a]:
                kept._add_account(account)
        for row in np.flatnonzero(~gone).tolist():
            account, population, kind = self._row_names[row]
            kept._add_row(account, population, kind)
            kept._identities[-1] = self._identities[row]
        new_row = np.cumsum(~gone) - 1
        old = np.flatnonzero(~gone)
        new = np.arange(len(old))
        columns = self._rows.take(old)
        for name in ("before", "after"):
            linked = columns[name] >= 0
            columns[name][linked] = new_row[columns[name][linked]]
        columns["account"] = kept._rows["account"][new].copy()
        vector_rows = columns["vector"][columns["vector"] >= 0].astype(np.int64)
        columns["vector"] = kept._rows["vector"][new].copy()
        kept._rows.put(new, columns)
        kept._vectors.put(np.arange(len(vector_rows)), self._vectors.take(vector_rows))
        for name, table in self._past.items():
            kept._past[name].put(new, table.take(old))
        names = list(kept._account_of)
        account_rows = np.array([self._account_of[name] for name in names], dtype=np.int64)
        account_columns = self._accounts.take(account_rows)
        ringed = account_columns["ids"] >= 0
        rings = account_columns["ids"][ringed].astype(np.int64)
        account_columns["ids"][ringed] = np.arange(len(rings))
        kept._accounts.put(np.arange(len(names)), account_columns)
        kept._rings.put(np.arange(len(rings)), self._rings.take(rings))
        ends = self._partition.ends
        ends[ends >= 0] = new_row[ends[ends >= 0]]
        for attribute in (
            "_rows",
            "_vectors",
            "_accounts",
            "_rings",
            "_past",
            "_account_of",
            "_row_of",
            "_row_names",
            "_identities",
        ):
            setattr(self, attribute, getattr(kept, attribute))
        self._find_ringed()

    def _find_ringed(self) -> None:
        ids = self._accounts["ids"][: self._accounts.rows]
        self._ringed = set(np.flatnonzero(ids >= 0).tolist())

    def _pack(self, rows: NDArray[Any] | None, accounts: NDArray[Any] | None) -> bytes:
        every_row = np.arange(self._rows.rows) if rows is None else rows
        every_account = np.arange(self._accounts.rows) if accounts is None else accounts
        vectors = self._rows["vector"][every_row]
        vectors = vectors[vectors >= 0].astype(np.int64)
        rings = self._accounts["ids"][every_account]
        rings = rings[rings >= 0].astype(np.int64)
        names = list(self._account_of)
        partition = self._partition
        return pack(
            "measure",
            _VERSION,
            {
                "partition": self.partition,
                "next_seq": self.next_seq,
                "clock": partition.clock,
                "ends": partition.ends,
                "events": int(partition.progress[2]),
                "families": {family.name: family.version for family in FAMILIES},
                "rows": every_row,
                "columns": self._rows.take(every_row),
                "past": {name: table.take(every_row) for name, table in self._past.items()},
                "names": [self._row_names[r] for r in every_row.tolist()],
                "identities": [self._identities[r] for r in every_row.tolist()],
                "vector_rows": vectors,
                "vectors": self._vectors.take(vectors),
                "accounts": every_account,
                "account_columns": self._accounts.take(every_account),
                "account_names": [names[a] for a in every_account.tolist()],
                "ring_rows": rings,
                "rings": self._rings.take(rings),
                "labels": self._labels,
            },
        )

    def _unpack(self, packed: bytes) -> None:
        state = unpack("measure", _VERSION, packed)
        versions = {family.name: family.version for family in FAMILIES}
        if state["families"] != versions or state["partition"] != self.partition:
            raise StateMismatch(
                f"stored features {state['families']} of partition {state['partition']}; "
                f"this program has {versions} for partition {self.partition}"
            )
        self.next_seq = state["next_seq"]
        self._partition.clock[:] = state["clock"]
        self._partition.ends[:] = state["ends"]
        self._partition.progress[2] = state["events"]
        self._labels = list(state["labels"])
        self._label_of = {name: code for code, name in enumerate(self._labels)}
        self._rows.put(state["rows"], state["columns"])
        for name, table in self._past.items():
            table.put(state["rows"], state["past"][name])
        for row, names, identity in zip(
            state["rows"].tolist(), state["names"], state["identities"], strict=True
        ):
            if row == len(self._row_names):
                self._row_names.append(tuple(names))
                self._identities.append(_NO_IDENTITY)
                self._row_of[(names[0], names[1])] = row
            self._identities[row] = msgspec.convert(identity, Identity)
        self._vectors.put(state["vector_rows"], state["vectors"])
        self._accounts.put(state["accounts"], state["account_columns"])
        for account, name in zip(state["accounts"].tolist(), state["account_names"], strict=True):
            self._account_of.setdefault(name, account)
        self._rings.put(state["ring_rows"], state["rings"])
        self._find_ringed()


def _identity(event: Event) -> Identity:
    return Identity(
        event.api_key,
        event.org,
        event.plan,
        event.ip,
        event.user_agent,
        event.ja4,
        event.endpoint,
        event.model,
        event.links or {},
    )


def _opens_up(params: Mapping[str, Any]) -> bool:
    """Whether a request asks for more of the model than its answer."""
    choices = params.get("n")
    return bool(
        params.get("logprobs")
        or params.get("top_logprobs")
        or params.get("logit_bias")
        or (isinstance(choices, int) and choices > 1)
    )


def _matches(value: str | None, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(value or "", pattern) for pattern in patterns)
