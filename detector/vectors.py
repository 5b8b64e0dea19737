"""Harvesting of vector APIs: how a block of feature vectors lies among the customers' own.

A population keeps a bounded reservoir of customers' rows and a bounded list of their blocks'
features. A block is measured against the reservoir in ways that do not depend on the number or
the meaning of the dimensions, each figure is put on the scale of the log's own earlier blocks
(median, interquartile range), and boosted trees learned on other data sets turn the result into
log-odds of harvesting. docs/decisions/0050 and 0051 say what was measured.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from detector import vector_kernels as kernels
from detector.blocks import Block
from detector.vector_kernels import FEATURES
from detector.vector_model import PLAIN_WORDS, VectorModel, size_class

__all__ = [
    "MAX_ROWS",
    "ROWS_PER_ACCOUNT",
    "ROWS_PER_HOUR",
    "SHARE_PER_HOUR",
    "TRAIL_ROWS",
    "VectorPopulation",
]

Floats = NDArray[np.float64]

MAX_ROWS: Final = 2400
ROWS_PER_ACCOUNT: Final = 24
# Accounts first seen in the same hour hold at most this many rows (20 accounts' worth) and, once
# others hold enough to measure by, at most this share of theirs: a campaign that starts at once
# cannot become the population, nor stay it when it came first.
ROWS_PER_HOUR: Final = 480
SHARE_PER_HOUR: Final = 0.35
MIN_ROWS: Final = 200
MIN_ACCOUNTS: Final = 5
_MAX_ACCOUNTS: Final = 4096  # accounts whose first hour is kept
_REFERENCES: Final = 600  # blocks kept of each size class
_REFERENCES_PER_ACCOUNT: Final = 6
_MIN_REFERENCES: Final = 12
_HALF_LIFE_S: Final = 604_800.0  # older rows and blocks make room for newer ones
_PROBES: Final = 400  # rows of the reservoir that say what to expect of a class
_MIN_CLASS_ROWS: Final = 6
_MAX_CLASSES: Final = 256
_LABEL_BYTES: Final = 64
_PRIOR_BLOCKS: Final = 8.0  # weight of the shipped scale, in blocks of the log
TRAIL_ROWS: Final = 2048  # rows last sent by anybody, thieves too
_MIN_TRAIL: Final = 200
_STATE_VERSION: Final = 3
_KEY: Final = b"velvetrope vectors 1"


def _draw(account: str, what: bytes, time: float) -> float:
    """Sampling key, the smaller the surer to stay: uniform but for age (Efraimidis-Spirakis).

    A keyed hash and not a generator, so that the sample depends on what was seen and on nothing
    else, and an account cannot choose rows that stay.
    """
    digest = hashlib.blake2b(what, digest_size=8, key=_KEY, salt=b"draw")
    digest.update(account.encode("utf-8", "surrogatepass"))
    uniform = (int.from_bytes(digest.digest(), "big") + 0.5) / 2.0**64
    return math.log(-math.log1p(-uniform)) - time * (math.log(2.0) / _HALF_LIFE_S)


@dataclass(slots=True, frozen=True)
class _Row:
    """A customer's input. `raw` is float32 bytes."""

    draw: float
    account: str
    raw: bytes
    label: str
    confidence: float  # the model's, NaN where it is not logged


@dataclass(slots=True, frozen=True)
class _Reference:
    """A customer's block: its features and the size of the reservoir that measured it."""

    draw: float
    account: str
    features: bytes  # float64 (F,)
    rows: int


