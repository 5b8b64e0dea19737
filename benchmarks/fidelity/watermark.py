"""python -m benchmarks.fidelity.watermark [--data DIR] [--quick]

Clones are really trained on marked answers, and innocent models on anything else; then both are
asked what `velvetrope prove` asks. Without --data only scikit-learn's digits are copied.
"""

from __future__ import annotations

import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID
from threadpoolctl import threadpool_limits
from velvetrope_client.cells import cell
from velvetrope_client.keys import Key, Keyring
from velvetrope_client.watermark import CONTROLS, Question, Watermark

from benchmarks.fidelity import victims
from benchmarks.fidelity.victims import Labels, Matrix, Rng, TableVictim
from responders.actions.prove import Claim, Stratum, p_value, prove, question_id

__all__ = ["CLONES", "Theft", "accused", "clone", "digits", "innocents", "main", "steal"]

_SUBJECT: Final = "acct-thief"
_KEYS: Final = 20  # registers against which innocents are tested


@dataclass(frozen=True)
class Theft:
    """What a thief asked and was answered, and what the gateway kept of it."""

    victim: TableVictim
    key: Key
    x: Matrix  # (n, d), no two rows in one cell
    true: Labels  # (n,) the victim's own answers
    given: Labels  # (n,) the answers as the thief got them
    register: list[Question]

    @property
    def marks(self) -> int:
        """How many answers were marked."""
        return int((self.true != self.given).sum())


class _Kept:
    """A register in memory."""

    def __init__(self) -> None:
        self.questions: list[Question] = []

    def record(self, question: Question) -> None:
        self.questions.append(question)


def digits(rng: Rng) -> TableVictim:
    """scikit-learn's digits, ten classes; the victim is a network."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = rng.permutation(len(x))
    known, rest = order[:500], order[500:]
    data = (x.astype(np.float64), y.astype(np.int64))
    return TableVictim(
        "digits",
        (data[0][known], data[1][known]),
        (data[0][rest], data[1][rest]),
        _network,
        rng,
    )


def steal(victim: TableVictim, key: Key, rng: Rng, n: int, *, noisy: float = 0.0) -> Theft:
    """Ask `n` different questions of the customers' own kind, as one marked account.

    With `noisy` each is asked three times, with Gaussian noise of that share of each column's
    deviation, and the majority counts.
    """
    scale = np.maximum(victim.spread, 1e-6).tolist()
    kept = _Kept()
    watermark = Watermark(key, scale=scale, register=kept)
    names = [str(label) for label in victim.classes]
    x = _different(victim, key, rng, n, scale)
    true = victim.answers(x)[0]

    def answers(rows: Matrix) -> Labels:
        own = victim.answers(rows)[0]
        said = [
            watermark.answer(_SUBJECT, row.tolist(), str(label), names)
            for row, label in zip(rows, own, strict=True)
        ]
        return np.array(said).astype(np.int64)

    if not noisy:
        return Theft(victim, key, x, true, answers(x), kept.questions)
    votes = np.stack(
        [answers(x + rng.normal(size=x.shape) * noisy * victim.spread) for _ in range(3)]
    )
    majority = np.where(votes[1] == votes[2], votes[1], votes[0])
    return Theft(victim, key, x, true, majority, kept.questions)


def _different(victim: TableVictim, key: Key, rng: Rng, n: int, scale: Sequence[float]) -> Matrix:
    rows: dict[str, Matrix] = {}
    while len(rows) < n:
        for row in victim.ordinary(rng, n, "thief").features:
            rows.setdefault(cell(key, row.tolist(), scale), row)
    return np.stack(list(rows.values())[:n])


def _network() -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = MLPClassifier((128,), max_iter=200, n_iter_no_change=200, alpha=1e-6, random_state=0)
    return make_pipeline(StandardScaler(), network)


def _stopped_network() -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = MLPClassifier((64,), early_stopping=True, max_iter=200, random_state=0)
    return make_pipeline(StandardScaler(), network)


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(200, random_state=0)


def _boosting() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=60, early_stopping=False, random_state=0)


def _neighbours() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(1)


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))


CLONES: Final[dict[str, Callable[[], Any]]] = {
    "network, trained to the end": _network,
    "network, stopped early": _stopped_network,
    "random forest": _forest,
    "boosted trees": _boosting,
    "nearest neighbour": _neighbours,
    "logistic regression": _logistic,
}


def clone(theft: Theft, make: Callable[[], Any] = _network) -> Any:
    """A classifier trained on the answers that the thief got."""
    return _trained(make, theft.x, theft.given)


def _trained(make: Callable[[], Any], x: Matrix, y: Labels) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # iterations are bounded on purpose
        return victims.fitted(make, x, y)


def accused(theft: Theft, model: Any, *, alternates: int = 0) -> Claim:
    """What `prove` says of a model. The register must hold a mark."""
    answers = {}
    if theft.register:
        said = model.predict(np.array([question.value for question in theft.register]))
        for question, label in zip(theft.register, said, strict=True):
            answers[question_id(theft.key, question)] = str(label)
    return prove(theft.register, answers, Keyring((theft.key,)), alternates=alternates)[0]


def agreement(theft: Theft, model: Any) -> float:
    """Share of held-out rows on which a model says what the victim says."""
    x, labels = theft.victim.held_out
    return float(np.mean(model.predict(x) == labels))


def innocents(theft: Theft, rng: Rng, count: int) -> Iterator[Any]:
    """Models that never saw a marked answer: of other rows, of few rows, and of the victim's own
    answers to other questions, by classifiers of four kinds."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.tree import DecisionTreeClassifier

    kinds = (
        lambda: DecisionTreeClassifier(max_depth=int(rng.integers(2, 20)), random_state=0),
        lambda: KNeighborsClassifier(int(rng.integers(1, 8))),
        lambda: GaussianNB(var_smoothing=10.0 ** -float(rng.integers(1, 9))),
        lambda: SGDClassifier(random_state=0),
    )
    for number in range(count):
        rows = int(rng.integers(60, 1500))
        x = theft.victim.ordinary(rng, rows, "customers").features
        y = theft.victim.answers(x)[0]
        if number % 3 == 0:  # a poor one: a tenth of its labels are wrong
            wrong = rng.random(rows) < 0.1
            y = np.where(wrong, rng.choice(theft.victim.classes, rows), y)
        yield _trained(kinds[number % len(kinds)], x, y)


