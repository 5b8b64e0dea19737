"""python -m benchmarks.fidelity.canaries --data DIR [--quick]

Closing remarks in corpora: whom `velvetrope trace` names, how many answers it takes, and what
remarks survive. Answers are paragraphs of an encyclopedia (WikiText-2): prose that gets remarks.
"""

from __future__ import annotations

import gzip
import random
import re
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress
from velvetrope_client.canary import TAG_BITS, Canaries, Closings
from velvetrope_client.keys import Key, Keyring

from responders.actions.trace import Found, Remarks, name

__all__ = ["SURVIVAL", "Babbler", "main", "paragraphs", "traced"]

_ACCOUNTS: Final = 100_000
_BELOW: Final = 1e-3
_CLOSINGS: Final = Closings.shipped()


def paragraphs(data: Path) -> list[str]:
    """Prose of 40 words and more, as a model might answer."""
    text = gzip.decompress((data / "wikitext2_valid.txt.gz").read_bytes()).decode()
    lines = (re.sub(r" ([.,;:?!)])", r"\1", line.strip()) for line in text.split("\n"))
    return [line for line in lines if len(line.split()) >= 40 and line.endswith(".")]


def _corpora(data: Path) -> Iterator[tuple[str, bytes]]:
    """The texts of the data folder, by file."""
    import pyarrow.parquet as pq

    yield "wikitext2_valid", gzip.decompress((data / "wikitext2_valid.txt.gz").read_bytes())
    for file, columns in (
        ("people_irc_ubuntu", ("text",)),
        ("prompts", ("text",)),
        ("batch_eval", ("text",)),
        ("attack_prompts", ("instruction", "input")),
    ):
        table = pq.read_table(data / f"{file}.parquet", columns=list(columns)).to_pydict()
        yield file, "\n".join(str(t) for c in columns for t in table[c]).encode()


def traced(
    texts: Sequence[str], accounts: Sequence[str], key: Key, *, below: float = _BELOW
) -> list[Found]:
    """Who is named in a corpus."""
    return name(_remarks(texts), accounts, Keyring((key,)), below=below)


def _remarks(texts: Sequence[str]) -> Counter[int]:
    remarks = Remarks(_CLOSINGS)
    for text in texts:
        remarks.feed(text.encode())
        remarks.end()
    return remarks.numbers


class Babbler:
    """A model that continues a text as it has seen it continued: words after three words."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._next: dict[tuple[str, ...], list[str]] = defaultdict(list)
        self._starts: list[tuple[str, ...]] = []
        for text in texts:
            words = [*text.split(), ""]
            self._starts.append(tuple(words[:3]))
            for at in range(len(words) - 3):
                self._next[tuple(words[at : at + 3])].append(words[at + 3])

    def says(self, rng: random.Random, longest: int = 600) -> str:
        """One text."""
        words = list(rng.choice(self._starts))
        while len(words) < longest:
            following = self._next.get(tuple(words[-3:]))
            word = rng.choice(following) if following else ""
            if not word:
                break
            words.append(word)
        return " ".join(words)


def _without_polite_sentences(text: str) -> str:
    polite = r"let me know|feel free|happy to|hope|please|gladly"
    return " ".join(
        sentence
        for sentence in re.split(r"(?<=[.!?])\s+", text)
        if not re.search(polite, sentence, re.IGNORECASE)
    )


def _first_512_words(text: str) -> str:
    return " ".join(text.split()[:512])


def _sentences_shuffled(text: str) -> str:
    sentences = re.split(r"(?<=[.!?])\s+", text)
    random.Random(len(text)).shuffle(sentences)
    return " ".join(sentences)


SURVIVAL: Final[dict[str, Callable[[str], str]]] = {
    "as it is": lambda text: text,
    "lower case, spaces collapsed": lambda text: " ".join(text.lower().split()),
    "wrapped at 80 columns": lambda text: re.sub(r"(.{60,80}) ", r"\1\n", text),
    "the first 512 words": _first_512_words,
    "without punctuation": lambda text: re.sub(r"[^\w\s]", "", text),
    "sentences shuffled within an answer": _sentences_shuffled,
    'sentences with "let me know", "hope", "please" … removed': _without_polite_sentences,
    "the last sentence removed": lambda text: text[: text.rstrip(".").rfind(". ") + 1],
}


def _key(number: int) -> Key:
    return Key(f"k{number}", random.Random(7_000 + number).randbytes(32))


def _table(console: Console, title: str, rows: Sequence[Sequence[object]]) -> None:
    console.print(f"\n{title}", highlight=False)
    for number, row in enumerate(rows):
        console.print("| " + " | ".join(str(cell) for cell in row) + " |", highlight=False)
        if not number:
            console.print("| " + " | ".join("---" for _ in row) + " |", highlight=False)


def _clean(console: Console, data: Path, accounts: Sequence[str]) -> None:
    rows: list[Sequence[object]] = [("corpus", "MB", "remarks", "accounts named")]
    for label, text in _corpora(data):
        numbers = _remarks([text.decode()])
        named = name(numbers, accounts, Keyring((_key(0),)), below=_BELOW)
        rows.append((label, f"{len(text) / 1e6:.1f}", len(numbers), len(named)))
    _table(console, f"Clean corpora, {len(accounts):,} accounts", rows)


def _polite(console: Console, accounts: Sequence[str], corpora: int, progress: Progress) -> None:
    """Corpora of nothing but remarks that are no account's: the hardest for false claims."""
    task = progress.add_task("polite corpora", total=corpora)
    named = matched = 0
    for number in range(corpora):
        rng = random.Random(number)
        bits = TAG_BITS + 3
        numbers = Counter({rng.getrandbits(bits): 1 for _ in range(10_000)})
        ring = Keyring((_key(number),))
        everyone = name(numbers, accounts, ring, below=1.0)
        matched += len(everyone)
        named += sum(found.adjusted <= _BELOW for found in everyone)
        progress.advance(task)
    expected = corpora * 10_000 * len(accounts) / 2**TAG_BITS
    _table(
        console,
        f"{corpora} corpora of 10,000 remarks that are nobody's, {len(accounts):,} accounts",
        [
            ("accounts with a matching remark", "expected", f"named at {_BELOW:g}"),
            (matched, f"{expected:.1f}", named),
        ],
    )


