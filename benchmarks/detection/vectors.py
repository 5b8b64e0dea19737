"""Customers and attacks of models that take vectors of numbers.

Rows are what the sources recorded; where an account needs more than there are, new rows are drawn
between neighbours of one class, at the resolution of the originals. A surrogate, fitted on the
split's own rows, answers for rows that the recorded model never saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection import arrivals
from benchmarks.detection.arrivals import DAY, WEEK
from benchmarks.detection.generated import generated, images
from benchmarks.detection.sources import Sources, VectorSource

__all__ = ["STRATEGIES", "Part", "Population", "VectorTraffic", "week"]

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]
Rng = np.random.Generator

# Campaigns of one account, and of more, for each strategy before it comes again.
_SIZES: Final = (1, 1, 1, 10, 50)


@dataclass(slots=True)
class VectorTraffic:
    """What one account sends: times in seconds from the week's start, and rows.

    `labels` are the recorded answers, where there are any; `Population.answer` fills in the rest.
    """

    times: Floats
    x: Matrix
    labels: Labels | None
    confidence: Floats | None = None


@dataclass(slots=True)
class Part:
    """Accounts of one kind, or of one campaign, at one model."""

    model: str
    group: str
    harvesting: bool
    traffic: list[VectorTraffic]
    campaign: str | None = None
    traits: dict[str, str | float] = field(default_factory=dict)
    shared: dict[str, float] = field(default_factory=dict)


class Population:
    """One model's customers' rows, and a surrogate of the model."""

    def __init__(self, source: VectorSource, rng: Rng) -> None:
        from sklearn.ensemble import ExtraTreesClassifier
        from sklearn.neighbors import NearestNeighbors

        self.name = source.name
        self.x, self.y = source.benign.x, source.benign.y
        self.attacks = source.attacks
        self.low, self.high = self.x.min(axis=0), self.x.max(axis=0)
        self.std = self.x.std(axis=0) + 1e-9
        self.classes = np.unique(self.y)
        self.decimals = [_decimals(self.x[:, d]) for d in range(self.x.shape[1])]
        self._surrogate = ExtraTreesClassifier(
            60, min_samples_leaf=2, random_state=int(rng.integers(1 << 31)), n_jobs=1
        ).fit(self.x, self.y)
        scaled = self.x / self.std
        self._near = np.zeros((len(self.x), 4), dtype=np.int64)
        for label in self.classes:
            at = np.flatnonzero(self.y == label)
            k = min(5, len(at))
            found = (
                NearestNeighbors(n_neighbors=k)
                .fit(scaled[at])
                .kneighbors(scaled[at], return_distance=False)
            )
            self._near[at] = at[found[:, np.resize(np.arange(min(1, k - 1), k), 4)]]

    def rounded(self, x: Matrix) -> Matrix:
        """Rows at the resolution of the originals."""
        x = x.copy()
        for d, decimals in enumerate(self.decimals):
            x[:, d] = np.round(x[:, d], decimals)
        return x

    def rows(self, rng: Rng, n: int, among: Labels | None = None) -> tuple[Matrix, Labels]:
        """`n` ordinary rows with their classes, drawn from rows `among` (default: all)."""
        pool = np.arange(len(self.x)) if among is None else among
        order = np.concatenate([rng.permutation(pool) for _ in range(-(-n // len(pool)))])[:n]
        x = self.x[order].copy()
        # Few recorded rows for many accounts: most rows are drawn anew, between two neighbours.
        new = rng.random(n) < rng.random()
        other = self._near[order, rng.integers(4, size=n)]
        # Each dimension moves by itself: what lies on a straight line would be too smooth.
        share = rng.random(x.shape).astype(np.float32)
        x[new] += (share * (self.x[other] - x))[new]
        return self.rounded(x), self.y[order]

    def answers(self, x: Matrix) -> tuple[Labels, Floats]:
        """The surrogate's label and confidence."""
        chances = self._surrogate.predict_proba(x)
        return self._surrogate.classes_[chances.argmax(axis=1)], chances.max(axis=1)

    def traffic(self, times: Floats, x: Matrix, y: Labels | None = None) -> VectorTraffic:
        n = min(len(times), len(x))
        return VectorTraffic(times[:n], x[:n], None if y is None else y[:n])

    def answer(self, traffic: list[VectorTraffic]) -> None:
        """Fill in labels and confidences of many accounts at once."""
        if not sum(len(one.x) for one in traffic):
            return
        labels, sure = self.answers(np.concatenate([one.x for one in traffic]))
        at = 0
        for one in traffic:
            own = slice(at, at + len(one.x))
            one.labels = labels[own] if one.labels is None else one.labels
            one.confidence = np.round(sure[own], 4)
            at += len(one.x)


