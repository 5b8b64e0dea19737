"""Evidence about accounts that send text: from block scores to a running maximum.

A row an account: the scores of its blocks, its mean sketch, what links it to others. Three models
turn that into log-odds (the account's own history; with accounts on the same payment or network;
with accounts that send alike), which are averaged. The evidence is their running maximum.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.baseline import KindBaseline
from detector.blocks import BLOCK_EVENTS, SKETCH_DIMS, Block, Identity
from detector.change_points import COLUMNS as CHANGE_COLUMNS
from detector.change_points import account_changed
from detector.explanation import Like
from detector.neighbours import centre_one, centred, nearest, similarities
from detector.score import TextModels, account_row
from detector.state import Column, StateMismatch, Table
from features import NAMES

__all__ = ["MIN_EVENTS", "SEEN", "Others", "TextEvidence", "link_keys"]

MIN_EVENTS: Final = 8  # a block of fewer says too little
NEIGHBOURS: Final = 20
_CLOSEST: Final = 5
_KEYS_KEPT: Final = 16  # links, and templates, of one account
_TEMPLATE_TEXTS: Final = 3  # distinct texts with the same head that make it a template
_RECENTRE_S: Final = 21_600.0
_SCORE_STEP: Final = 1 << 20  # scores are summed as integers of this step: order cannot matter
_DAY: Final = 86_400.0
# What the models saw when the evidence reached its maximum: column `seen`. NaN for nobody.
SEEN: Final = (
    *("mean", "max", "min", "events"),
    *("linked_mean", "template_mean", "sketch_mean", "sketch_cosine"),
)

_COLUMNS: Final = (
    Column("start", "float64"),  # of the account's evidence, Unix seconds
    Column("events_before", "int64"),  # served events before `start`
    Column("last_time", "float64"),
    Column("first", "float64", fill=math.nan),  # score of the first block's latest revision
    Column("rest_sum", "float64"),
    Column("rest", "int32"),  # blocks after the first
    Column("highest", "float64", fill=-math.inf),  # of these
    Column("lowest", "float64", fill=math.inf),
    Column("mean", "int64"),  # mean score in steps of 1/_SCORE_STEP, as in the planes
    Column("own", "float64", fill=-math.inf),  # log-odds of its own history, now
    Column("own_top", "float64", fill=-math.inf),  # running maximum of `own`
    Column("evidence", "float64", fill=-math.inf),  # running maximum of the averaged log-odds
    Column("watched", "bool"),  # looked at for campaigns
    Column("scored", "bool"),
    Column("changed", "bool"),
    Column("first_sketch", "int8", (SKETCH_DIMS,)),
    Column("rest_sketch", "int32", (SKETCH_DIMS,)),
    Column("sketches", "int32"),  # blocks in `rest_sketch`
    Column("centred", "int8", (SKETCH_DIMS,)),
    Column("best_score", "float64", fill=-math.inf),
    Column("best", "float32", (len(NAMES),)),  # features of the block with the best score
    Column("seen", "float64", (len(SEEN),), fill=math.nan),  # see SEEN
    # Of the blocks since the account's last change, which are a history of their own.
    Column("since_events_before", "int64"),
    Column("since_sum", "float64"),
    Column("since", "int32"),
    Column("since_highest", "float64", fill=-math.inf),
    Column("since_lowest", "float64", fill=math.inf),
    *CHANGE_COLUMNS,
)


class Others(NamedTuple):
    """What accounts around one show. NaN where there is nobody."""

    linked_mean: float  # mean score of accounts on the same payment, device or network
    template_mean: float  # of accounts that use the same templates
    sketch_mean: float  # of the 20 whose inputs are most alike
    sketch_cosine: float  # mean cosine to the nearest 5 of these


class TextEvidence:
    """The accounts of one text population.

    Args:
        models: the learned models.
        restart_s: seconds after which an account's evidence restarts.
        clean: customers of an earlier day, whom accounts are compared with too.
        bar: log-odds of an account's own history above which others count; the models' if None.
    """

    def __init__(
        self,
        models: TextModels,
        restart_s: float,
        clean: KindBaseline | None = None,
        *,
        bar: float | None = None,
    ) -> None:
        self.models = models
        self._bar = models.own_bar if bar is None else bar
        self._restart_s = restart_s
        self._table = Table(_COLUMNS)
        self._row_of: dict[str, int] = {}
        self._names: list[str] = []
        self._keys: list[list[str]] = []
        # (own, evidence): the highest of each account's week that ended, until they are taken.
        self.ended: list[tuple[float, float]] = []
        self._planes: dict[str, list[int]] = {}  # key → [sum of mean scores, accounts]
        self._centre = np.zeros(SKETCH_DIMS, np.float32)
        self._centred_rows = 0
        self._centred_at = -math.inf
        self._clean_sketches = np.zeros((0, SKETCH_DIMS), np.int8)
        self._clean_means = np.zeros(0, np.int64)
        if clean is not None and clean.means:
            self._clean_sketches = np.frombuffer(clean.sketches, np.int8).reshape(-1, SKETCH_DIMS)
            self._clean_means = np.rint(np.array(clean.means) * _SCORE_STEP).astype(np.int64)
        self._clean_centred = self._clean_sketches

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def accounts(self) -> Mapping[str, int]:
        """Account names and their rows."""
        return self._row_of

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self._table[column]

    def keys(self, row: int) -> list[str]:
        """What links the account to others: networks, payments, devices, templates."""
        return self._keys[row]

    def add(self, block: Block, score: float) -> int:
        """Take a block's score into its account's history; the account's row."""
        table = self._table
        row = self._row_of.get(block.account, -1)
        if row < 0:
            row = table.add()
            self._row_of[block.account] = row
            self._names.append(block.account)
            self._keys.append([])
            table["start"][row] = block.first_ts
            table["events_before"][row] = block.events - block.n
        elif block.time >= table["start"][row] + self._restart_s:
            self._restart(row, block)
        table["changed"][row] = True
        table["last_time"][row] = block.time
        sketch = np.frombuffer(block.sketch, np.int8)
        if block.index == 0:
            table["first"][row] = score
            table["first_sketch"][row] = sketch
        else:
            table["rest_sum"][row] += score
            table["rest"][row] += 1
            table["highest"][row] = max(table["highest"][row], score)
            table["lowest"][row] = min(table["lowest"][row], score)
            table["rest_sketch"][row] += sketch
            table["sketches"][row] += 1
            self._since_change(row, block, score)
        if score > table["best_score"][row] or block.index == 0:
            table["best_score"][row] = score
            table["best"][row] = np.frombuffer(block.features, np.float32)
        mean = self.history(row)[0]
        events = block.events - int(table["events_before"][row])
        own = max(
            self.models.account.log_odds(account_row(*history, n))
            for history, n in self._histories(row, events)
        )
        table["own"][row] = own
        table["own_top"][row] = max(table["own_top"][row], own)
        before = int(table["mean"][row]) if table["scored"][row] else 0
        after = round(mean * _SCORE_STEP)
        for key in self._keys[row]:
            self._planes[key][0] += after - before
        table["mean"][row] = after
        table["scored"][row] = True
        self._join(row, after, block)
        self._recentre(block.time)
        count = int(table["sketches"][row]) + int(table["first_sketch"][row].any())
        centre_one(
            table["first_sketch"][row],
            table["rest_sketch"][row],
            max(count, 1),
            self._centre,
            table["centred"][row],
        )
        return row

    def history(self, row: int) -> tuple[float, float, float]:
        """Mean, maximum and minimum of the account's block scores."""
        table = self._table
        first = float(table["first"][row])
        total, count = float(table["rest_sum"][row]), int(table["rest"][row])
        highest, lowest = float(table["highest"][row]), float(table["lowest"][row])
        if not math.isnan(first):
            total, count = total + first, count + 1
            highest, lowest = max(highest, first), min(lowest, first)
        return total / count, highest, lowest

    def others(self, row: int) -> Others:
        """What the accounts around one show, itself left out."""
        weight_sum = {True: 0.0, False: 0.0}
        score_sum = {True: 0.0, False: 0.0}
        own = int(self._table["mean"][row])
        for key in self._keys[row]:
            total, count = self._planes[key]
            if count < 2:
                continue
            # Rare links say more than common ones (FRAUDAR, Hooi et al. 2016).
            weight = 1.0 / math.log(count + 5.0)
            template = key.startswith("head:")
            weight_sum[template] += weight
            score_sum[template] += weight * (total - own) / _SCORE_STEP / (count - 1)
        sketch_mean, sketch_cosine = self._alike(row)
        return Others(
            score_sum[False] / weight_sum[False] if weight_sum[False] else math.nan,
            score_sum[True] / weight_sum[True] if weight_sum[True] else math.nan,
            sketch_mean,
            sketch_cosine,
        )

    def judge(self, row: int, events: int) -> float:
        """The account's evidence, after its last block: -inf while its own history is ordinary.

        Linked accounts count only for one whose own history passes the bar that 5 % of customers
        pass, so that nobody is convicted by company, and copying a customer's template frames
        nobody.
        """
        table = self._table
        highest_yet = float(table["evidence"][row])
        if table["own"][row] < self._bar:
            return highest_yet
        others = self.others(row)
        for history, n in self._histories(row, events):
            own = self.models.account.log_odds(account_row(*history, n))
            if own < self._bar:
                continue
            evidence = self._odds(own, history, n, others)
            if evidence > highest_yet:
                highest_yet = evidence
                table["evidence"][row] = evidence
                table["seen"][row] = (*history, n, *others)
        return highest_yet

    def week_events(self, row: int, events: int) -> int:
        """Of an account's served events, those since its evidence began."""
        return events - int(self._table["events_before"][row])

    def holders(self, row: int) -> dict[str, int]:
        """`keys`, and how many accounts have each."""
        return {key: self._planes[key][1] for key in self._keys[row]}

    def watch(self, row: int, bar: float, most: int) -> list[tuple[str, float]]:
        """Look at the account for campaigns; the watched ones most alike, and the cosine.

        At most `most`, of a cosine of at least `bar`, the nearest first.
        """
        table = self._table
        eligible = table["watched"][: table.rows].copy()
        eligible[row] = False
        table["watched"][row] = True
        dots = similarities(table["centred"], table.rows, table["centred"][row])
        rows, cosines = nearest(dots, most, eligible)
        return [
            (self._names[r], c)
            for r, c in zip(rows.tolist(), cosines.tolist(), strict=True)
            if c >= bar
        ]

    def like(self, row: int, below: float) -> Like:
        """The customers whose inputs are most like an account's: those with evidence `below`."""
        table, used = self._table, self._table.rows
        eligible = table["scored"][:used] & (table["evidence"][:used] < below)
        eligible[row] = False
        dots = similarities(table["centred"], used, table["centred"][row])
        rows, _ = nearest(dots, NEIGHBOURS, eligible)
        blocks = table["rest"][rows] + ~np.isnan(table["first"][rows])
        return Like(
            table["best"][rows],
            table["mean"][rows] / _SCORE_STEP,
            (blocks * BLOCK_EVENTS).astype(np.float64),
        )

    def clean(self, accounts: int) -> tuple[KindBaseline, list[float]]:
        """What a baseline keeps: evidence, and up to `accounts` sketches without names; the centre.

        Names are dropped, and rows are taken in the order of a sort by sketch, so that the file
        says nothing about who sent what.
        """
        used = self._table.rows
        scored = np.flatnonzero(self._table["scored"][:used])
        own = self._table["own_top"][scored]
        # The bar lies where it lies for the shipped reference: 5 % of customers pass it.
        bar = float(np.quantile(own, 0.95)) if len(own) else None
        evidence = self._table["evidence"][scored if bar is None else scored[own >= bar]]
        chosen = scored[:: max(1, math.ceil(len(scored) / accounts))]
        means = self._mean_sketches()[chosen]
        sketches = np.clip(np.rint(means), -127, 127).astype(np.int8)
        order = np.lexsort(sketches.T) if len(chosen) else np.zeros(0, np.int64)
        chosen = chosen[order]
        return KindBaseline(
            accounts=len(scored),
            evidence=sorted(float(e) for e in evidence if e > -math.inf),
            bar=bar,
            sketches=sketches[order].tobytes(),
            means=[float(m) / _SCORE_STEP for m in self._table["mean"][chosen]],
        ), [float(c) for c in self._centre]

    def start_centre(self, centre: list[float]) -> None:
        """Begin with a baseline's median sketch instead of none."""
        self._centre = np.array(centre, np.float32)
        self._clean_centred = centred(self._clean_sketches.astype(np.float32), self._centre)

    def export(self, changes: bool) -> dict[str, Any]:
        """Everything, or the rows changed since everything was last exported, as builtins."""
        table = self._table
        if changes:
            rows = np.flatnonzero(table["changed"][: table.rows])
        else:
            table["changed"][:] = False
            rows = np.arange(table.rows)
        return {
            "rows": rows,
            "columns": table.take(rows),
            "names": [self._names[r] for r in rows.tolist()],
            "keys": [self._keys[r] for r in rows.tolist()],
            "centre": self._centre,
            "centred_rows": self._centred_rows,
            "centred_at": self._centred_at,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take in what `export` gave: everything first, then changes."""
        self._table.put(state["rows"], state["columns"])
        for row, name, keys in zip(
            state["rows"].tolist(), state["names"], state["keys"], strict=True
        ):
            if row > len(self._keys):
                raise StateMismatch("changed accounts are stored without those before them")
            if row == len(self._keys):
                self._keys.append([])
                self._names.append(name)
                self._row_of[name] = row
            self._keys[row] = list(keys)
        recentred = state["centred_at"] != self._centred_at
        self._centre = state["centre"]
        self._centred_rows = state["centred_rows"]
        self._centred_at = state["centred_at"]
        if recentred:
            self._centre_all()
        self._planes = {}
        for row, keys in enumerate(self._keys):
            for key in keys:
                plane = self._planes.setdefault(key, [0, 0])
                plane[0] += int(self._table["mean"][row])
                plane[1] += 1

    def _odds(
        self, own: float, history: tuple[float, float, float], events: int, others: Others
    ) -> float:
        """The mean log-odds of the models that can say something."""
        models = self.models
        odds = [own]
        if not math.isnan(others.linked_mean):
            seen = account_row(*history, events, (others.linked_mean,))
            odds.append(models.linked.log_odds(seen))
        if not math.isnan(others.sketch_mean):
            template = history[0] if math.isnan(others.template_mean) else others.template_mean
            alike = (template, others.sketch_mean, others.sketch_cosine)
            odds.append(models.alike.log_odds(account_row(*history, events, alike)))
        return sum(odds) / len(odds)

    def _histories(self, row: int, events: int) -> list[tuple[tuple[float, float, float], int]]:
        """What is judged: the whole week, and the part of it since the account changed."""
        table = self._table
        histories = [(self.history(row), events)]
        count = int(table["since"][row])
        if count > 1:  # one strange block makes no other customer
            before = int(table["since_events_before"][row] - table["events_before"][row])
            mean = float(table["since_sum"][row]) / count
            highest, lowest = table["since_highest"][row], table["since_lowest"][row]
            histories.append(((mean, float(highest), float(lowest)), events - before))
        return histories

    def _since_change(self, row: int, block: Block, score: float) -> None:
        table = self._table
        network = next((k for k in link_keys(block.identity) if k.startswith("net:")), None)
        if account_changed(table, row, block, network):
            table["since_events_before"][row] = block.events - block.n
            table["since_sum"][row] = 0.0
            table["since"][row] = 0
            table["since_highest"][row] = -math.inf
            table["since_lowest"][row] = math.inf
        elif not table["since"][row]:
            return
        table["since_sum"][row] += score
        table["since"][row] += 1
        table["since_highest"][row] = max(table["since_highest"][row], score)
        table["since_lowest"][row] = min(table["since_lowest"][row], score)

    def _restart(self, row: int, block: Block) -> None:
        # A week is over: what the account did before no longer speaks against it.
        table = self._table
        if table["scored"][row]:
            self.ended.append((float(table["own_top"][row]), float(table["evidence"][row])))
        weeks = (block.time - table["start"][row]) // self._restart_s
        table["start"][row] += weeks * self._restart_s
        table["events_before"][row] = block.events - block.n
        for column in _COLUMNS:
            if column.name in (
                "first",
                "rest_sum",
                "rest",
                "highest",
                "lowest",
                "own",
                "own_top",
                "evidence",
                "best_score",
                "seen",
                "since_events_before",
                "since_sum",
                "since",
                "since_highest",
                "since_lowest",
            ):
                table[column.name][row] = column.fill

    def _join(self, row: int, mean: int, block: Block) -> None:
        keys = self._keys[row]
        templates = sum(key.startswith("head:") for key in keys)
        links = len(keys) - templates
        fresh = []
        for key in link_keys(block.identity):
            if links < _KEYS_KEPT and key not in keys:
                fresh.append(key)
                links += 1
        for head, _, distinct in block.heads:
            key = f"head:{head}"
            if distinct >= _TEMPLATE_TEXTS and templates < _KEYS_KEPT and key not in keys:
                fresh.append(key)
                templates += 1
        for key in fresh:
            keys.append(key)
            plane = self._planes.setdefault(key, [0, 0])
            plane[0] += mean
            plane[1] += 1

    def _mean_sketches(self) -> NDArray[np.float32]:
        """Mean sketch of every row, float32 (rows, 128)."""
        table, used = self._table, self._table.rows
        first = table["first_sketch"][:used]
        counts = table["sketches"][:used] + first.any(axis=1)
        total = table["rest_sketch"][:used] + first
        mean: NDArray[np.float32] = (total / np.maximum(counts, 1)[:, None]).astype(np.float32)
        return mean

    def _alike(self, row: int) -> tuple[float, float]:
        # Mean score of the 20 accounts most alike, and how alike the nearest of them are.
        table = self._table
        used = table.rows
        query = table["centred"][row]
        means = table["mean"][:used]
        dots = similarities(table["centred"], used, query)
        eligible = table["scored"][:used].copy()
        eligible[row] = False
        clean = len(self._clean_means)
        if clean:
            dots = np.concatenate([dots, similarities(self._clean_centred, clean, query)])
            means = np.concatenate([means, self._clean_means])
            eligible = np.append(eligible, np.ones(clean, np.bool_))
        alike, cosines = nearest(dots, NEIGHBOURS, eligible)
        if not len(alike):
            return math.nan, math.nan
        closest = cosines[:_CLOSEST]
        return (
            int(np.sum(means[alike])) / _SCORE_STEP / len(alike),
            float(np.sum(closest)) / len(closest),
        )

    def _recentre(self, time: float) -> None:
        grown = self._table.rows >= 1.25 * self._centred_rows + 16
        if not grown and time < self._centred_at + _RECENTRE_S:
            return
        rows = self._table.rows
        clean = self._clean_sketches.astype(np.float32)
        everybody = np.concatenate([self._mean_sketches(), clean])
        self._centre = np.median(everybody, axis=0).astype(np.float32)
        self._centred_rows = rows
        self._centred_at = time
        self._centre_all()

    def _centre_all(self) -> None:
        rows = self._table.rows
        if rows:
            self._table["centred"][:rows] = centred(self._mean_sketches(), self._centre)
        if len(self._clean_sketches):
            self._clean_centred = centred(self._clean_sketches.astype(np.float32), self._centre)


def link_keys(identity: Identity) -> list[str]:
    """What an identity shares with others: its network (/24, /48) and the sender's link hints."""
    keys = [f"link:{name}:{value}" for name, value in sorted(identity.links.items())]
    if identity.ip:
        network = _network(identity.ip)
        if network is not None:
            keys.append(network)
    return keys


@lru_cache(maxsize=1 << 16)
def _network(ip: str) -> str | None:
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return None
    bits = 24 if address.version == 4 else 48
    return f"net:{ipaddress.ip_network((address, bits), strict=False).network_address}"