def _power(console: Console, prose: Sequence[str], accounts: Sequence[str], tries: int) -> None:
    """How many answers of an account must be in a corpus, among 2,000 of other suspects."""
    rng = random.Random(1)
    canaries = Canaries(_key(0))
    others = [canaries.closing(f"other-{n}", rng.choice(prose)) for n in range(2_000)]
    background = _remarks(others)
    rows: list[Sequence[object]] = [("answers", "remarks, mean", "accounts named")]
    ring = Keyring((_key(0),))
    for n in (1, 2, 4, 8, 12, 16, 24, 32):
        named = remarks = 0
        for account in rng.sample(list(accounts), tries):
            texts = [canaries.closing(account, text) for text in rng.sample(list(prose), n)]
            numbers = _remarks([text for text in texts if text])
            remarks += len(numbers)
            found = name(background | numbers, [account], ring, below=_BELOW / len(accounts))
            named += bool(found)
        rows.append((n, f"{remarks / tries:.1f}", f"{named / tries:.3f}"))
    title = f"Answers in a corpus until an account is named, of {len(accounts):,}"
    _table(console, title, rows)


def _survives(console: Console, prose: Sequence[str]) -> None:
    canaries = Canaries(_key(0), share=1.0)
    # A paragraph that is no English prose to its end gets none.
    texts = [t for p in prose if (t := canaries.apply("acct-1", p)) != p][:1_000]
    rows: list[Sequence[object]] = [("what became of the answers", "remarks that are read")]
    for label, change in SURVIVAL.items():
        read = sum(bool(_remarks([change(text)])) for text in texts)
        rows.append((label, f"{read / len(texts):.3f}"))
    _table(console, f"{len(texts)} answers with a remark", rows)


def _models(console: Console, prose: Sequence[str], accounts: Sequence[str]) -> None:
    rows: list[Sequence[object]] = [
        ("stolen answers", "key", "with a remark", "remarks said", "the thief's", "named")
    ]
    half = len(prose) // 2
    for stolen in (100, 300, half):
        for number in range(4):
            canaries = Canaries(_key(number))
            texts = [canaries.apply(accounts[7], text) for text in prose[:stolen]]
            model = Babbler([*texts, *prose[half:]])
            rng = random.Random(stolen)
            numbers = _remarks([model.says(rng) for _ in range(2_000)])
            named = name(numbers, accounts, Keyring((_key(number),)), below=_BELOW)
            mine = next((found.remarks for found in named if found.account == accounts[7]), 0)
            given = sum(text != plain for text, plain in zip(texts, prose[:stolen], strict=True))
            rows.append((stolen, number, given, len(numbers), mine, len(named)))
    _table(
        console,
        f"2,000 texts of a word 4-gram model, trained on stolen answers and {len(prose) - half}"
        " other paragraphs",
        rows,
    )


def main() -> None:
    """The command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.fidelity.canaries",
        description="Closing remarks: whom `velvetrope trace` names, and after how many answers.",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the texts")
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    options = parser.parse_args()
    accounts = [f"acct-{n}" for n in range(_ACCOUNTS)]
    prose = paragraphs(options.data)
    console = Console(width=160)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        _clean(console, options.data, accounts)
        _power(console, prose, accounts, 50 if options.quick else 500)
        _survives(console, prose)
        _models(console, prose, accounts)
        _polite(console, accounts, 5 if options.quick else 200, progress)


if __name__ == "__main__":
    main()