def _key(number: int) -> Key:
    return Key(f"k{number}", np.random.default_rng(9_000 + number).bytes(32))


def _line(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _head(console: Console, title: str, *columns: str) -> None:
    console.print(f"\n{title}", highlight=False)
    console.print(_line(*columns), highlight=False)
    console.print(_line(*("---" for _ in columns)), highlight=False)


def _row(theft: Theft, model: Any, *first: object, alternates: int = 0) -> str:
    claim = accused(theft, model, alternates=alternates)
    last = (f"{claim.p_alternates:.3g}",) if alternates else ()
    return _line(
        *first,
        claim.marks,
        claim.learned,
        f"{claim.controls_disagreed}/{claim.controls}",
        f"{agreement(theft, model):.3f}",
        f"{claim.p_value:.1e}",
        *last,
    )


def _clones(console: Console, victim: TableVictim, n: int, alternates: int) -> None:
    theft = steal(victim, _key(0), np.random.default_rng(1), n)
    _head(
        console,
        f"Clones of {victim.name} ({len(victim.classes)} classes), {n} answers",
        *("clone", "marks", "learned", "controls off", "agreement", "p", "p (keys)"),
    )
    for name, make in CLONES.items():
        console.print(_row(theft, clone(theft, make), name, alternates=alternates), highlight=False)


def _power(console: Console, victim: TableVictim, sizes: Sequence[int], seeds: int) -> None:
    _head(
        console,
        f"Answers taken from {victim.name}, by a network trained to the end",
        *("answers", "seed", "marks", "learned", "controls off", "agreement", "p"),
    )
    for n in sizes:
        for seed in range(seeds):
            theft = steal(victim, _key(seed), np.random.default_rng(seed), n)
            if theft.marks:
                console.print(_row(theft, clone(theft), n, seed), highlight=False)
            else:
                console.print(_line(n, seed, 0, *"----"), highlight=False)


def _by_marks(console: Console) -> None:
    """p by marks learned, no clone needed: all were learned, 5 % of the controls are off."""
    classes = (2, 3, 10, 26, 100)
    _head(console, "p by marks learned", "learned", *(f"{m} classes" for m in classes))
    for k in (3, 5, 10, 20):
        controls = CONTROLS * k
        off = round(0.05 * controls)
        strata = (Stratum(k + controls, k, k + off, m - 1) for m in classes)
        console.print(_line(k, *(f"{p_value([one], k):.0e}" for one in strata)), highlight=False)


def _tuned(console: Console, victim: TableVictim, n: int, clean_rows: Sequence[int]) -> None:
    """Go on training the network on rows that were never asked, with the victim's own labels."""
    _head(
        console,
        f"Networks of {n} answers of {victim.name}, trained on with clean answers",
        *("clean answers", "epochs", "marks", "learned", "controls off", "agreement", "p"),
    )
    theft = steal(victim, _key(0), np.random.default_rng(1), n)
    for rows in clean_rows:
        model = clone(theft)
        scaler, network = model[0], model[-1]
        clean = victim.ordinary(np.random.default_rng(2), rows, "customers").features
        labels = victim.answers(clean)[0]
        order = np.random.default_rng(3)
        for epoch in range(1, 101):
            shuffled = order.permutation(rows)
            network.partial_fit(scaler.transform(clean[shuffled]), labels[shuffled])
            if epoch in (1, 5, 20, 100):
                console.print(_row(theft, model, rows, epoch), highlight=False)


def _counter(console: Console, victim: TableVictim, n: int) -> None:
    """What a thief can do who knows of marks."""
    from sklearn.model_selection import cross_val_predict

    _head(
        console,
        f"Thieves of {victim.name} who know of marks, network trained to the end, {n} answers",
        *("thief", "marks", "learned", "controls off", "agreement", "p"),
    )
    for noise in (0.001, 0.01, 0.05):
        theft = steal(victim, _key(0), np.random.default_rng(1), n, noisy=noise)
        name = f"asks thrice with noise of {noise:.1%}, majority"
        console.print(_row(theft, clone(theft), name), highlight=False)
    theft = steal(victim, _key(0), np.random.default_rng(1), n)
    disputed = cross_val_predict(_forest(), theft.x, theft.given, cv=5) != theft.given
    model = _trained(_network, theft.x[~disputed], theft.given[~disputed])
    name = f"drops the {disputed.mean():.1%} of answers that his own forest disputes"
    console.print(_row(theft, model, name), highlight=False)


def _innocents(
    console: Console, victim: TableVictim, n: int, count: int, progress: Progress, task: TaskID
) -> None:
    values = []
    for number in range(_KEYS):
        theft = steal(victim, _key(number), np.random.default_rng(number), n)
        for model in innocents(theft, np.random.default_rng(500 + number), count // _KEYS):
            values.append(accused(theft, model).p_value)
            progress.advance(task)
    p = np.array(values)
    _head(
        console, f"{len(p)} innocent models of {victim.name}, {_KEYS} keys", "p at most", "models"
    )
    for limit in (1e-6, 1e-3, 1e-2, 5e-2):
        console.print(_line(f"{limit:g}", int((p <= limit).sum())), highlight=False)
    console.print(_line("smallest", f"{p.min():.2g}"), highlight=False)


def main() -> None:
    """The command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.fidelity.watermark",
        description="Marks: what clones learn of them, and what innocent models are accused of.",
    )
    parser.add_argument("--data", type=Path, help="folder with the sources of the other victims")
    parser.add_argument("--quick", action="store_true", help="digits, fewer of everything")
    options = parser.parse_args()
    quick = options.quick
    n, count = (2_000, 100) if quick else (5_000, 1_000)
    copied = [digits(np.random.default_rng(0))]
    if options.data is not None and not quick:
        for name in ("letter", "magic"):
            loaded = victims.load(name, options.data, np.random.default_rng(0))
            assert isinstance(loaded, TableVictim)
            copied.append(loaded)
    console = Console(width=200)
    with (
        # More threads than free cores cost more than they give on matrices this small.
        threadpool_limits(1),
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task("innocents", total=count)
        _by_marks(console)
        for victim in copied:
            _clones(console, victim, n, 99 if quick else 999)
        first = copied[0]
        _power(console, first, (1_000, 2_000) if quick else (1_000, 2_500, 5_000, 10_000), 2)
        _tuned(console, first, n, (500,) if quick else (200, 1_000, 5_000))
        _counter(console, first, n)
        _innocents(console, first, n, count, progress, task)


if __name__ == "__main__":
    main()
