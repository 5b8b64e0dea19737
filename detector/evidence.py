"""Evidence about accounts that send text: from block scores to a running maximum.

A row an account: the scores of its blocks, its mean features and sketch, what links it to others.
Models turn that into log-odds, some from the account's own blocks alone, some with accounts on the
same payment or network, that send alike, or that also go about it alike; they are averaged. The
evidence is the running maximum.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.baseline import KindBaseline
from detector.blocks import BLOCK_EVENTS, SKETCH_DIMS, Block, Identity
from detector.change_points import COLUMNS as CHANGE_COLUMNS
from detector.change_points import account_changed
from detector.directions import direct, direct_all
from detector.explanation import Like
from detector.histories import add_block, see_account, settle
from detector.neighbours import NeighbourIndex, centred
from detector.score import ACCOUNT_COLUMNS, OTHERS_COLUMNS, OWN_COLUMNS, TextModels
from detector.state import Column, StateMismatch, Table
from features import NAMES

__all__ = ["MIN_EVENTS", "TextEvidence", "link_keys"]

MIN_EVENTS: Final = 8  # a block of fewer says too little
NEIGHBOURS: Final = 20
_CLOSEST: Final = 5
_CROWD: Final = 64  # accounts looked at for who is as good as the same
_SAME: Final = 0.85  # cosine from which an account is
_KEYS_KEPT: Final = 16  # links, and templates, of one account
_TEMPLATE_TEXTS: Final = 3  # distinct texts with the same head that make it a template
_RECENTRE_S: Final = 21_600.0
_SCORE_STEP: Final = 1 << 20  # scores are summed as integers of this step: order cannot matter
_DAY: Final = 86_400.0
_COLUMNS: Final = (
    Column("start", "float64"),  # of the account's evidence, Unix seconds
    Column("events_before", "int64"),  # served events before `start`
    Column("events", "int64"),  # served events since `start`
    Column("last_time", "float64"),
    Column("first", "float64", fill=math.nan),  # score of the first block's latest revision
    Column("rest_sum", "float64"),
    Column("rest_squares", "float64"),
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
    Column("first_features", "float32", (len(NAMES),)),
    Column("rest_features", "float64", (len(NAMES),)),
    Column("firsts", "int32"),  # 1 when there is a block in `first_features`
    Column("best_score", "float64", fill=-math.inf),
    Column("best", "float32", (len(NAMES),)),  # features of the block with the best score
    # Of the blocks since the account's last change, which are a history of their own.
    Column("since_events_before", "int64"),
    Column("since_sum", "float64"),
    Column("since_squares", "float64"),
    Column("since", "int32"),
    Column("since_highest", "float64", fill=-math.inf),
    Column("since_lowest", "float64", fill=math.inf),
    *CHANGE_COLUMNS,
)
_SCANNED: Final = ("watched", "scored", "changed")
_RESTARTED: Final = (
    *("first", "rest_sum", "rest_squares", "rest", "highest", "lowest"),
    *("own", "own_top", "evidence", "best_score"),
    *("since_events_before", "since_sum", "since_squares", "since"),
    *("since_highest", "since_lowest"),
)
_OCTETS: Final = frozenset(map(str, range(256)))
_FIRST_OTHER: Final = len(OWN_COLUMNS)
_COMPANY: Final = sum(name.startswith("company_") for name in OTHERS_COLUMNS)


class TextEvidence:
    """The accounts of one text population.

    Args:
        models: the learned models.
        restart_s: seconds after which an account's evidence restarts.
        clean: customers of an earlier day, whom accounts are compared with too.
        bar: log-odds of an account's own history above which others count; the models' if None.
        whole_weeks: keep what each account's last whole week came to, for `week`.
    """

    def __init__(
        self,
        models: TextModels,
        restart_s: float,
        clean: KindBaseline | None = None,
        *,
        bar: float | None = None,
        whole_weeks: bool = False,
    ) -> None:
        self.models = models
        self._bar = models.own_bar if bar is None else bar
        self._restart_s = restart_s
        self._table = Table(_COLUMNS, by_row=True, apart=_SCANNED)
        self._row_of: dict[str, int] = {}
        self._names: list[str] = []
        # What links each account to others, in the order in which it showed: key → its plane.
        self._planes_of: list[dict[str, list[int]]] = []
        self._links: list[set[str]] = []  # of these, all but templates
        self._seen: dict[int, NDArray[np.float64]] = {}  # row → what its evidence was found in
        # The row that a block was last added to, and its `_histories` until they are judged.
        self._last: tuple[int, list[tuple[NDArray[np.float64], float]]] = (-1, [])
        self._alike = NeighbourIndex(SKETCH_DIMS)
        self._company = NeighbourIndex(SKETCH_DIMS + len(NAMES))
        # (own, evidence): the highest of each account's week that ended, until they are taken.
        self.ended: list[tuple[float, float]] = []
        # row → the same of its last whole week; not stored, as it is of use in one pass only.
        self._weeks: dict[int, tuple[float, float]] | None = {} if whole_weeks else None
        self._planes: dict[str, list[int]] = {}  # key → [sum of mean scores, accounts]
        self._centre = np.zeros(SKETCH_DIMS, np.float32)
        self._centred_rows = 0
        self._centred_at = -math.inf
        self._clean_sketches = np.zeros((0, SKETCH_DIMS), np.int8)
        self._clean_means = np.zeros(0, np.int64)
        if clean is not None and clean.means:
            self._clean_sketches = np.frombuffer(clean.sketches, np.int8).reshape(-1, SKETCH_DIMS)
            self._clean_means = np.rint(np.array(clean.means) * _SCORE_STEP).astype(np.int64)
        self._clean = NeighbourIndex(SKETCH_DIMS)
        self._clean.put_all(self._clean_sketches)

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def accounts(self) -> Mapping[str, int]:
        """Account names and their rows."""
        return self._row_of

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self._table[column]

    def week(self, row: int) -> tuple[float, float]:
        """Highest log-odds of an account's own history in a week, and its evidence.

        With `whole_weeks` of the last whole week, where there was one: what a week that has only
        begun comes to lies lower, and would make a reference that convicts too many.
        """
        now = float(self._table["own_top"][row]), float(self._table["evidence"][row])
        return now if self._weeks is None else self._weeks.get(row, now)

    def keys(self, row: int) -> list[str]:
        """What links the account to others: networks, payments, devices, templates."""
        return list(self._planes_of[row])

    def add(self, block: Block, score: float) -> int:
        """Take a block's score into its account's history; the account's row."""
        table = self._table
        row = self._row_of.get(block.account, -1)
        if row < 0:
            row = table.add()
            self._row_of[block.account] = row
            self._names.append(block.account)
            self._planes_of.append({})
            self._links.append(set())
            table["start"][row] = block.first_ts
            table["events_before"][row] = block.events - block.n
        elif block.time >= table["start"][row] + self._restart_s:
            self._restart(row, block)
        table["changed"][row] = True
        links = link_keys(block.identity)
        first = block.index == 0
        changed = False
        if not first:
            network = links[-1] if links and links[-1].startswith("net:") else None
            changed = account_changed(table, row, block, network)
        add_block(
            table.records,
            row,
            first,
            changed,
            block.time,
            block.events,
            block.n,
            score,
            np.frombuffer(block.sketch, np.int8),
            np.frombuffer(block.features, np.float32),
        )
        histories = self._histories(row)
        self._last = row, histories
        mean = float(histories[0][0][0])
        own = max(odds for _, odds in histories)
        after = round(mean * _SCORE_STEP)
        # 0 where there was none: then no plane has a share of it.
        step = after - settle(table.records, row, own, after)
        table["scored"][row] = True
        for plane in self._planes_of[row].values():
            plane[0] += step
        self._join(row, after, links, block)
        self._recentre(block.time)
        self._direct(row)
        return row

    def row(self, row: int) -> NDArray[np.float64]:
        """What the account models see of an account, float64 (len(ACCOUNT_COLUMNS),).

        The columns of others are 0: `others` fills them.
        """
        return self._rows(row)[0]

    def others(self, row: int, mean: float) -> NDArray[np.float64]:
        """What the accounts around one show, itself left out: as OTHERS_COLUMNS names it, float64.

        Where there is nobody, the means are the account's own, and the rest is 0.

        Args:
            row: the account's.
            mean: of its own scores.
        """
        weight_sum = {True: 0.0, False: 0.0}
        score_sum = {True: 0.0, False: 0.0}
        own = int(self._table["mean"][row])
        crowd = 0
        for key, (total, count) in self._planes_of[row].items():
            if count < 2:
                continue
            # Rare links say more than common ones (FRAUDAR, Hooi et al. 2016).
            weight = 1.0 / math.log(count + 5.0)
            template = key.startswith("head:")
            weight_sum[template] += weight
            score_sum[template] += weight * (total - own) / _SCORE_STEP / (count - 1)
            if not template:
                crowd = max(crowd, count)
        linked, templates = (
            score_sum[kind] / weight_sum[kind] if weight_sum[kind] else mean
            for kind in (False, True)
        )
        return np.array(
            [
                *(linked, math.log1p(crowd), templates),
                *self._who_sends_alike(row, mean),
                *self._who_goes_about_it_alike(row, mean),
            ]
        )

    def judge(self, row: int) -> float:
        """The account's evidence, after its last block: -inf while its own history is ordinary.

        Other accounts count only for one whose own history passes the bar that 5 % of customers
        pass, so that nobody is convicted by company, and copying a customer's template frames
        nobody.
        """
        table = self._table
        highest_yet = float(table["evidence"][row])
        if table["own"][row] < self._bar:
            return highest_yet
        last, histories = self._last
        if last != row:
            histories = self._histories(row)
        self._last = -1, []  # what is `seen` must not be written over
        for x, own in histories:
            if own < self._bar:
                continue
            # By its own mean: where there is nobody, the blocks before a change must not count.
            x[_FIRST_OTHER:] = self.others(row, float(x[0]))
            evidence = self.models.odds(x)
            if evidence > highest_yet:
                highest_yet = evidence
                table["evidence"][row] = evidence
                self._seen[row] = x
        return highest_yet

    def seen(self, row: int) -> NDArray[np.float64]:
        """What the models saw when the evidence of an account that has some was found.

        Returns:
            float64 (len(ACCOUNT_COLUMNS),): `TextModels.odds` of it is the evidence.
        """
        return self._seen[row]

    def holders(self, row: int) -> dict[str, int]:
        """`keys`, and how many accounts have each."""
        return {key: count for key, (_, count) in self._planes_of[row].items()}

    def watch(self, row: int, bar: float, most: int) -> list[tuple[str, float]]:
        """Look at the account for campaigns; the watched ones most alike, and the cosine.

        At most `most`, of a cosine of at least `bar`, the nearest first.
        """
        rows, cosines = self._alike.nearest(row, most, self._table["watched"])
        self._table["watched"][row] = True
        return [
            (self._names[r], c)
            for r, c in zip(rows.tolist(), cosines.tolist(), strict=True)
            if c >= bar
        ]

    def like(self, row: int, below: float) -> Like:
        """The customers whose inputs are most like an account's: those with evidence `below`."""
        table, used = self._table, self._table.rows
        eligible = table["scored"][:used] & (table["evidence"][:used] < below)
        rows, _ = self._alike.nearest(row, NEIGHBOURS, eligible)
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
        weeks = np.array([self.week(row) for row in scored.tolist()]).reshape(-1, 2)
        own = weeks[:, 0]
        # The bar lies where it lies for the shipped reference: 5 % of customers pass it.
        bar = self.models.bar(own) if len(own) else None
        evidence = weeks[:, 1] if bar is None else weeks[own >= bar, 1]
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
        self._clean.put_all(centred(self._clean_sketches.astype(np.float32), self._centre))

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
            "keys": [self.keys(r) for r in rows.tolist()],
            "seen": [(r, self._seen[r].tolist()) for r in rows.tolist() if r in self._seen],
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
            if row > len(self._names):
                raise StateMismatch("changed accounts are stored without those before them")
            if row == len(self._names):
                self._planes_of.append({})
                self._links.append(set())
                self._names.append(name)
                self._row_of[name] = row
            self._planes_of[row] = {key: [] for key in keys}  # stand below, with all others
            self._links[row] = {key for key in keys if not key.startswith("head:")}
            self._seen.pop(row, None)  # of a week that is over
        self._seen |= {row: np.array(x) for row, x in state["seen"]}
        self._centre = state["centre"]
        self._centred_rows = state["centred_rows"]
        self._centred_at = state["centred_at"]
        self._direct_all()
        self._last = -1, []
        self._planes = {}
        for row, planes in enumerate(self._planes_of):
            for key in planes:
                self._stand(row, key, int(self._table["mean"][row]))

    def _histories(self, row: int) -> list[tuple[NDArray[np.float64], float]]:
        """What is judged, and the log-odds of each by itself."""
        return [(x, self.models.own_odds(x)) for x in self._rows(row)]

    def _rows(self, row: int) -> list[NDArray[np.float64]]:
        """What is judged: the whole week, and the part of it since the account changed."""
        out = np.zeros((2, len(ACCOUNT_COLUMNS)))
        found = see_account(self._table.records, row, out)
        return [out[0], out[1]][:found]

    def _restart(self, row: int, block: Block) -> None:
        # A week is over: what the account did before no longer speaks against it.
        table = self._table
        if table["scored"][row]:
            week = float(table["own_top"][row]), float(table["evidence"][row])
            self.ended.append(week)
            if self._weeks is not None:
                self._weeks[row] = week
        weeks = (block.time - table["start"][row]) // self._restart_s
        table["start"][row] += weeks * self._restart_s
        table["events_before"][row] = block.events - block.n
        for column in _COLUMNS:
            if column.name in _RESTARTED:
                table[column.name][row] = column.fill
        self._seen.pop(row, None)

    def _join(self, row: int, mean: int, links: list[str], block: Block) -> None:
        known = self._planes_of[row]
        linked = self._links[row]
        templates = len(known) - len(linked)
        for key in links:
            if key not in linked and len(linked) < _KEYS_KEPT:
                self._stand(row, key, mean)
                linked.add(key)
        for head, _, distinct in block.heads:
            key = f"head:{head}"
            if distinct >= _TEMPLATE_TEXTS and templates < _KEYS_KEPT and key not in known:
                self._stand(row, key, mean)
                templates += 1

    def _stand(self, row: int, key: str, mean: int) -> None:
        plane = self._planes.setdefault(key, [0, 0])
        plane[0] += mean
        plane[1] += 1
        self._planes_of[row][key] = plane

    def _mean_sketches(self) -> NDArray[np.float32]:
        """Mean sketch of every row, float32 (rows, 128)."""
        table, used = self._table, self._table.rows
        first = table["first_sketch"][:used]
        counts = table["sketches"][:used] + first.any(axis=1)
        total = table["rest_sketch"][:used] + first
        mean: NDArray[np.float32] = (total / np.maximum(counts, 1)[:, None]).astype(np.float32)
        return mean

    def _who_sends_alike(self, row: int, mean: float) -> list[float]:
        # sketch_mean and sketch_cosine.
        rows, cosines = self._alike.nearest(row, NEIGHBOURS)
        means = self._table["mean"][rows]
        if len(self._clean):
            clean, clean_cosines = self._clean.nearest(self._alike[row], NEIGHBOURS)
            cosines = np.concatenate([cosines, clean_cosines])
            order = np.argsort(-cosines, kind="stable")[:NEIGHBOURS]
            means = np.concatenate([means, self._clean_means[clean]])[order]
            cosines = cosines[order]
        if not len(means):
            return [mean, 0.0]
        closest = cosines[:_CLOSEST]
        return [
            int(np.sum(means)) / _SCORE_STEP / len(means),
            float(np.sum(closest)) / len(closest),
        ]

    def _who_goes_about_it_alike(self, row: int, mean: float) -> list[float]:
        # The columns of "company", in the order of OTHERS_COLUMNS.
        table = self._table
        crowd, crowd_cosines = self._company.nearest(row, _CROWD)
        if not len(crowd):
            return [mean] + [0.0] * (_COMPANY - 1)
        rows, cosines = crowd[:NEIGHBOURS], crowd_cosines[:NEIGHBOURS]
        count = len(rows)
        means = table["mean"][rows] / _SCORE_STEP
        middle = float(np.add.reduce(means)) / count
        spread = float(np.add.reduce((means - middle) ** 2)) / count
        closest = cosines[:_CLOSEST]
        own = self._links[row]
        linked = [not own.isdisjoint(self._links[r]) for r in crowd.tolist()]
        same = int(np.count_nonzero(crowd_cosines >= _SAME))
        volumes = np.log2(np.maximum(table["events"][rows], 1))
        return [
            middle,
            math.sqrt(spread),
            float(np.add.reduce(closest)) / len(closest),
            float(cosines[-1]),
            sum(linked[:count]) / count,
            _distance(table["start"][rows], float(table["start"][row])) / _DAY,
            _distance(volumes, math.log2(max(int(table["events"][row]), 1))),
            _distance(table["last_time"][rows], float(table["last_time"][row])) / _DAY,
            math.log2(1 + same),
            math.log2(1 + same - sum(linked[:same])),
        ]

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
        self._direct_all()

    def _direct(self, row: int) -> None:
        sketch = np.empty(SKETCH_DIMS, np.int8)
        joint = np.empty(SKETCH_DIMS + len(NAMES), np.int8)
        direct(self._table.records, row, *self._placed(), sketch, joint)
        self._alike.put(row, sketch)
        self._company.put(row, joint)

    def _direct_all(self) -> None:
        rows = self._table.rows
        sketches = np.empty((rows, SKETCH_DIMS), np.int8)
        joints = np.empty((rows, SKETCH_DIMS + len(NAMES)), np.int8)
        direct_all(self._table.records, *self._placed(), sketches, joints)
        self._alike.put_all(sketches)
        self._company.put_all(joints)
        self._clean.put_all(centred(self._clean_sketches.astype(np.float32), self._centre))

    def _placed(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Where directions start, and how far features reach."""
        return self._centre, self.models.centre, self.models.scale


def _distance(values: NDArray[np.float64], value: float) -> float:
    return float(np.add.reduce(np.abs(values - value))) / len(values)


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
    parts = ip.split(".")
    if len(parts) == 4 and _OCTETS.issuperset(parts):  # what follows takes twenty times as long
        return f"net:{parts[0]}.{parts[1]}.{parts[2]}.0"
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return None
    bits = 24 if address.version == 4 else 48
    return f"net:{ipaddress.ip_network((address, bits), strict=False).network_address}"