class _Frame:
    """The reservoir at one moment, prepared for measuring."""

    def __init__(self, rows: list[_Row], dims: int) -> None:
        m = len(rows)
        self.rows = rows
        self.raw: Floats = (
            np.frombuffer(b"".join(row.raw for row in rows), dtype="<f4")
            .reshape(m, dims)
            .astype(np.float64)
        )
        self.columns: Floats = np.ascontiguousarray(np.sort(self.raw, axis=0).T)
        self.table: Floats = ndtri((np.arange(2 * m + 1) / 2.0 + 0.5) / (m + 1.0))
        self.scale = self._scales()
        self.scores = kernels.normal_scores(self.raw, self.columns, self.table, self.scale)
        self.by_dimension: Floats = np.ascontiguousarray(self.scores.T)
        self.accounts: dict[str, NDArray[np.int64]] = {}
        owners: dict[str, list[int]] = {}
        for j, row in enumerate(rows):
            owners.setdefault(row.account, []).append(j)
        for account, held in owners.items():
            self.accounts[account] = np.array(held, dtype=np.int64)
        self.usable: NDArray[np.bool_] = np.ones(m, dtype=np.bool_)
        self._classes()
        self._confidences()
        self._expectations()

    def _scales(self) -> Floats:
        """Step of each dimension per unit of normal score: half of its central 68 %."""
        m = self.columns.shape[1]
        low = self.columns[:, int(0.16 * (m - 1))]
        high = self.columns[:, int(0.84 * (m - 1))]
        scale = 0.5 * (high - low)
        spread = self.columns.std(axis=1)
        scale = np.where(scale > 0.0, scale, spread)
        known = scale[scale > 0.0]
        rest = float(np.median(known)) if known.size else 1.0
        return np.where(scale > 0.0, scale, rest)

    def _classes(self) -> None:
        counts: dict[str, int] = {}
        for row in self.rows:
            if row.label:
                counts[row.label] = counts.get(row.label, 0) + 1
        often = [label for label, count in counts.items() if count >= _MIN_CLASS_ROWS]
        often.sort(key=lambda label: (-counts[label], label))
        self.code = {label: c for c, label in enumerate(sorted(often[:_MAX_CLASSES]))}
        self.codes = np.array([self.code.get(row.label, -1) for row in self.rows], dtype=np.int64)
        n = len(self.code)
        share = np.bincount(self.codes[self.codes >= 0], minlength=max(n, 1)).astype(np.float64)
        self.share: Floats = share[:n] / max(share.sum(), 1.0)
        everywhere = self.scores.mean(axis=0)
        # A class of few rows leans on the mean of all, by the weight of two rows.
        self.means: Floats = np.empty((n + 1, self.scores.shape[1]))
        for c in range(n):
            mine = self.scores[self.codes == c]
            self.means[c] = (mine.sum(axis=0) + 2.0 * everywhere) / (len(mine) + 2.0)
        self.means[n] = everywhere
        nobody = np.full(len(self.rows), -1, dtype=np.int64)
        self.covariance_all = kernels.within_class_covariance(self.by_dimension, nobody, self.means)
        self.covariance = (
            kernels.within_class_covariance(self.by_dimension, self.codes, self.means)
            if n
            else self.covariance_all
        )
        self.factor_all = kernels.cholesky(self.covariance_all, _ridge(self.covariance_all))
        self.factor = kernels.cholesky(self.covariance, _ridge(self.covariance))
        self.class_means = kernels.whitened(self.means, self.factor)

    def _confidences(self) -> None:
        """Mean log-odds of the model's confidence, by class; few rows lean on the mean of all."""
        sure = np.array(
            [kernels.confidence_odds(row.confidence) for row in self.rows], dtype=np.float64
        )
        known = ~np.isnan([row.confidence for row in self.rows])
        n = len(self.code)
        everywhere = float(sure[known].mean()) if known.any() else 0.0
        self.confidence: Floats = np.full(n + 1, everywhere)
        for c in range(n):
            mine = sure[known & (self.codes == c)]
            self.confidence[c] = (mine.sum() + 5.0 * everywhere) / (len(mine) + 5.0)

    def _expectations(self) -> None:
        """What a customer's row gives, from rows of the reservoir against the other accounts'."""
        owners = {account: i for i, account in enumerate(self.accounts)}
        owner = np.array([owners[row.account] for row in self.rows], dtype=np.int64)
        probes = self.scores[:_PROBES]
        distances = kernels.squared_distances(probes, self.by_dimension)
        self.bandwidth = max(float(np.median(distances)), 1e-6)
        self.expected = kernels.expectations(
            distances,
            self.codes,
            owner,
            len(self.code),
            self.bandwidth,
            kernels.whitened(probes, self.factor),
            self.class_means,
        )


def _ridge(covariance: Floats) -> float:
    return 0.05 * float(np.trace(covariance)) / len(covariance) + 1e-6


