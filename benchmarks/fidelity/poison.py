"""python -m benchmarks.fidelity.poison [--data DIR] [--out DIR] [--seeds N] [--victims …] [--quick]

What poison costs a thief's copy, and what it costs a customer who is wrongly accused. Answers pass
the rewriter that gateways use, as JSON; nothing else of velvetrope is in the way.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table
from threadpoolctl import threadpool_limits
from velvetrope_client import profile
from velvetrope_client.keys import Key, Keyring
from velvetrope_client.rewriter_settings import EndpointSettings, RewriterSettings
from velvetrope_client.rewriting import Rewriter
from velvetrope_client.shaping import ShapingSettings
from velvetrope_client.wrong_answers import WrongAnswerSettings

from benchmarks.fidelity import strategies, victims
from benchmarks.fidelity.extraction import agreement, baseline
from benchmarks.fidelity.victims import (
    FROM_DATA,
    Labels,
    Matrix,
    Requests,
    Rng,
    TableVictim,
    TextVictim,
    joined,
)

__all__ = ["CONFIGURATIONS", "READERS", "Copy", "Customer", "Size", "VictimResult", "main", "run"]

BOUND: Final = 0.5
TOUCHED: Final = 0.005
CONFIGURATIONS: Final = ("none", "shaping 1", "shaping 2", "shaping 3", "perturbed", "wrong")
_LABELS_STAY: Final = CONFIGURATIONS[1:5]
READERS: Final = ("label", "probabilities", "rounded", "repeats", "near-duplicates", "accounts")
_STRATEGIES: Final = (
    ("random", "natural_pool", "active"),
    ("random", "natural_pool", "uniform", "jbda", "active"),
)
_DRAWS: Final = 2  # labels of each row's probabilities, where a copy is trained on those
_AGAIN: Final = 5  # neighbours, or accounts, whose answers are averaged
_NOISE: Final = 0.1  # of a column's deviation
_OPENINGS: Final = ("", "hey", "please", "ok so", "hi")
_ENDINGS: Final = ("", "please", "thanks", "!", "?")
AnyVictim = TableVictim | TextVictim


@dataclass(frozen=True)
class Size:
    """How much is asked, and by whom."""

    answers: int = 2000
    strategies: tuple[str, ...] = ("random", "natural_pool", "uniform", "jbda", "active")
    readers: tuple[str, ...] = READERS


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """One copy: how it was asked for, how its thief reads answers, and what it is worth."""

    configuration: str
    strategy: str
    reader: str
    agreement: float


class Customer(msgspec.Struct, frozen=True, kw_only=True):
    """A customer under poison, on the held-out requests."""

    configuration: str
    accuracy_lost: float  # of the model's own
    worst_class_lost: float  # the same, in the class that lost most, of those with 10 requests
    changed: float  # share of labels
    certainty_off: float  # mean distance of the label's probability from the model's


class VictimResult(msgspec.Struct, frozen=True, kw_only=True):
    """One victim under one seed."""

    victim: str
    seed: int
    accuracy: float
    baseline: float
    copies: list[Copy]
    customers: list[Customer]


class _Api:
    """A victim behind the rewriter."""

    def __init__(self, victim: AnyVictim, configuration: str, region: profile.Profile) -> None:
        self.victim = victim
        self.names = [str(c) for c in victim.classes]
        self._level = int(configuration[-1]) if configuration.startswith("shaping") else 1
        self._action = "allow" if configuration == "none" else "poison"
        # Strengths are measured apart: a perturbation that is then rounded may not show.
        endpoint = EndpointSettings(
            shaping=ShapingSettings(round_from=int(configuration != "perturbed")),
            wrong_answers=WrongAnswerSettings(
                perturb_from=int(configuration == "perturbed"),
                bound=BOUND,
                wrong_from=int(configuration == "wrong"),
                profile=region,
            ),
        )
        keys = Keyring((Key("benchmark", bytes(range(32))),))
        self._rewriter = Rewriter(RewriterSettings((endpoint,), keys))

    def ask(self, requests: Requests, subject: str = "acct-1") -> tuple[Labels, Matrix]:
        """Labels, and probabilities (n, classes), as the subject gets them."""
        answers = [
            {
                "label": self.names[int(row.argmax())],
                "probabilities": dict(zip(self.names, row.tolist(), strict=True)),
            }
            for row in self.victim.chances(requests.features)
        ]
        body = self._rewriter.rewrite(
            action=self._action,
            level=self._level,
            subject=subject,
            endpoint="/v1/classify",
            request=json.dumps({"instances": requests.sent}).encode(),
            body=json.dumps({"predictions": answers}).encode(),
            content_type="application/json",
        )
        given = json.loads(body)["predictions"]
        labels = np.array([int(row["label"]) for row in given], dtype=np.int64)
        return labels, np.array([list(row["probabilities"].values()) for row in given])


def run(
    victim: AnyVictim,
    seed: int,
    size: Size,
    done: Callable[[str], None] = lambda what: None,
) -> VictimResult:
    """Every configuration, strategy and reader against one victim; `done` after each."""
    region = profile.fit(victim.examples, touched=TOUCHED)
    apis = {name: _Api(victim, name, region) for name in CONFIGURATIONS}
    copies = []
    for strategy in size.strategies:
        if strategy in strategies.of(victim):
            for copy in _copies(apis, strategy, seed, size):
                copies.append(copy)
                done(f"{victim.name}, {strategy}, {copy.configuration}")
    return VictimResult(
        victim=victim.name,
        seed=seed,
        accuracy=victim.accuracy,
        baseline=baseline(victim),
        copies=copies,
        customers=[_customer(apis, name) for name in CONFIGURATIONS],
    )


def count(victim: str, size: Size) -> int:
    """Copies that `run` makes of a victim."""
    known = [s for s in size.strategies if s in _STRATEGIES[victim != "intents"]]
    return len(CONFIGURATIONS) * (len(known) + (len(size.readers) - 1) * ("random" in known))


def _copies(apis: dict[str, _Api], strategy: str, seed: int, size: Size) -> Iterator[Copy]:
    """The copies of one strategy; all ways of reading answers are tried with random queries alone.

    Shaping and perturbing leave every label (tests hold that), so whoever reads labels has the copy
    that he would have without them.
    """
    without: dict[str, Copy] = {}  # by reader, where nobody poisons
    for configuration, api in apis.items():
        if configuration in ("none", "wrong"):
            rng = np.random.default_rng([seed, 0xB0])
            asked, told = _asked(api, strategy, rng, size.answers)
        for reader in size.readers if strategy == "random" else size.readers[:1]:
            by_label = reader not in ("probabilities", "rounded")
            if by_label and configuration in _LABELS_STAY:
                yield msgspec.structs.replace(without[reader], configuration=configuration)
                continue
            copy = _copy(api, configuration, strategy, reader, asked, told, seed)
            without.setdefault(reader, copy)
            yield copy


def _copy(
    api: _Api,
    configuration: str,
    strategy: str,
    reader: str,
    asked: Requests,
    told: Labels,
    seed: int,
) -> Copy:
    rng = np.random.default_rng([seed, 0xB1])
    features, labels = asked.features, told
    if reader in ("probabilities", "rounded"):
        chances = api.ask(asked)[1]
        if reader == "rounded":
            chances = np.round(chances, 1)
        features = np.tile(features, (_DRAWS, 1))
        labels = np.concatenate([_drawn(api, rng, chances) for _ in range(_DRAWS)])
    elif reader != "label":
        labels = _averaged(api, asked, reader, rng)
    return Copy(
        configuration=configuration,
        strategy=strategy,
        reader=reader,
        agreement=agreement(api.victim, features, labels),
    )


def _asked(api: _Api, strategy: str, rng: Rng, answers: int) -> tuple[Requests, Labels]:
    """What a thief asks, and the labels that he is told."""
    asking = strategies.of(api.victim)[strategy](api.victim, rng, answers)
    batches, told = [next(asking)], []
    while True:
        told.append(api.ask(batches[-1])[0])
        if sum(map(len, told)) >= answers:
            break
        batches.append(asking.send(told[-1]))
    return joined(batches).at(np.arange(answers)), np.concatenate(told)[:answers]


def _drawn(api: _Api, rng: Rng, chances: Matrix) -> Labels:
    """A label for each row by its probabilities: a copy of many such learns the probabilities."""
    ends = np.cumsum(chances, axis=1)
    places = (rng.random((len(ends), 1)) * ends[:, -1:] > ends).sum(axis=1)
    return api.victim.classes[places]


def _averaged(api: _Api, asked: Requests, reader: str, rng: Rng) -> Labels:
    """What most of several answers to an input say: the same again, neighbours, other accounts."""
    told = [api.ask(asked)[0]]
    for again in range(1, 3 if reader == "repeats" else _AGAIN):
        requests, subject = asked, "acct-1"
        if reader == "near-duplicates":
            requests = _near(api.victim, asked, rng)
        elif reader == "accounts":
            subject = f"acct-{again + 1}"
        told.append(api.ask(requests, subject)[0])
    votes = np.stack(told, axis=1)
    return np.array([Counter(row.tolist()).most_common(1)[0][0] for row in votes], dtype=np.int64)


def _near(victim: AnyVictim, asked: Requests, rng: Rng) -> Requests:
    """The same inputs with a little noise, or put a little differently."""
    if isinstance(victim, TableVictim):
        noise = rng.normal(0.0, _NOISE, asked.features.shape) * victim.spread
        return victim.requests(asked.features + noise)
    opening, ending = rng.choice(_OPENINGS), rng.choice(_ENDINGS)
    return victim.requests([f"{opening} {text} {ending}" for text in asked.sent])


def _customer(apis: dict[str, _Api], configuration: str) -> Customer:
    api = apis[configuration]
    requests, right = api.victim.checked
    own, sure = apis[CONFIGURATIONS[0]].ask(requests)
    told, shown = api.ask(requests)
    lost = (own == right).astype(float) - (told == right)
    by_class = [lost[right == c].mean() for c in np.unique(right) if (right == c).sum() >= 10]
    places = np.searchsorted(api.victim.classes, own)
    rows = np.arange(len(own))
    return Customer(
        configuration=configuration,
        accuracy_lost=float(lost.mean()),
        worst_class_lost=float(max(by_class, default=lost.mean())),
        changed=float(np.mean(told != own)),
        certainty_off=float(np.abs(shown[rows, places] - sure[rows, places]).mean()),
    )


def table(results: Sequence[VictimResult]) -> Table:
    """For the terminal: who reads labels, by strategy; and the customer."""
    drawn = Table("victim", "copy", *CONFIGURATIONS, title="Agreement under poison")
    for row in _rows(results):
        drawn.add_row(*row)
    return drawn


def markdown(results: Sequence[VictimResult]) -> str:
    """The same as a page."""
    seeds = len({r.seed for r in results})
    lines = [
        "# Poison",
        "",
        f"Means over {seeds} seeds: agreement of the thief's copy, by how he asks and how he reads "
        "answers; then points of accuracy that a wrongly accused customer loses (of the class that "
        "loses most), and how far off the label's probability is.",
        "",
        "| victim | copy | " + " | ".join(CONFIGURATIONS) + " |",
        "|" + "---|" * (2 + len(CONFIGURATIONS)),
        *("| " + " | ".join(row) + " |" for row in _rows(results)),
    ]
    return "\n".join(lines) + "\n"


def _rows(results: Sequence[VictimResult]) -> Iterator[list[str]]:
    for victim in dict.fromkeys(r.victim for r in results):
        own = [r for r in results if r.victim == victim]
        copies = [c for r in own for c in r.copies]
        for strategy, reader in dict.fromkeys((c.strategy, c.reader) for c in copies):
            row = [victim, f"{strategy}, {reader}"]
            for name in CONFIGURATIONS:
                cells = [
                    c.agreement
                    for c in copies
                    if (c.configuration, c.strategy, c.reader) == (name, strategy, reader)
                ]
                row.append(f"{mean(cells):.3f}")
            yield row
        customers = [c for r in own for c in r.customers]
        lost, off = [victim, "customer: points lost"], [victim, "customer: probability off"]
        for name in CONFIGURATIONS:
            cells_of = [c for c in customers if c.configuration == name]
            worst = max(c.worst_class_lost for c in cells_of)
            lost.append(f"{100 * mean(c.accuracy_lost for c in cells_of):.2f} ({100 * worst:.1f})")
            off.append(f"{mean(c.certainty_off for c in cells_of):.3f}")
        yield lost
        yield off


def main() -> None:
    """The command line."""
    every = ("breast_cancer", *FROM_DATA)
    parser = ArgumentParser(prog="python -m benchmarks.fidelity.poison", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the sources of the other victims")
    parser.add_argument("--out", type=Path, default=Path("results/poison"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="500 answers, random queries alone")
    parser.add_argument("--strategies", nargs="+", choices=_STRATEGIES[1], default=_STRATEGIES[1])
    parser.add_argument("--victims", nargs="+", choices=every, help="default: all there are")
    options = parser.parse_args()
    names = options.victims or (every if options.data else every[:1])
    if options.data is None and set(names) - {"breast_cancer"}:
        parser.error("these victims need --data")
    size = Size(500, ("random",)) if options.quick else Size(strategies=tuple(options.strategies))
    console = Console()
    results: list[VictimResult] = []
    options.out.mkdir(parents=True, exist_ok=True)
    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        total = options.seeds * sum(count(name, size) for name in names)
        task = progress.add_task("copies", total=total)
        for seed in range(1, options.seeds + 1):
            for name in names:
                rng = np.random.default_rng([seed, 0xF1])
                with threadpool_limits(1):  # as in `benchmark.run`
                    victim = (
                        victims.breast_cancer(rng)
                        if options.data is None or name == "breast_cancer"
                        else victims.load(name, options.data, rng)
                    )
                    results.append(
                        run(
                            victim,
                            seed,
                            size,
                            lambda what: progress.update(task, advance=1, description=what),
                        )
                    )
                encoded = msgspec.json.format(msgspec.json.encode(results), indent=1)
                (options.out / "results.json").write_bytes(encoded + b"\n")
                (options.out / "report.md").write_text(markdown(results))
    console.print(table(results))
    console.print(f"{options.out}/report.md and results.json")


if __name__ == "__main__":
    main()