def week(sources: Sources, rng: Rng, customers: int, thieves: int, invented: int) -> list[Part]:
    """A week of every model: its customers' kinds and its campaigns.

    `invented` models answer data that is made up for this week, so that no two weeks are of the
    same shapes.
    """
    parts: list[Part] = []
    known = [sources.vectors[name] for name in sorted(sources.vectors)]
    # Every fourth looks at pictures.
    models = known + [
        (images if i % 4 == 3 else generated)(rng, f"model-{rng.bytes(3).hex()}")
        for i in range(invented)
    ]
    # Models are unequally popular; none has so few customers that it has no baseline.
    popular = rng.dirichlet(np.full(len(models), 4.0)) * 0.5 + 0.5 / len(models)
    given = 0
    for number, source in enumerate(models):
        population = Population(source, rng)
        own: list[Part] = []
        for kind, (weight, make) in _KINDS.items():
            count = max(round(weight * popular[number] * customers), 1)
            traffic = [_converted(rng, make(sources, population, rng)) for _ in range(count)]
            shared = {"payment": 0.2, "network": 0.2}
            own.append(Part(source.name, kind, False, traffic, shared=shared))
        left = round(thieves * popular[: number + 1].sum()) - given
        given += left
        deck: list[tuple[str, int]] = []
        while left > 0:
            if not deck:
                deck = [(strategy, size) for strategy in _NAMES for size in _SIZES]
                deck = [deck[i] for i in rng.permutation(len(deck)).tolist()]
            strategy, size = deck.pop()
            if size > left:
                continue
            name = f"{source.name}-{len(own)}"
            part = _campaign(sources, population, rng, strategy, size, name)
            left -= len(part.traffic)
            own.append(part)
        population.answer([one for part in own for one in part.traffic])
        parts += own
    return parts


def _converted(rng: Rng, traffic: VectorTraffic) -> VectorTraffic:
    """Some customers' programs convert units or average readings: nothing moves, but the numbers
    have more digits than what others send."""
    if rng.random() < 0.05:
        x = traffic.x * (1.0 + rng.normal(0.0, 1e-4, traffic.x.shape))
        traffic.x = x.astype(np.float32)
    return traffic


def _volume(rng: Rng, median: float, sigma: float, least: int, most: int) -> int:
    return int(np.clip(rng.lognormal(math.log(median), sigma), least, most))


def _production(sources: Sources, rng: Rng, n: int) -> Floats:
    clients = sources.clients
    return arrivals.production(rng, clients[int(rng.integers(len(clients)))], n)


def _live(sources: Sources, population: Population, rng: Rng) -> VectorTraffic:
    """One row for each thing that happens, as it happens."""
    n = _volume(rng, 120, 1.0, 12, 2000)
    if rng.random() < 0.5:
        times = _production(sources, rng, n)
    else:
        times = arrivals.diurnal(rng, np.sort(rng.uniform(0, WEEK, n)))
    x, y = population.rows(rng, n)
    again = rng.random(n) < rng.choice([0.0, 0.0, 0.02, 0.1])  # sent twice
    again[0] = False
    x[again], y[again] = x[np.flatnonzero(again) - 1], y[np.flatnonzero(again) - 1]
    return population.traffic(times, x, y)