class VectorPopulation:
    """The customers of one vector API, and how far a block is from them.

    All inputs of a population have `dims` numbers; blocks of another width are not judged.
    `score` changes nothing; `observe` and `trim` do, and the order of their calls is the only
    thing, besides their arguments, that the results depend on.
    """

    def __init__(self, dims: int, model: VectorModel) -> None:
        if dims < 1:
            raise ValueError(f"a vector population needs at least 1 dimension, not {dims}")
        self.dims = dims
        self.model = model
        self._rows: dict[str, dict[bytes, _Row]] = {}  # account → raw bytes → row
        self._count = 0
        self._hours: dict[str, int] = {}  # account → hour in which it was first seen
        self._references: tuple[list[_Reference], ...] = ([], [], [])
        self._frame: _Frame | None = None
        self._unseen = 0  # rows taken in or given up since the frame was made
        self._scales: list[tuple[Floats, Floats] | None] = [None, None, None]
        self._stale = 0  # references taken in since the scales were made
        self._measured: dict[tuple[tuple[str, str, int, int], int], Floats] = {}
        self._trail = np.zeros((dims, TRAIL_ROWS), dtype=np.float32)
        self._trail_at: dict[bytes, int] = {}  # raw bytes → column, the oldest first

    # -- what the judge asks -----------------------------------------------------------------

    def score(self, block: Block) -> float | None:
        """Log-odds that the block harvests; None if it cannot be said.

        It cannot for blocks of mostly repeated inputs (monitors), with fewer than four distinct
        ones, of another width, or while fewer than 200 rows of 5 accounts and 12 blocks are known.
        """
        standard = self.standardise(block)
        if standard is None:
            return None
        return self.model.log_odds(standard, labelled=self.labelled(block))

    def measure(self, block: Block) -> Floats | None:
        """Features (F,) named in `detector.vector_kernels.FEATURES`, or None; see `score`."""
        frame = self._frame
        if frame is None or block.dims != self.dims:
            return None
        # An account that measure forgot begins with the same ids again: so the number counts too.
        key = (block.id, block.seq)
        known = self._measured.get(key)
        if known is not None:
            return known
        rows, labels, confidences = _distinct(block)
        if len(rows) < 4 or 2 * len(rows) < block.n:
            return None
        raw = rows.astype(np.float64)
        codes = np.array([frame.code.get(label, -1) for label in labels], dtype=np.int64)
        scores = kernels.normal_scores(raw, frame.columns, frame.table, frame.scale)
        own = frame.accounts.get(block.account)
        usable = frame.usable
        if own is not None:
            usable = usable.copy()
            usable[own] = False
        figures: Floats = kernels.block_features(
            raw,
            codes,
            scores,
            kernels.squared_distances(scores, frame.by_dimension),
            usable,
            frame.raw,
            frame.codes,
            frame.scale,
            frame.bandwidth,
            frame.means,
            frame.covariance,
            frame.factor,
            frame.covariance_all,
            frame.factor_all,
            frame.expected,
            frame.share,
            confidences,
            frame.confidence,
            frame.class_means,
        )
        used = len(self._trail_at)
        trail = np.full(kernels.TRAIL_FIGURES, np.nan)
        if used >= _MIN_TRAIL:
            trail = kernels.trail_features(raw, self._trail, used, frame.scale)
        features: Floats = np.append(figures, trail)
        # Only spares `observe` the work of `score`: emptied whenever customers' rows change. What
        # is remembered does not empty it: a block is held against what was sent before it.
        if len(self._measured) >= 1024:
            self._measured.clear()
        self._measured[key] = features
        return features

    def standardise(self, block: Block) -> Floats | None:
        """Features on the scale of customers' blocks of its size (F,), or None; see `score`."""
        features = self.measure(block)
        scale = self._scale_for(size_class(block.n))
        if features is None or scale is None:
            return None
        middle, spread = scale
        return np.nan_to_num(np.clip((features - middle) / spread, -50.0, 50.0))

    def signals(self, block: Block) -> list[tuple[str, float, float, float, float, str]]:
        """Name, value, typical low and high, share of the score, and words; strongest first.

        The shares' sizes add up to 1; a signal that speaks for the customer has a negative share.
        """
        features = self.measure(block)
        scale = self._scale_for(size_class(block.n))
        standard = self.standardise(block)
        if features is None or scale is None or standard is None:
            return []
        middle, spread = scale
        parts = self.model.contributions(standard, labelled=self.labelled(block))
        total = float(np.abs(parts).sum()) or 1.0
        found = [
            (
                f"vectors.{name}",
                float(features[f]),
                float(middle[f] - 1.645 * spread[f]),
                float(middle[f] + 1.645 * spread[f]),
                float(parts[f]) / total,
                PLAIN_WORDS[name],
            )
            for f, name in enumerate(FEATURES)
            if parts[f] != 0.0
        ]
        found.sort(key=lambda signal: (-signal[4], signal[0]))
        return found

    def labelled(self, block: Block) -> bool:
        """Whether at least half of the block's rows have a class that the reservoir knows."""
        frame = self._frame
        if frame is None or len(frame.code) < 2:
            return False
        known = sum(label in frame.code for label in block.labels)
        return 2 * known >= block.n

    def remember(self, block: Block) -> None:
        """Note what was sent, by whomever; call it last of all. Later rows are held against it."""
        if block.dims != self.dims:
            return
        for row in np.frombuffer(block.vectors, dtype="<f4").reshape(-1, self.dims):
            raw = row.tobytes()
            if raw in self._trail_at:
                continue
            at = len(self._trail_at)
            if at == TRAIL_ROWS:
                at = self._trail_at.pop(next(iter(self._trail_at)))
            self._trail_at[raw] = at
            self._trail[:, at] = row

    # -- what customers teach ----------------------------------------------------------------

    def observe(self, block: Block) -> None:
        """Learn from a block of an unsuspected account; call it after `score`."""
        if block.dims != self.dims:
            return
        features = self.measure(block)
        if features is not None:
            self._refer(block, features)
        self._hours.setdefault(block.account, int(block.first_ts // 3600.0))
        if len(self._hours) > _MAX_ACCOUNTS:
            self._forget_hours()
        rows, labels, confidences = _distinct(block)
        held = self._rows.get(block.account, {})
        grown = dict(held)
        for row, label, confidence in zip(rows, labels, confidences.tolist(), strict=True):
            raw = row.astype("<f4").tobytes()
            if raw not in grown:
                draw = _draw(block.account, raw, block.time)
                grown[raw] = _Row(draw, block.account, raw, label, confidence)
        if len(grown) > ROWS_PER_ACCOUNT:
            kept = sorted(grown.values(), key=lambda row: (row.draw, row.raw))[:ROWS_PER_ACCOUNT]
            grown = {row.raw: row for row in kept}
        self._rows[block.account] = grown
        self._count += len(grown) - len(held)
        self._unseen += sum(raw not in held for raw in grown)
        if self._count > MAX_ROWS + MAX_ROWS // 4:
            self._evict()
        self._renew()

    def trim(self, accounts: Collection[str]) -> None:
        """Drop what these accounts taught: they have evidence against them."""
        gone = set(accounts)
        changed = False
        for account in sorted(gone):
            held = self._rows.pop(account, None)
            if held:
                self._count -= len(held)
            frame = self._frame
            if frame is not None and account in frame.accounts:
                at = frame.accounts[account]
                if frame.usable[at[0]]:
                    frame.usable[at] = False
                    self._unseen += len(at)
                    changed = True
            self._hours.pop(account, None)
        for references in self._references:
            kept = [reference for reference in references if reference.account not in gone]
            if len(kept) != len(references):
                references[:] = kept
                self._stale = -1
        if changed:
            self._measured.clear()
        self._renew()

    # -- inside ------------------------------------------------------------------------------

    def _refer(self, block: Block, features: Floats) -> None:
        references = self._references[size_class(block.n)]
        frame = self._frame
        name = f"{block.index} {block.revision}".encode()
        references.append(
            _Reference(
                _draw(block.account, name, block.time),
                block.account,
                features.tobytes(),
                len(frame.rows) if frame is not None else 0,
            )
        )
        mine = [r for r in references if r.account == block.account]
        if len(mine) > _REFERENCES_PER_ACCOUNT:
            references.remove(max(mine, key=lambda r: (r.draw, r.features)))
        if len(references) > _REFERENCES:
            references.remove(max(references, key=lambda r: (r.draw, r.account, r.features)))
        if self._stale >= 0:
            self._stale += 1

    def _evict(self) -> None:
        every = sorted(
            (row for held in self._rows.values() for row in held.values()),
            key=lambda row: (row.draw, row.account, row.raw),
        )
        self._rows = {}
        for row in every[:MAX_ROWS]:
            self._rows.setdefault(row.account, {})[row.raw] = row
        self._unseen += max(0, len(every) - MAX_ROWS)
        self._count = min(len(every), MAX_ROWS)

    def _forget_hours(self) -> None:
        """Keep the first hours of accounts that still hold rows."""
        self._hours = {a: hour for a, hour in self._hours.items() if a in self._rows}
        for account in sorted(self._hours, key=lambda a: (self._hours[a], a))[
            : max(0, len(self._hours) - _MAX_ACCOUNTS)
        ]:
            del self._hours[account]

    def _renew(self) -> None:
        """Make the frame and the scales again once enough has changed."""
        held = len(self._frame.rows) if self._frame is not None else 0
        if self._unseen >= max(48, held // 8):
            rows = self._choose()
            accounts = {row.account for row in rows}
            enough = len(rows) >= MIN_ROWS and len(accounts) >= MIN_ACCOUNTS
            self._frame = _Frame(rows, self.dims) if enough else None
            self._unseen = 0
            self._measured.clear()
        known = sum(map(len, self._references))
        if self._stale < 0 or self._stale >= max(4, known // 16):
            self._scales = [self._make_scale(size) for size in range(3)]
            self._stale = 0

    def _choose(self) -> list[_Row]:
        """The rows of the next frame: the surest to stay, no input twice, no hour too many."""
        every = sorted(
            (row for held in self._rows.values() for row in held.values()),
            key=lambda row: (row.draw, row.account, row.raw),
        )
        seen: set[bytes] = set()
        distinct = []
        for row in every:
            if row.raw not in seen:
                seen.add(row.raw)
                distinct.append(row)
        hours = [self._hours.get(row.account, 0) for row in distinct]
        kept = _capped(hours, ROWS_PER_HOUR, MIN_ROWS)
        return [row for row, keep in zip(distinct, kept, strict=True) if keep][:MAX_ROWS]

    def _make_scale(self, size: int) -> tuple[Floats, Floats] | None:
        references = self._references[size]
        if len(references) < _MIN_REFERENCES:
            return None
        references = sorted(references, key=lambda r: (r.draw, r.account, r.features))
        hours = [self._hours.get(reference.account, 0) for reference in references]
        kept = _capped(hours, len(references), 2 * _MIN_REFERENCES)
        references = [r for r, keep in zip(references, kept, strict=True) if keep]
        # Figures from when the reservoir was much smaller are of another scale.
        rows = max(reference.rows for reference in references)
        recent = [reference for reference in references if 2 * reference.rows >= rows]
        if len(recent) >= _MIN_REFERENCES:
            references = recent
        table = np.frombuffer(b"".join(r.features for r in references)).reshape(
            len(references), len(FEATURES)
        )
        prior_middle, prior_spread = self.model.typical(size)
        ordered = np.sort(table, axis=0)  # NaN last
        known = np.isfinite(table).sum(axis=0)
        low, half, high = (_quantiles(ordered, known, q) for q in (0.25, 0.5, 0.75))
        weight = np.where(known >= 4, known / (known + _PRIOR_BLOCKS), 0.0)
        middle = np.where(known >= 4, weight * half + (1.0 - weight) * prior_middle, prior_middle)
        own = np.maximum((high - low) / 1.349, 0.2 * prior_spread)
        spread = np.where(
            known >= 4,
            np.exp(weight * np.log(own) + (1.0 - weight) * np.log(prior_spread)),
            prior_spread,
        )
        return middle, spread

    def _scale_for(self, size: int) -> tuple[Floats, Floats] | None:
        """Scale of the size class, or of the nearest one that has enough blocks."""
        for other in (size, 1, 2, 0):
            if self._scales[other] is not None:
                return self._scales[other]
        return None

    # -- state -------------------------------------------------------------------------------

    def export(self) -> dict[str, Any]:
        """All state as builtins and bytes; `restore` gives a population that goes on alike."""
        frame = self._frame
        return {
            "version": _STATE_VERSION,
            "dims": self.dims,
            "rows": [_pack(row) for held in self._rows.values() for row in held.values()],
            "hours": dict(self._hours),
            "references": [
                [[r.draw, r.account, r.features, r.rows] for r in references]
                for references in self._references
            ],
            "frame": None if frame is None else [_pack(row) for row in frame.rows],
            "usable": None if frame is None else frame.usable.tobytes(),
            "unseen": self._unseen,
            "scales": [
                None if scale is None else [scale[0].tobytes(), scale[1].tobytes()]
                for scale in self._scales
            ],
            "stale": self._stale,
            "trail": b"".join(self._trail_at),
            "trail_at": list(self._trail_at.values()),
        }

    @classmethod
    def restore(cls, state: dict[str, Any], model: VectorModel) -> VectorPopulation:
        """The population that `export` wrote. Raises ValueError on another version."""
        if state.get("version") != _STATE_VERSION:
            raise ValueError(
                f"vector population of version {state.get('version')!r}; "
                f"this program reads {_STATE_VERSION}"
            )
        population = cls(state["dims"], model)
        for row in _unpack(state["rows"]):
            population._rows.setdefault(row.account, {})[row.raw] = row
            population._count += 1
        population._hours = dict(state["hours"])
        population._references = tuple(
            [_Reference(*fields) for fields in references] for references in state["references"]
        )
        if state["frame"] is not None:
            population._frame = _Frame(_unpack(state["frame"]), population.dims)
            population._frame.usable[:] = np.frombuffer(state["usable"], dtype=np.bool_)
        population._unseen = state["unseen"]
        population._scales = [
            None if scale is None else (np.frombuffer(scale[0]), np.frombuffer(scale[1]))
            for scale in state["scales"]
        ]
        population._stale = state["stale"]
        sent = np.frombuffer(state["trail"], dtype="<f4").reshape(-1, population.dims)
        for numbers, at in zip(sent, state["trail_at"], strict=True):
            population._trail_at[numbers.tobytes()] = at
            population._trail[:, at] = numbers
        return population


def _capped(hours: list[int], most: int, enough: int) -> list[bool]:
    """Which items stay when none of the hours they belong to may hold too many; first come first.

    An hour holds `most`, or `SHARE_PER_HOUR` of what all the others hold where that is `enough`.
    """
    counts: dict[int, int] = {}
    for hour in hours:
        counts[hour] = counts.get(hour, 0) + 1
    total = sum(min(count, most) for count in counts.values())
    left = {}
    for hour, count in counts.items():
        others = total - min(count, most)
        left[hour] = min(most, int(SHARE_PER_HOUR * others)) if others >= enough else most
    kept = []
    for hour in hours:
        left[hour] -= 1
        kept.append(left[hour] >= 0)
    return kept


def _quantiles(ordered: Floats, known: NDArray[np.int64], q: float) -> Floats:
    """Linear quantile of the first `known` rows of each sorted column (N, F); 0 without any."""
    at = q * np.maximum(known - 1, 0)
    below = at.astype(np.int64)
    above = np.minimum(below + 1, np.maximum(known - 1, 0))
    columns = np.arange(ordered.shape[1])
    first, second = ordered[below, columns], ordered[above, columns]
    return np.where(known > 0, first + (at - below) * (second - first), 0.0)


def _distinct(block: Block) -> tuple[NDArray[np.float32], list[str], Floats]:
    """Distinct rows of the block (k, dims) in order, with the answers of their first showing."""
    rows = np.frombuffer(block.vectors, dtype="<f4").reshape(-1, block.dims)
    labels = block.labels
    first: dict[bytes, int] = {}
    for i in range(len(rows)):
        first.setdefault(rows[i].tobytes(), i)
    at = list(first.values())
    named = [labels[i][:_LABEL_BYTES] if i < len(labels) else "" for i in at]
    sure = np.frombuffer(block.confidences, dtype="<f4").astype(np.float64)
    if len(sure) != len(rows):
        sure = np.full(len(rows), np.nan)
    return rows[at], named, sure[at]


def _pack(row: _Row) -> list[Any]:
    return [row.draw, row.account, row.raw, row.label, row.confidence]


def _unpack(rows: Iterable[list[Any]]) -> list[_Row]:
    return [_Row(*fields) for fields in rows]
