"""Measure: the same blocks however events come in, and each block the one that the rules give."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.blocks import BLOCK_EVENTS, Block, Identity
from detector.columns import OUT_BLOCKS, REQUEST_IDS, VECTOR_DIMS
from detector.events import Event, Output
from detector.measure import PartitionMeasure
from detector.settings import MeasureSettings, PopulationRule
from detector.state import StateMismatch
from features import FAMILIES, NAMES
from tests.detector.logs import START, event, random_log
from tests.features import slots as make
from tests.features.battery import new_state

QUICK = MeasureSettings(account_idle_after=300.0, account_forget_after=2000.0)
_SEEDS = st.integers(0, 2**32 - 1)
_SIZES = st.one_of(st.integers(0, 60), st.sampled_from((300, 900)))
_CUTS = st.lists(st.integers(1, 60), min_size=1, max_size=20)


def started(settings: MeasureSettings = QUICK) -> PartitionMeasure:
    return PartitionMeasure(3, settings)


def measure(events: Sequence[Event], settings: MeasureSettings = QUICK) -> list[Block]:
    """The blocks of a whole log, fed at once, its end included."""
    partition = started(settings)
    return partition.feed(events) + partition.end()


def burst(count: int, account: str = "a", at: float = 0.0, **fields: Any) -> list[Event]:
    """Events a second apart."""
    return [event(account, at + i, **fields) for i in range(count)]


def clock(lo: float, hi: float, step: float = 30.0, account: str = "clock") -> list[Event]:
    """Events of another account that carry the watermark on, seconds after START."""
    return [event(account, at) for at in np.arange(lo, hi + step / 2, step).tolist()]


def shape(block: Block) -> tuple[str, int, int, int]:
    return block.account, block.index, block.revision, block.n


def of(account: str, blocks: Sequence[Block]) -> list[Block]:
    return [block for block in blocks if block.account == account]


def feature(block: Block, name: str) -> float:
    return float(np.frombuffer(block.features, np.float32)[NAMES.index(name)])


# The rules once more, in plain Python, without columns, queues or kernels.


@dataclass
class _Row:
    n: int = 0
    index: int = 0
    given: int = 0
    events: int = 0
    last_seen: float = 0.0
    last_event: int = 0


@dataclass
class _Account:
    refused: int = 0
    ids: list[str] = field(default_factory=list)
    last_seen: float | None = None


def by_the_rules(log: Sequence[Event], settings: MeasureSettings) -> list[tuple[Any, ...]]:
    """(account, population, index, revision, n, time, events, refused) of every block of a log."""
    watermark, pending = -1.0, -1.0
    rows: dict[tuple[str, str], _Row] = defaultdict(_Row)
    accounts: dict[str, _Account] = defaultdict(_Account)
    given: list[tuple[Any, ...]] = []

    def give_out(key: tuple[str, str], final: bool) -> None:
        row = rows[key]
        revision = min(row.given, 2) if row.index == 0 else 2
        refused = accounts[key[0]].refused
        given.append((*key, row.index, revision, row.n, watermark, row.events, refused))
        row.given += 1
        if final:
            row.n = row.given = 0
            row.index += 1

    def longest_idle_first() -> list[tuple[str, str]]:
        return sorted((key for key in rows if rows[key].n), key=lambda key: rows[key].last_event)

    for number, entry in enumerate(log):
        account = accounts[entry.account]
        forget = settings.account_forget_after
        if account.last_seen is not None and account.last_seen + forget <= watermark:
            account = accounts[entry.account] = _Account()
        if entry.request_id is not None:
            if entry.request_id in account.ids[-REQUEST_IDS:]:
                continue
            account.ids.append(entry.request_id)
        end = float(entry.ts) + (entry.latency_ms or 0.0) / 1000.0
        if watermark < 0.0:
            watermark = end
        elif end > watermark + settings.far_stamp_s:
            agreed = pending > watermark + settings.far_stamp_s
            if agreed:
                watermark = min(end, pending)
            pending = max(end, pending) if agreed else end
        else:
            watermark = max(watermark, end)
        for key in longest_idle_first():
            if rows[key].last_seen + settings.account_idle_after <= watermark:
                give_out(key, True)
        account.last_seen = watermark
        if not entry.served:
            account.refused += 1
            continue
        if isinstance(entry.input, list) and entry.input:
            population = f"vector:{entry.model}"
        else:
            population = "text" if isinstance(entry.input, str) else "metadata"
        key = (entry.account, population)
        row = rows[key]
        if row.events and not row.n and row.last_seen + forget <= watermark:
            row.index = row.events = 0
        row.n += 1
        row.events += 1
        row.last_seen, row.last_event = watermark, number
        if row.n == BLOCK_EVENTS or (row.index == 0 and row.n in (8, 16)):
            give_out(key, row.n == BLOCK_EVENTS)
    for key in longest_idle_first():
        give_out(key, True)
    return given


@settings(deadline=None, max_examples=60)
@given(_SEEDS, _SIZES, st.integers(1, 6))
def test_blocks_are_those_that_the_rules_give(seed: int, size: int, accounts: int) -> None:
    log = random_log(seed, size, accounts)
    found = [
        (b.account, b.population, b.index, b.revision, b.n, b.time, b.events, b.refused)
        for b in measure(log)
    ]
    assert found == by_the_rules(log, QUICK)


@settings(deadline=None, max_examples=30)
@given(_SEEDS, _SIZES, _CUTS)
def test_batches_of_any_size_give_the_same_blocks_and_state(
    seed: int, size: int, cuts: list[int]
) -> None:
    log = random_log(seed, size)
    whole, single, cut = started(), started(), started()
    expected = whole.feed(log)
    assert [block for entry in log for block in single.feed([entry])] == expected
    found: list[Block] = []
    lo = turn = 0
    while lo < len(log):
        width = cuts[turn % len(cuts)]
        found += cut.feed(log[lo : lo + width])
        lo, turn = lo + width, turn + 1
    assert found == expected
    ends = [partition.end() for partition in (whole, single, cut)]
    assert ends[0] == ends[1] == ends[2]
    assert whole.export() == single.export() == cut.export()


@settings(deadline=None, max_examples=30)
@given(_SEEDS, _SIZES, _CUTS, st.randoms(use_true_random=False))
def test_a_restart_at_any_moment_changes_nothing(
    seed: int, size: int, cuts: list[int], choose: Any
) -> None:
    # Every export may also forget accounts, in this test after 2,000 s: that changes nothing too.
    log = random_log(seed, size)
    whole = started()
    expected = whole.feed(log) + whole.end()
    partition = started()
    full = partition.export()
    found: list[Block] = []
    lo = turn = 0
    while lo < len(log):
        width = cuts[turn % len(cuts)]
        found += partition.feed(log[lo : lo + width])
        lo, turn = lo + width, turn + 1
        step = choose.choice(("go on", "export", "full restart", "restart with changes"))
        if step == "export":
            full = partition.export()
        elif step == "full restart":
            full = partition.export()
            partition = PartitionMeasure.restore(3, QUICK, full)
            assert partition.export() == full
        elif step == "restart with changes":
            changes = partition.export_changes()
            partition = PartitionMeasure.restore(3, QUICK, full, changes)
            assert partition.export_changes() == changes
    assert found + partition.end() == expected
    assert partition.watermark == whole.watermark
    assert partition.next_seq == whole.next_seq == len(expected)


@settings(deadline=None, max_examples=30)
@given(_SEEDS, _SIZES)
def test_every_block_keeps_the_promises_of_its_form(seed: int, size: int) -> None:
    blocks = measure(random_log(seed, size), QUICK.model_copy(update={"account_forget_after": 1e9}))
    assert [block.seq for block in blocks] == list(range(len(blocks)))
    assert all(before.time <= after.time for before, after in pairwise(blocks))
    assert len({block.id for block in blocks}) == len(blocks)
    for block in blocks:
        assert block.partition == 3
        assert 1 <= block.n <= BLOCK_EVENTS
        assert block.revision in ((0, 1, 2) if block.index == 0 else (2,))
        assert START - 40.0 <= block.first_ts <= block.last_ts
        numbers = np.frombuffer(block.features, np.float32)
        assert numbers.shape == (len(NAMES),)
        assert np.isfinite(numbers).all()
        assert len(block.sketch) == 128
        assert len(block.minhash) == 4 * 16
        assert all(distinct <= inputs <= block.n for _, inputs, distinct in block.heads)
        if block.kind == "vector":
            assert 1 <= block.dims <= VECTOR_DIMS
            assert len(block.vectors) == 4 * block.n * block.dims
            assert len(block.labels) == block.n
            assert len(block.confidences) == 4 * block.n
        else:
            assert (block.dims, block.vectors, block.labels, block.confidences) == (0, b"", (), b"")


def test_a_first_block_is_given_out_at_8_16_and_32_events() -> None:
    blocks = measure(burst(70))
    assert [shape(block) for block in blocks] == [
        ("a", 0, 0, 8),
        ("a", 0, 1, 16),
        ("a", 0, 2, 32),
        ("a", 1, 2, 32),
        ("a", 2, 2, 6),
    ]
    assert [block.events for block in blocks] == [8, 16, 32, 64, 70]
    assert [block.time - START for block in blocks] == [7, 15, 31, 63, 69]


@pytest.mark.parametrize(
    ("count", "revisions"),
    [(1, [0]), (7, [0]), (8, [0, 1]), (12, [0, 1]), (16, [0, 1, 2]), (31, [0, 1, 2])],
)
def test_a_short_first_block_closes_as_the_next_revision(count: int, revisions: list[int]) -> None:
    blocks = measure(burst(count))
    assert [block.revision for block in blocks] == revisions
    assert blocks[-1].n == count


def test_features_are_those_of_the_blocks_own_events() -> None:
    texts = [f"tell me about the {i}th king of somewhere {'far ' * (i % 5)}" for i in range(64)]
    log = [event("a", 7.0 * i, text, latency_ms=500.0) for i, text in enumerate(texts)]
    first, second = (block for block in measure(log) if block.n == 32)
    requests = [make.Request(START + 7.0 * i, text, 0.5) for i, text in enumerate(texts)]
    both = make.stack(
        [make.of_requests(requests[:32]), make.of_requests(requests[32:], index=1)],
    )
    expected = []
    for family in FAMILIES:
        out = np.empty((2, len(family.features)), np.float32)
        family.measure(both, np.zeros(2, np.int64), new_state(family, 1), out)
        expected.append(out)
    for block, numbers in zip((first, second), np.concatenate(expected, axis=1), strict=True):
        found = np.frombuffer(block.features, np.float32)
        assert dict(zip(NAMES, found.tolist(), strict=True)) == pytest.approx(
            dict(zip(NAMES, numbers.tolist(), strict=True)), rel=1e-4, abs=1e-5
        )


@pytest.mark.parametrize(
    ("params", "opens"),
    [
        (None, False),
        ({}, False),
        ({"temperature": 0.0, "max_tokens": 9}, False),
        ({"logprobs": True}, True),
        ({"logprobs": 5}, True),
        ({"logprobs": False}, False),
        ({"logprobs": None, "top_logprobs": None, "logit_bias": None, "n": None}, False),
        ({"top_logprobs": 3}, True),
        ({"logit_bias": {"50256": -100}}, True),
        ({"logit_bias": {}}, False),
        ({"n": 2}, True),
        ({"n": 1}, False),
        ({"n": True}, False),
        ({"n": "many"}, False),
    ],
)
@pytest.mark.parametrize("content", ["xyzzy", [1.0, 2.0], None], ids=["text", "vector", "none"])
def test_what_a_request_asks_by_its_parameters(content: Any, params: Any, opens: bool) -> None:
    plain = burst(6, input=content)
    asking = [event("a", 6.0 + i, content, params=params) for i in range(2)]
    (first, *_) = measure(plain + asking)
    assert feature(first, "elicitation.opens_up") == 0.25 * opens
    refused = [event("a", 8.0 + i, content, params=params, status=429) for i in range(2)]
    assert feature(measure(plain + refused)[-1], "elicitation.opens_up") == 0.0


def test_signs_of_words_and_of_parameters_add_up() -> None:
    log = burst(8, input="Explain my cat?", params={"n": 3})
    (first, *_) = measure(log)
    for sign in ("instructs", "personal", "asks", "opens_up"):
        assert feature(first, f"elicitation.{sign}") == 1.0
    for sign in ("refers_back", "reasons", "generates", "probes"):
        assert feature(first, f"elicitation.{sign}") == 0.0
    # The next block in the same row begins without them.
    after = of("a", measure(burst(32, input="Explain?", params={"n": 3}) + burst(32, at=32.0)))[-1]
    assert [feature(after, f"elicitation.{name}") for name in ("asks", "opens_up")] == [0.0, 0.0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([None] * 8, 0.0),
        ([0.0] * 8, 0.0),
        ([99.0] * 8, np.log1p(99.0)),
        ([99.0, None] * 4, np.log1p(99.0)),
        ([9.0, 99.0] * 4, (np.log1p(9.0) + np.log1p(99.0)) / 2),
        ([-5.0] * 8, 0.0),
        ([1e300] * 8, np.log1p(1e9)),  # past all float32
    ],
)
def test_the_length_of_answers(tokens: list[float | None], expected: float) -> None:
    log = [event("a", float(i), output_tokens=count) for i, count in enumerate(tokens)]
    (first, *_) = measure(log)
    assert feature(first, "elicitation.answer_length") == pytest.approx(expected, rel=1e-6)


def test_refused_requests_are_counted_and_enter_no_block() -> None:
    log = [
        event("a", i, f"text {i}" if i % 3 else "refused", status=200 if i % 3 else 429)
        for i in range(48)
    ]
    blocks = measure(log)
    assert [block.n for block in blocks] == [8, 16, 32]
    assert [block.refused for block in blocks] == [4, 8, 16]
    assert feature(blocks[-1], "coverage.distinct_texts") == 1.0


def test_an_account_that_is_only_refused_has_no_block() -> None:
    partition = started()
    assert partition.feed(burst(100, status=429)) + partition.end() == []
    assert list(partition.accounts()) == [("a", 100, 0)]


def test_accounts_are_listed_with_what_they_sent() -> None:
    partition = started()
    partition.feed([event("a"), event("b", status=503), event("a", request_id="x")])
    partition.feed([event("a", request_id="x"), event("b")])
    assert list(partition.accounts()) == [("a", 2, 2), ("b", 2, 1)]


@pytest.mark.parametrize(
    ("others", "counted"), [(0, 1), (1, 2), (63, 64), (64, 66), (65, 67), (200, 202)]
)
def test_a_request_id_counts_once_among_the_accounts_last_64(others: int, counted: int) -> None:
    ids = ["same", *(f"other-{i}" for i in range(others)), "same"]
    log = [event("a", i, request_id=request_id) for i, request_id in enumerate(ids)]
    assert measure(log)[-1].events == counted


def test_the_same_request_id_of_two_accounts_is_two_requests() -> None:
    blocks = measure([event("a", request_id="same"), event("b", request_id="same")])
    assert [shape(block) for block in blocks] == [("a", 0, 0, 1), ("b", 0, 0, 1)]


@pytest.mark.parametrize("request_id", [None, ""])
def test_without_a_request_id_every_record_is_a_request(request_id: str | None) -> None:
    assert measure(burst(5, request_id=request_id))[-1].n == 5


def test_a_repeated_record_moves_neither_time_nor_identity() -> None:
    first = event("a", 0.0, request_id="x", ip="192.0.2.1")
    again = event("a", 50.0, request_id="x", ip="192.0.2.99")
    partition = started()
    partition.feed([first])
    partition.feed([again])
    assert partition.watermark == START
    assert [block.identity.ip for block in partition.end()] == ["192.0.2.1"]


def test_a_block_says_whom_its_last_event_is_from() -> None:
    log = burst(7, ip="192.0.2.1", org="old")
    log.append(
        event(
            "a",
            7.0,
            api_key="sha256:00",
            org="new",
            plan="pro",
            ip="192.0.2.2",
            user_agent="curl",
            ja4="t13d",
            endpoint="/v1/chat",
            model="small",
            links={"device": "d1"},
        )
    )
    assert measure(log)[0].identity == Identity(
        "sha256:00",
        "new",
        "pro",
        "192.0.2.2",
        "curl",
        "t13d",
        "/v1/chat",
        "small",
        {"device": "d1"},
    )


def test_an_idle_accounts_block_closes_when_the_watermark_passes() -> None:
    partition = started()
    assert partition.feed(burst(3) + clock(32.0, 272.0)) != []
    assert of("a", partition.feed([event("clock", 301.9)])) == []
    # The last event was at 2 s: 302 s is 300 s later, and a second's latency is part of the time.
    (block,) = of("a", partition.feed([event("clock", 301.5, latency_ms=1000.0)]))
    assert shape(block) == ("a", 0, 0, 3)
    assert block.time == partition.watermark == START + 302.5
    assert (block.first_ts, block.last_ts) == (START, START + 2.0)


def test_an_accounts_own_next_event_starts_a_new_block_after_an_idle_time() -> None:
    log = [*burst(3), *clock(32.0, 292.0), event("a", 310.0), event("a", 311.0)]
    blocks = of("a", measure(log))
    assert [shape(block) for block in blocks] == [("a", 0, 0, 3), ("a", 1, 2, 2)]


def test_a_refused_request_carries_time_on() -> None:
    refused = [event("clock", at, status=429) for at in np.arange(30.0, 331.0, 30.0).tolist()]
    partition = started()
    assert [shape(block) for block in partition.feed([*burst(3), *refused])] == [("a", 0, 0, 3)]
    assert partition.end() == []


def test_idleness_counts_from_the_watermark_not_from_a_late_stamp() -> None:
    # The event stamped 0 came when the partition's time was 210 s: it is idle from then on.
    log = [*clock(0.0, 210.0), event("a", 0.0), *clock(240.0, 480.0)]
    partition = started()
    assert of("a", partition.feed(log)) == []
    assert of("a", partition.feed([event("clock", 509.9)])) == []
    assert of("a", partition.feed([event("clock", 510.0)])) != []


def test_a_stamp_far_ahead_waits_for_a_second_one() -> None:
    partition = started()
    partition.feed(burst(3))
    assert partition.watermark == START + 2.0
    partition.feed([event("b", 62.0)])
    assert partition.watermark == START + 62.0
    partition.feed([event("b", 5000.0)])
    assert partition.watermark == START + 62.0
    blocks = partition.feed([event("b", 4990.0)])
    assert partition.watermark == START + 4990.0
    assert [(block.account, block.time) for block in blocks] == [
        ("a", START + 4990.0),
        ("b", START + 4990.0),
    ]


def test_one_wrong_clock_closes_nobodys_block() -> None:
    log = burst(20, "a") + burst(20, "b", 20.0)
    wrong = event("broken", 80_000.0)
    right, disturbed = started(), started()
    expected = right.feed(log)
    assert disturbed.feed([*log[:25], wrong, *log[25:]]) == expected
    assert disturbed.watermark == right.watermark
    # It does count as a request: only its stamp is doubted.
    assert [shape(block) for block in of("broken", disturbed.end())] == [("broken", 0, 0, 1)]


def test_a_stamp_from_the_past_moves_nothing_back() -> None:
    partition = started()
    partition.feed([event("a", 100.0)])
    partition.feed([event("a", -5000.0)])
    assert partition.watermark == START + 100.0
    (block,) = partition.end()
    assert (block.first_ts, block.last_ts) == (START - 5000.0, START + 100.0)
    assert block.time == START + 100.0


def test_the_end_closes_the_longest_idle_first() -> None:
    order = ["c", "a", "d", "b", "a", "c"]
    partition = started()
    partition.feed([event(name, float(i)) for i, name in enumerate(order)])
    blocks = partition.end()
    assert [block.account for block in blocks] == ["d", "b", "a", "c"]
    assert {block.time for block in blocks} == {START + 5.0}
    assert partition.end() == []


def test_nothing_comes_of_nothing() -> None:
    partition = started()
    assert partition.feed([]) == partition.end() == []
    assert partition.watermark == -1.0


def test_one_event_can_close_more_blocks_than_fit_at_once() -> None:
    count = 2 * OUT_BLOCKS + 88
    names = [f"account-{i:04}" for i in range(count)]
    log = [event(name, 0.01 * i) for i, name in enumerate(names)] + clock(30.0, 270.0)
    partition = started()
    partition.feed(log)
    blocks = partition.feed([event("clock", 330.0)])
    assert [block.account for block in blocks] == names
    assert [block.seq for block in blocks] == list(range(blocks[0].seq, blocks[0].seq + count))
    assert {block.time for block in blocks} == {START + 330.0}


def test_the_end_can_close_more_blocks_than_fit_at_once() -> None:
    names = [f"account-{i:04}" for i in range(OUT_BLOCKS + 1)]
    assert [block.account for block in measure([event(name) for name in names])] == names


def long_pause(settings: MeasureSettings, *events: Event) -> list[Event]:
    """Events after the time in which an account is forgotten; another account brings it on."""
    away = settings.account_forget_after + 100.0
    moved = [event(e.account, e.ts - START + away, e.input, status=e.status) for e in events]  # type: ignore[operator]
    return [event("clock", away - 1.0), event("clock", away - 1.0), *moved]


def test_a_forgotten_account_is_a_new_one() -> None:
    log = [*burst(40, status=200), *burst(4, at=40.0, status=429)]
    blocks = of("a", measure([*log, *long_pause(QUICK, *burst(34))]))
    assert [(block.index, block.revision, block.events) for block in blocks] == [
        (0, 0, 8),
        (0, 1, 16),
        (0, 2, 32),
        (1, 2, 40),
        (0, 0, 8),
        (0, 1, 16),
        (0, 2, 32),
        (1, 2, 34),
    ]
    assert feature(blocks[3], "drift.has_past") == 1.0
    assert feature(blocks[6], "drift.has_past") == 0.0
    assert feature(blocks[7], "drift.has_past") == 1.0
    assert [block.refused for block in blocks] == [0, 0, 0, 4, 0, 0, 0, 0]


@pytest.mark.parametrize(("back", "index"), [(2001.9, 1), (2002.0, 0)])
def test_an_account_is_forgotten_2000_s_after_its_last_request(back: float, index: int) -> None:
    log = [*burst(3), *clock(30.0, 1980.0), event("a", back)]
    assert [block.index for block in of("a", measure(log))] == [0, index]


def test_a_forgotten_accounts_request_ids_are_forgotten() -> None:
    once = event("a", request_id="x")
    again = event("a", QUICK.account_forget_after + 200.0, request_id="x")
    blocks = of("a", measure([once, *long_pause(QUICK), again]))
    assert [block.events for block in blocks] == [1, 1]


def test_export_drops_forgotten_accounts_and_only_those() -> None:
    partition = started()
    for i in range(100):
        partition.feed([event(f"gone-{i}"), event(f"refused-{i}", status=429)])
    before = len(partition.export())
    partition.feed(long_pause(QUICK, event("here"), event("here too", status=429)))
    after = partition.export()
    assert [name for name, _, _ in partition.accounts()] == ["clock", "here", "here too"]
    assert len(after) < before
    assert [block.account for block in partition.end()] == ["clock", "here"]


def test_an_account_whose_refusals_alone_are_recent_keeps_them() -> None:
    # Its block is long gone, but the gateway still refuses it: that is not a new account.
    away = QUICK.account_forget_after
    lively = [event("a", at, status=429) for at in np.arange(30.0, away + 500.0, 30.0).tolist()]
    log = [*burst(3), *burst(50, "other"), *lively]
    partition = started()
    partition.feed(log)
    partition.export()
    (block,) = partition.feed([event("a", away + 500.0)]) + partition.end()
    assert (block.index, block.events, block.refused) == (0, 1, len(lively))


def test_the_state_of_an_account_is_small_and_does_not_grow() -> None:
    partition = started()
    partition.feed(burst(1))
    one = partition.bytes_per_account
    assert one <= 4096
    partition.feed(burst(1000, at=1.0))
    assert partition.bytes_per_account == one
    for i in range(200):
        partition.feed(burst(40, f"account-{i}"))
    # The packed state of 201 accounts holds no more than their rows and names.
    assert len(partition.export()) < 201 * (one + 256)


@pytest.mark.parametrize(
    ("model", "endpoint", "content", "population", "kind"),
    [
        ("m", "/v1/chat", "words", "text", "text"),
        ("m", "/v1/chat", "", "text", "text"),
        ("m", "/v1/chat", [], "metadata", "metadata"),
        ("m", "/v1/chat", None, "metadata", "metadata"),
        ("m", "/predict", [1.0], "vector:m", "vector"),
        (None, None, [1.0], "vector:", "vector"),
        (None, None, "words", "text", "text"),
        ("code-small", "/v1/chat", "words", "code", "text"),
        ("code-large", "/v1/batch", "words", "code", "text"),  # the first match counts
        ("m", "/v1/batch", "words", "batch", "text"),
        ("m", "/v1/batch", [1.0], "batch:vector", "vector"),
        ("m", "/v1/batch", None, "batch:metadata", "metadata"),
        ("Code-small", "/v1/chat", "words", "text", "text"),  # names differ by case
    ],
)
def test_populations(
    model: str | None, endpoint: str | None, content: Any, population: str, kind: str
) -> None:
    rules = (
        PopulationRule(name="code", models=("code-*",)),
        PopulationRule(name="batch", endpoints=("*/batch",)),
    )
    settings = QUICK.model_copy(update={"populations": rules})
    (block,) = measure([event("a", 0.0, content, model=model, endpoint=endpoint)], settings)
    assert (block.population, block.kind) == (population, kind)


@pytest.mark.parametrize("name", ["", "metadata", "vector:m", "a:b"])
def test_a_rule_cannot_take_the_name_of_another_kinds_population(name: str) -> None:
    with pytest.raises(ValueError, match="would mix"):
        PopulationRule(name=name)


@pytest.mark.parametrize("first", ["words", [1.0, 2.0], None])
def test_what_an_account_sends_first_does_not_choose_its_population(first: Any) -> None:
    settings = QUICK.model_copy(update={"populations": (PopulationRule(name="all"),)})
    log = [event("a", float(i), c) for i, c in enumerate([first, "words", [1.0, 2.0], None])]
    found = {(block.population, block.kind) for block in measure(log, settings)}
    assert found == {("all", "text"), ("all:vector", "vector"), ("all:metadata", "metadata")}


def test_populations_of_one_account_fill_their_blocks_apart() -> None:
    log = [event("a", float(i), "text" if i % 2 else [float(i)], model="m") for i in range(32)]
    blocks = measure(log)
    assert [(block.population, block.revision, block.n) for block in blocks] == [
        ("vector:m", 0, 8),
        ("text", 0, 8),
        ("vector:m", 1, 16),
        ("text", 1, 16),
        ("vector:m", 2, 16),
        ("text", 2, 16),
    ]


def test_vectors_come_out_as_they_went_in() -> None:
    rows = [[float(i), -0.5, 2.0 * i] for i in range(8)]
    log = [
        event("a", float(i), row, output=Output(label=i % 2, confidence=0.25 * (i % 3)))
        for i, row in enumerate(rows)
    ]
    log[5].output = None
    log[6].output = Output()
    block = measure(log)[0]
    assert block.dims == 3
    assert np.frombuffer(block.vectors, np.float32).reshape(8, 3).tolist() == rows
    assert block.labels == ("0", "1", "0", "1", "0", "", "", "1")
    confidences = np.frombuffer(block.confidences, np.float32)
    assert np.isnan(confidences[[5, 6]]).all()
    assert confidences[[0, 1, 2, 3, 4, 7]].tolist() == [0.0, 0.25, 0.5, 0.0, 0.25, 0.25]


def test_equal_vectors_are_equal_texts() -> None:
    rows = [[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [1.0, 2.0, 0.0]]
    (block,) = measure([event("a", float(i), row) for i, row in enumerate(rows)])
    assert feature(block, "coverage.distinct_texts") == 0.75
    assert feature(block, "entropy.bytes") == 0.0


def test_wide_vectors_are_folded_and_keep_their_inner_products() -> None:
    rng = np.random.default_rng(1)
    wide = rng.normal(size=(8, 5000))
    wide[1] = wide[0]  # as alike as can be
    wide[2] = -wide[0]
    block = measure([event("a", float(i), row.tolist()) for i, row in enumerate(wide)])[0]
    assert block.dims == VECTOR_DIMS
    folded = np.frombuffer(block.vectors, np.float32).reshape(8, VECTOR_DIMS).astype(float)
    unit = folded / np.linalg.norm(folded, axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert cosines[0, 1] == pytest.approx(1.0)
    assert cosines[0, 2] == pytest.approx(-1.0)
    # Random directions stay nearly at right angles: deviation 1 / √128 = .09.
    assert np.abs(cosines[3:, 3:] - np.eye(5)).max() < 0.4
    assert np.linalg.norm(folded, axis=1) == pytest.approx(np.linalg.norm(wide, axis=1), rel=0.3)


@pytest.mark.parametrize(("widths", "dims"), [([3, 5, 2], 3), ([128, 129], 128), ([200, 4], 128)])
def test_vectors_of_another_width_are_cut_or_filled_to_the_blocks_first(
    widths: list[int], dims: int
) -> None:
    (block,) = measure([event("a", float(i), [1.0] * width) for i, width in enumerate(widths)])
    rows = np.frombuffer(block.vectors, np.float32).reshape(len(widths), dims)
    for row, width in zip(rows, widths, strict=True):
        if width <= VECTOR_DIMS:
            assert row.tolist() == ([1.0] * width + [0.0] * dims)[:dims]


def test_labels_past_4096_share_the_last_ones_place() -> None:
    log = [event("a", float(i), [1.0], output=Output(label=i)) for i in range(4200)]
    partition = started()
    blocks = partition.feed(log)
    assert blocks[-1].labels == ("4095",) * 32
    restored = PartitionMeasure.restore(3, QUICK, partition.export())
    later = [event("a", 4200.0 + i, [1.0], output=Output(label=f"new {i}")) for i in range(40)]
    assert restored.feed(later) == partition.feed(later) != []


_HOSTILE: dict[str, Any] = {
    "empty text": "",
    "no words": "\n\t ;;; ",
    "nulls": "\0" * 50,
    "a lone surrogate": "before \ud800 after",
    "a mebibyte of one letter": "a" * (1 << 20),
    "a mebibyte of words": "word " * 200_000,
    "no input": None,
    "no numbers": [],
    "largest numbers": [1e308, -1e308, 1.7976931348623157e308],
    "largest numbers, folded": [1e308, -1e308] * 500,
    "float32's largest, folded": [3.4e38] * 1000,
    "not numbers": [float("nan"), float("inf"), float("-inf")],
    "smallest numbers": [5e-324] * 3,
    "whole numbers": [1, 2, 10**30],
    "100,000 numbers": [0.1] * 100_000,
}


@pytest.mark.parametrize("content", _HOSTILE.values(), ids=_HOSTILE)
def test_hostile_inputs_give_finite_blocks(content: Any) -> None:
    log = [
        event(
            "a",
            float(i),
            content,
            request_id=f"{i}\udfff",
            output=Output(label="\ud800" if i else None, confidence=1e308),
        )
        for i in range(9)
    ]
    partition = started()
    blocks = partition.feed(log) + partition.end()
    assert [block.n for block in blocks] == [8, 9]
    for block in blocks:
        assert np.isfinite(np.frombuffer(block.features, np.float32)).all()
        assert np.isfinite(np.frombuffer(block.vectors, np.float32)).all()
        assert np.isnan(np.frombuffer(block.confidences, np.float32)).all()


def test_state_of_another_partition_is_refused() -> None:
    state = started().export()
    with pytest.raises(StateMismatch, match=r"partition 3; this program has .* partition 4"):
        PartitionMeasure.restore(4, QUICK, state)


def test_state_of_other_features_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    state = started().export()
    monkeypatch.setattr(FAMILIES[0], "version", 99, raising=False)
    with pytest.raises(StateMismatch, match=r"'timing': 1.*'timing': 99"):
        PartitionMeasure.restore(3, QUICK, state)


@pytest.mark.parametrize("harm", [lambda s: s[:-5], lambda s: b"", lambda s: b"x" * 99])
def test_damaged_state_is_refused(harm: Any) -> None:
    partition = started()
    partition.feed(burst(5))
    with pytest.raises(StateMismatch, match="damaged"):
        PartitionMeasure.restore(3, QUICK, harm(partition.export()))