def _batch(sources: Sources, population: Population, rng: Rng) -> VectorTraffic:
    """A table scored fast and regularly, all at once or each night; some are sorted by class."""
    n = _volume(rng, 300, 0.8, 40, 2000)
    pattern = str(rng.choice(arrivals.PATTERNS))
    start, length = rng.uniform(0, 6 * DAY), rng.lognormal(math.log(900.0), 1.2)
    times = arrivals.paced(rng, pattern, n, start, min(length, WEEK - start))
    x, y = population.rows(rng, n)
    if rng.random() < 0.2:
        order = np.argsort(y, kind="stable")
        x, y = x[order], y[order]
    return population.traffic(times, x, y)


def _monitor(sources: Sources, population: Population, rng: Rng) -> VectorTraffic:
    n = _volume(rng, 400, 0.8, 84, 2016)
    rows, labels = population.rows(rng, int(rng.choice([1, 2, 5, 10, 25])))
    times = arrivals.paced(rng, "fixed", n, 0.0, WEEK)
    at = np.arange(n) % len(rows) if rng.random() < 0.7 else rng.integers(len(rows), size=n)
    return population.traffic(times, rows[at], labels[at])


def _narrow(sources: Sources, population: Population, rng: Rng) -> VectorTraffic:
    """A customer whose things are alike: a few classes, or one region of the input space."""
    if rng.random() < 0.5:
        few = rng.choice(
            population.classes,
            size=max(1, int(len(population.classes) * rng.uniform(0.05, 0.5))),
            replace=False,
        )
        among = np.flatnonzero(np.isin(population.y, few))
    else:
        centre = population.x[int(rng.integers(len(population.x)))]
        far = np.abs((population.x - centre) / population.std).mean(axis=1)
        among = np.argsort(far)[: max(30, int(len(far) * rng.uniform(0.1, 0.5)))]
    n = _volume(rng, 150, 0.9, 12, 2000)
    times = (
        _production(sources, rng, n)
        if rng.random() < 0.5
        else arrivals.diurnal(rng, np.sort(rng.uniform(0, WEEK, n)))
    )
    x, y = population.rows(rng, n, among)
    return population.traffic(times, x, y)


def _drifting(sources: Sources, population: Population, rng: Rng) -> VectorTraffic:
    """Another instrument: scaled, shifted, noisy or with missing values filled in."""
    n = _volume(rng, 150, 0.9, 12, 2000)
    x, _ = population.rows(rng, n)
    style = rng.random()
    if style < 0.4:
        x = x + (rng.normal(0, rng.uniform(0.05, 0.4), x.shape[1]) * population.std).astype(
            np.float32
        )
    elif style < 0.7:
        x = x + (rng.normal(0, rng.uniform(0.02, 0.1), x.shape) * population.std).astype(np.float32)
    else:
        gone = rng.random(x.shape) < rng.uniform(0.01, 0.1)
        fill = 0.0 if rng.random() < 0.3 else np.median(population.x, axis=0)
        x = np.where(gone, fill, x).astype(np.float32)
    times = arrivals.diurnal(rng, np.sort(rng.uniform(0, WEEK, n)))
    return population.traffic(times, population.rounded(x))


def _what_if(sources: Sources, population: Population, rng: Rng) -> VectorTraffic:
    """Asks how an answer changes as one or two inputs do: an analyst, not a thief."""
    cases = _volume(rng, 12, 0.7, 3, 60)
    rows, _ = population.rows(rng, cases)
    pieces = []
    for row in rows:
        steps = int(rng.integers(4, 16))
        piece = np.repeat(row[None], steps, axis=0)
        for d in rng.choice(len(row), size=int(rng.integers(1, 3)), replace=False).tolist():
            piece[:, d] = np.linspace(population.low[d], population.high[d], steps)
        pieces.append(piece)
    x = population.rounded(np.concatenate(pieces))
    ordinary, _ = population.rows(rng, int(len(x) * rng.uniform(0.2, 2)))
    x = np.concatenate([ordinary, x])
    times = arrivals.diurnal(rng, np.sort(rng.uniform(0, WEEK, len(x))))
    return population.traffic(times, x)


