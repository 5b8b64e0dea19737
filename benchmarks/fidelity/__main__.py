"""python -m benchmarks.fidelity [--data DIR] [--out DIR] [--seeds N] [--quick]

Without --data only the victim that scikit-learn brings is copied.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.fidelity import report
from benchmarks.fidelity.benchmark import Size, VictimResult, count, run
from benchmarks.fidelity.victims import FROM_DATA

_QUICK = Size(customers=120, accounts=(1, 10), answers=500, days=4.0, thief_days=1.5)


def main() -> None:
    """The command line."""
    every = ("breast_cancer", *FROM_DATA)
    parser = ArgumentParser(
        prog="python -m benchmarks.fidelity",
        description="What a thief's copy is worth, with and without velvetrope.",
    )
    parser.add_argument("--data", type=Path, help="folder with the sources of the other victims")
    parser.add_argument("--out", type=Path, default=Path("results/fidelity"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few customers, 500 answers")
    parser.add_argument("--victims", nargs="+", choices=every, help="default: all there are")
    options = parser.parse_args()
    names = options.victims or (every if options.data else every[:1])
    if options.data is None and set(names) - {"breast_cancer"}:
        parser.error("these victims need --data")
    size = _QUICK if options.quick else Size()
    console = Console()
    results: list[VictimResult] = []
    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        task = progress.add_task("extractions", total=count(names, options.seeds, size))

        def done(what: str) -> None:
            progress.update(task, advance=1, description=what)

        for result in run(names, options.data, options.seeds, size, done):
            results.append(result)
            report.write(results, options.out)  # so that what is done is not lost
    console.print(report.table(results))
    console.print(f"{options.out}/report.md, results.json and a plot of each victim")


if __name__ == "__main__":
    main()
