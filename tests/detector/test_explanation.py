"""An explanation adds up to the evidence, with the shipped models and any history."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from detector.blocks import Identity
from detector.evidence import TextEvidence
from detector.explanation import Like, explain_blocks, explain_text
from detector.score import ACCOUNT_COLUMNS, AccountModel, shipped
from features import NAMES
from responders.decisions import Signal
from tests.detector.small_models import models as small_models
from tests.detector.small_models import sketch, staircase, text_block

MODELS = shipped()
USED = MODELS.used
NOBODY = Like(np.zeros((0, len(NAMES)), np.float32), np.zeros(0), np.zeros(0))


def evidence(seed: int, accounts: int = 40, blocks: int = 240) -> TextEvidence:
    """Of accounts with any features, partly linked, partly alone."""
    rng = np.random.default_rng(seed)
    texts = TextEvidence(MODELS, 604_800.0, bar=-math.inf)
    counts = [0] * accounts
    low, high = MODELS.typical.T
    for i in range(blocks):
        who = int(rng.integers(accounts))
        features = np.zeros(len(NAMES), np.float32)
        features[USED] = low + (high - low) * rng.uniform(-0.5, 1.5, len(USED))
        links = {"payment": str(who % 7)} if who % 3 else {}
        block = text_block(
            f"a{who}", float(i), index=counts[who], features=features.tobytes(),
            sketch=sketch(int(rng.integers(9))), heads=((who % 5, 20, 5),) if who % 2 else (),
            identity=Identity(links=links),
        )  # fmt: skip
        counts[who] += 1
        row = texts.add(block, MODELS.block.log_odds(MODELS.row(block)))
        texts.judge(row)
    return texts


@pytest.mark.parametrize("seed", range(4))
def test_base_and_signals_add_up_to_the_evidence(seed: int) -> None:
    texts = evidence(seed)
    names = set()
    for row in range(len(texts)):
        like = texts.like(row, math.inf)
        assert len(like.features) == 20
        base, signals = explain_text(MODELS, texts.seen(row), texts["best"][row], like)
        total = base + math.fsum(signal.log_odds for signal in signals)
        assert total == pytest.approx(float(texts["evidence"][row]), abs=1e-6)
        assert math.fsum(signal.weight for signal in signals) == pytest.approx(1.0)
        assert [s.log_odds for s in signals] == sorted((s.log_odds for s in signals), reverse=True)
        names |= {signal.name for signal in signals}
    assert names > {"history.requests", "links.identity", "links.template", "links.alike"}
    assert names > {"history.constancy", "links.company", "links.together"}
    assert "requests.other" in names


def test_a_signal_says_its_value_and_what_customers_like_it_show() -> None:
    texts = evidence(0)
    best = texts["best"][3]
    near = Like(
        np.tile(np.linspace(0.0, 1.0, 20, dtype=np.float32)[:, None], (1, len(NAMES))),
        np.linspace(-3.0, -1.0, 20),
        np.full(20, 64.0),
    )
    for like, own_range in ((near, True), (NOBODY, False)):
        for signal in explain_text(MODELS, texts.seen(3), best, like).signals:
            if signal.name in NAMES:
                assert signal.value == best[NAMES.index(signal.name)]
                expected = (
                    (0.05, 0.95)
                    if own_range
                    else tuple(MODELS.typical[USED.tolist().index(NAMES.index(signal.name))])
                )
                assert signal.typical == pytest.approx(expected)
            elif signal.name == "history.requests":
                assert signal.value == round(2.0 ** texts.seen(3)[3])
                assert signal.typical == ((64.0, 64.0) if own_range else (0.0, 0.0))


def test_what_no_signal_of_the_worst_block_speaks_for_is_not_lost() -> None:
    """Scores add to the evidence, no feature to the worst block's score, and a habit is named."""
    columns = np.array([ACCOUNT_COLUMNS.index("mean"), ACCOUNT_COLUMNS.index(f"habit.{NAMES[0]}")])
    small = small_models().text
    steps = staircase(0, -3.0, 6.0, 0.25)
    models = replace(
        small, accounts=tuple(AccountModel("own", columns[[i]], steps) for i in range(2))
    )
    seen = np.zeros(len(ACCOUNT_COLUMNS))
    seen[columns] = 2.5, 4.0
    best = np.full(len(NAMES), -9.0, np.float32)  # below every step of the block model
    base, signals = explain_text(models, seen, best, NOBODY)
    adds = {s.name: s.log_odds for s in signals if s.log_odds}
    assert adds == pytest.approx({NAMES[0]: 3.5, "requests.other": 2.75})
    assert base + math.fsum(adds.values()) == pytest.approx(models.odds(seen)) == 3.25


def test_who_is_suspected_is_no_customer_like_it() -> None:
    texts = evidence(1)
    bar = float(np.median(texts["evidence"][: len(texts)]))
    like = texts.like(0, bar)
    unsuspected = [r for r in range(1, len(texts)) if texts["evidence"][r] < bar]
    assert len(like.scores) == min(20, len(unsuspected))
    means = texts["mean"][unsuspected] / (1 << 20)
    assert set(like.scores.tolist()) <= set(means.tolist())


def signal(name: str, weight: float) -> Signal:
    return Signal(name=name, value=1.0, typical=(0.0, 1.0), weight=weight, text=name)


def test_a_sum_goes_to_the_signals_on_its_side() -> None:
    base, signals = explain_blocks(
        5.0, -3.0, [signal("a", 0.6), signal("b", 0.2), signal("c", -0.2)]
    )
    assert base == -3.0
    assert {s.name: s.log_odds for s in signals} == pytest.approx({"a": 6.0, "b": 2.0})
    assert {s.name: s.weight for s in signals} == pytest.approx({"a": 0.75, "b": 0.25})


@pytest.mark.parametrize("signals", [[], [signal("a", -0.5)]])
def test_a_sum_for_which_no_signal_speaks_is_still_told(signals: list[Signal]) -> None:
    base, found = explain_blocks(5.0, -3.0, signals)
    assert [(s.name, s.log_odds) for s in found] == [("requests.other", 8.0)]
    assert base + found[0].log_odds == 5.0