_Make = Callable[[Sources, Population, Rng], VectorTraffic]
_KINDS: Final[dict[str, tuple[float, _Make]]] = {
    "vector_live": (0.56, _live),
    "vector_batch": (0.16, _batch),
    "vector_monitor": (0.08, _monitor),
    "vector_narrow": (0.12, _narrow),
    "vector_drifting": (0.05, _drifting),
    "vector_what_if": (0.03, _what_if),
}


def _campaign(
    sources: Sources, population: Population, rng: Rng, strategy: str, size: int, name: str
) -> Part:
    accounts = size
    # A copy takes a budget of queries, however many accounts share it: 2,000 over one to fifty.
    budget = int(2000 * rng.uniform(0.6, 1.3))
    # Natural pools are drawn as customers' rows are, or the drawing would tell them apart.
    recorded = None if strategy == "natural_pool" else population.attacks.get(strategy)
    if recorded is not None and rng.random() < 0.5:
        budget = min(budget, len(recorded.x))
        accounts = max(1, min(accounts, budget // 24))
        rows, labels = recorded.x[:budget], recorded.y[:budget]
        traffic_rows, answers = rows, labels
    else:
        traffic_rows, answers = STRATEGIES[strategy](population, rng, budget), None
    cover = float(rng.uniform(0.05, 0.5)) if rng.random() < 0.25 else 0.0
    timing = str(rng.choice([*arrivals.PATTERNS, "production"]))
    start = rng.uniform(0, 4 * DAY)
    joining = float(rng.choice([0.0, 600.0, DAY, 2 * DAY]))
    duration = float(np.clip(rng.lognormal(math.log(0.6 * DAY), 1.4), 600.0, 5 * DAY))
    dealt = rng.random() < 0.6  # in turn; otherwise each account a stretch of the stream
    out = []
    for account in range(accounts):
        own = (
            slice(account, None, accounts)
            if dealt
            else slice(
                len(traffic_rows) * account // accounts,
                len(traffic_rows) * (account + 1) // accounts,
            )
        )
        x, y = traffic_rows[own], None if answers is None else answers[own]
        if cover:
            x, y = _covered(population, rng, x, y, cover)
        began = start + rng.uniform(0, max(joining, 30.0))
        length = min(duration, (WEEK - began) * 0.95)
        if timing == "production":
            clients = sources.clients
            times = arrivals.production(
                rng, clients[int(rng.integers(len(clients)))], len(x), began, length
            )
        else:
            times = arrivals.paced(rng, timing, len(x), began, length)
        out.append(population.traffic(times, x, y))
    shared = {
        hint: float(rng.uniform(0.3, 1.0)) for hint in ("payment", "network") if rng.random() < 0.3
    }
    traits: dict[str, str | float] = {
        "strategy": strategy,
        "size": size,
        "timing": timing,
        "cover": round(cover, 3),
        "joining": joining,
        "recorded": int(answers is not None),
    }
    return Part(
        population.name, f"{strategy} x{size}", True, out, f"campaign-{name}", traits, shared
    )


def _covered(
    population: Population, rng: Rng, x: Matrix, y: Labels | None, cover: float
) -> tuple[Matrix, Labels]:
    other, labels = population.rows(rng, max(int(len(x) * cover / (1 - cover)), 1))
    y = population.answers(x)[0] if y is None else y
    order = np.argsort(
        np.concatenate([np.linspace(0, 1, len(x)), rng.random(len(other))]), kind="stable"
    )
    return np.concatenate([x, other])[order], np.concatenate([y, labels])[order]


def _natural_pool(population: Population, rng: Rng, n: int) -> Matrix:
    return population.rows(rng, n)[0]


def _uniform(population: Population, rng: Rng, n: int) -> Matrix:
    x = rng.uniform(population.low, population.high, (n, len(population.low))).astype(np.float32)
    return population.rounded(x) if rng.random() < 0.5 else x


def _marginal_shuffle(population: Population, rng: Rng, n: int) -> Matrix:
    x = population.rows(rng, n)[0]
    return np.stack([rng.permutation(x[:, d]) for d in range(x.shape[1])], axis=1)


class _Substitute:
    """A thief's student: one score a class, linear or of random Fourier features, with gradients.

    Ridge regression on one-hot answers; inputs in standard deviations.
    """

    def __init__(self, rng: Rng, x: Matrix, labels: Labels, std: Floats, *, linear: bool) -> None:
        self._std = std
        z = x / std
        d = z.shape[1]
        self._middle = z.mean(axis=0)
        if linear:
            self._ways, self._phases = np.eye(d), None
        else:
            some = z[rng.integers(len(z), size=(2, 200))]
            width = float(np.median(np.linalg.norm(some[0] - some[1], axis=1))) + 1e-6
            self._ways = rng.normal(size=(d, 200)) / width
            self._phases = rng.uniform(0, 2 * math.pi, 200)
        self.classes, at = np.unique(labels, return_inverse=True)
        wanted = np.eye(len(self.classes))[at]
        self._offset = wanted.mean(axis=0)
        design = self._features(x)
        gram = design.T @ design
        ridge = (0.01 * np.trace(gram) / len(gram) + 1e-6) * np.eye(len(gram))
        self._weights = np.linalg.solve(gram + ridge, design.T @ (wanted - self._offset))

    def _features(self, x: Matrix) -> Floats:
        angle = (x / self._std - self._middle) @ self._ways
        return np.asarray(angle if self._phases is None else np.cos(angle + self._phases))

    def scores(self, x: Matrix) -> Floats:
        """(n, classes), about 1 for the class of a row and 0 for the others."""
        return np.asarray(self._features(x) @ self._weights + self._offset)

    def gradient(self, x: Matrix, labels: Labels) -> Floats:
        """Of the score of each row's label, by its inputs (n, d); up to a positive factor."""
        weights = self._weights.T[np.searchsorted(self.classes, labels)]
        if self._phases is None:
            return np.asarray(weights)
        angle = (x / self._std - self._middle) @ self._ways + self._phases
        return np.asarray((-np.sin(angle) * weights) @ self._ways.T)


def _jbda(population: Population, rng: Rng, n: int) -> Matrix:
    """Jacobian-based augmentation (Papernot et al. 2017): steps by the sign of a substitute's
    gradient, from a few seeds, doubling in each round; towards the answer, away from it, or
    towards a class drawn by chance (Juuti et al. 2019)."""
    x = population.rows(rng, min(int(rng.integers(20, 120)), n))[0]
    linear = bool(rng.random() < 0.3)
    ranges = population.high - population.low
    # A step is a share of the spread or, of thieves who only know the ranges, of these.
    step = rng.uniform(0.1, 0.4) * population.std
    if rng.random() < 0.3:
        step = rng.uniform(0.03, 0.12) * ranges
    way = str(rng.choice(["towards", "towards", "towards", "away", "class"]))
    careful = rng.random() < 0.4  # keeps to the resolution
    while len(x) < n:
        labels = population.answers(x)[0]
        if len(np.unique(labels)) < 2:
            slope = rng.normal(size=x.shape)
        else:
            student = _Substitute(rng, x, labels, population.std, linear=linear)
            to = rng.choice(student.classes, size=len(x)) if way == "class" else labels
            slope = student.gradient(x, to) * (-1.0 if way == "away" else 1.0)
        new = np.clip(x + step * np.sign(slope), population.low, population.high)
        new = new.astype(np.float32)
        x = np.concatenate([x, population.rounded(new) if careful else new])
    return x[:n].astype(np.float32)


def _active(population: Population, rng: Rng, n: int) -> Matrix:
    """Uncertainty sampling: from a large pool, what a student is least sure of, batch by batch."""
    from sklearn.ensemble import ExtraTreesClassifier

    pool = population.rows(rng, int(rng.integers(4, 10)) * n)[0]
    if rng.random() < 0.25:
        pool = (pool + rng.normal(0, 0.2, pool.shape) * population.std).astype(np.float32)
        pool = population.rounded(pool)
    first = min(max(n // int(rng.integers(8, 40)), 10), n)
    batch = max(n // int(rng.integers(5, 16)), 10)
    kernel = rng.random() < 0.8
    chosen = list(range(first))
    left = np.arange(first, len(pool))
    while len(chosen) < n:
        labels = population.answers(pool[chosen])[0]
        if kernel:
            student = _Substitute(rng, pool[chosen], labels, population.std, linear=False)
            chances = np.sort(student.scores(pool[left]), axis=1)
        else:
            trees = ExtraTreesClassifier(20, random_state=0, n_jobs=1).fit(pool[chosen], labels)
            chances = np.sort(trees.predict_proba(pool[left]), axis=1)
        margin = chances[:, -1] - (chances[:, -2] if chances.shape[1] > 1 else 0)
        take = left[np.argsort(margin, kind="stable")[: min(batch, n - len(chosen))]]
        chosen += take.tolist()
        left = np.setdiff1d(left, take)
    return pool[chosen]


def _public_pool(population: Population, rng: Rng, n: int) -> tuple[Matrix, Labels]:
    """Rows of another table in the victim's dimensions and ranges, with that table's classes."""
    rows = (images if rng.random() < 0.25 else generated)(rng, "public").benign
    d, z = len(population.low), rows.x.astype(np.float64)
    if z.shape[1] < d:  # another width: its factors are mixed anew
        spread = (z - z.mean(axis=0)) / (z.std(axis=0) + 1e-9)
        extra = spread @ rng.normal(size=(z.shape[1], d - z.shape[1])) / math.sqrt(z.shape[1])
        z = np.concatenate([z, extra], axis=1)
    z = z[:, rng.permutation(z.shape[1])[:d]]
    style = rng.random()
    if style < 0.5:  # into the ranges
        z = (z - z.min(axis=0)) / (np.ptp(z, axis=0) + 1e-9)
        x = population.low + z * (population.high - population.low)
    elif style < 0.8:  # to the mean and spread of what customers send
        z = (z - z.mean(axis=0)) / (z.std(axis=0) + 1e-9)
        x = population.x.mean(axis=0) + z * population.std
        x = np.clip(x, population.low, population.high)
    else:  # each dimension to the customers' marginal distribution
        rank = np.argsort(np.argsort(z + 1e-9 * rng.normal(size=z.shape), axis=0), axis=0)
        at = ((rank + 0.5) / len(z) * len(population.x)).astype(np.int64)
        x = np.take_along_axis(np.sort(population.x, axis=0), at, axis=0)
    order = rng.permutation(max(n, len(x))) % len(x)
    x = x[order].astype(np.float32)
    return (population.rounded(x) if rng.random() < 0.5 else x), rows.y[order]


def _knockoff_random(population: Population, rng: Rng, n: int) -> Matrix:
    """Knockoff Nets (Orekondy et al. 2019) with random rows of a public pool."""
    return _public_pool(population, rng, n)[0][:n]


def _knockoff_adaptive(population: Population, rng: Rng, n: int) -> Matrix:
    """Knockoff Nets' gradient bandit over the classes of a public pool: certainty, diversity and
    the student's loss are the reward."""
    pool, kinds = _public_pool(population, rng, 4 * n)
    arms = np.unique(kinds)
    left = {arm: np.flatnonzero(kinds == arm).tolist() for arm in arms.tolist()}
    preference, baseline, rate = np.zeros(len(arms)), 0.0, float(rng.uniform(0.2, 1.0))
    chosen: list[int] = []
    seen: Floats = np.zeros(int(population.classes.max()) + 1)
    student: _Substitute | None = None
    while len(chosen) < n:
        chance = np.exp(preference - preference.max())
        chance = chance * [bool(left[arm]) for arm in arms.tolist()]
        chance /= chance.sum()
        picks = rng.choice(len(arms), size=min(32, n - len(chosen)), p=chance)
        batch, pulled = [], []
        for pick in picks.tolist():
            if left[int(arms[pick])]:
                batch.append(left[int(arms[pick])].pop())
                pulled.append(pick)
        labels, sure = population.answers(pool[batch])
        reward = sure + 1.0 / (1.0 + seen[labels])
        if student is not None:
            score = student.scores(pool[batch])
            place = np.searchsorted(student.classes, labels) % len(student.classes)
            reward = reward + (1.0 - score[np.arange(len(batch)), place])
        for pick, gain in zip(pulled, reward.tolist(), strict=True):
            better = rate * (gain - baseline)
            preference -= better * chance
            preference[pick] += better
        baseline = 0.9 * baseline + 0.1 * float(reward.mean())
        np.add.at(seen, labels, 1.0)
        chosen += batch
        if len(chosen) >= 64 and len(chosen) % 128 < 32:
            answers = population.answers(pool[chosen])[0]
            if len(np.unique(answers)) > 1:
                student = _Substitute(rng, pool[chosen], answers, population.std, linear=False)
    return pool[chosen]


def _foreign(population: Population, rng: Rng, n: int) -> Matrix:
    """Someone else's data, scaled into range: correlated and clustered, but not like customers'."""
    d = len(population.low)
    centres = rng.normal(size=(int(rng.integers(3, 20)), d))
    mixing = rng.normal(size=(d, d)) / math.sqrt(d)
    z = centres[rng.integers(len(centres), size=n)] + (
        rng.normal(size=(n, d)) @ mixing
    ) * rng.uniform(0.2, 1.0)
    z = (z - z.min(axis=0)) / (np.ptp(z, axis=0) + 1e-9)
    return population.rounded(
        (population.low + z * (population.high - population.low)).astype(np.float32)
    )


def _perturbed(population: Population, rng: Rng, n: int) -> Matrix:
    """Noise around a few ordinary rows."""
    seeds = population.rows(rng, int(rng.integers(10, 80)))[0]
    x = seeds[rng.integers(len(seeds), size=n)]
    noise = rng.normal(0, rng.uniform(0.1, 0.8), x.shape) * population.std
    return population.rounded(
        np.clip(x + noise, population.low, population.high).astype(np.float32)
    )


def _boundary(population: Population, rng: Rng, n: int) -> Matrix:
    """Bisects between two rows of different classes, to find where the answer changes."""
    pieces: list[Matrix] = []
    have = 0
    while have < n:
        a, ya = population.rows(rng, 64)
        b, yb = population.rows(rng, 64)
        pairs = np.flatnonzero(ya != yb)[:16]
        low, high = a[pairs].copy(), b[pairs].copy()
        for _ in range(int(rng.integers(4, 9))):
            middle = population.rounded((low + high) / np.float32(2))
            pieces.append(middle)
            have += len(middle)
            same = population.answers(middle)[0] == ya[pairs]
            low[same], high[~same] = middle[same], middle[~same]
        if not len(pairs):
            pieces.append(a)
            have += len(a)
    return np.concatenate(pieces)[:n]


STRATEGIES: Final[dict[str, Callable[[Population, Rng, int], Matrix]]] = {
    "natural_pool": _natural_pool,
    "uniform": _uniform,
    "marginal_shuffle": _marginal_shuffle,
    "jbda": _jbda,
    "active": _active,
    "knockoff_random": _knockoff_random,
    "knockoff_adaptive": _knockoff_adaptive,
    "foreign": _foreign,
    "perturbed": _perturbed,
    "boundary": _boundary,
}
_NAMES: Final = tuple(STRATEGIES)


def _decimals(column: Matrix) -> int:
    """Digits after the point that a column's values have, at most 6."""
    values = column[:200].astype(np.float64)
    scale = max(float(np.abs(values).max()), 1.0)
    for digits in range(6):
        if np.allclose(values, np.round(values, digits), rtol=0, atol=1e-6 * scale):
            return digits
    return 6
