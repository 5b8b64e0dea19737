"""The judge: what it decides follows from the blocks and the commands, not from how they came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from detector.baseline import Baseline
from detector.blocks import Block, Identity
from detector.judge import Judge, Judgement
from detector.rhythm import ring
from detector.settings import JudgeSettings, MeasureSettings, Settings
from detector.state import StateMismatch, unpack
from features import NAMES
from responders.decisions import Decision
from responders.feedback import Allow, Clear, Disallow, Feedback, SetBaseline, SetMode
from responders.settings import PolicySettings, RungSettings
from tests.detector.small_models import START, models, sketch, text_block, vector_block

MODELS = models()
TICK = 0.2
WEEK = 604_800.0


def settings(partitions: int = 1, **judge: Any) -> Settings:
    """A short ladder, on which evidence past all customers goes up to block."""
    return Settings(
        measure=MeasureSettings(partitions=partitions),
        judge=JudgeSettings(tick_s=TICK, **judge),
        policy=PolicySettings(
            ladder=(
                RungSettings(action="observe", false_per_1000_week=60.0, ttl_s=40.0),
                RungSettings(action="throttle", false_per_1000_week=30.0, ttl_s=20.0),
                RungSettings(action="block", false_per_1000_week=3.0, ttl_s=60.0),
            )
        ),
    )


def judge(partitions: int = 1, **options: Any) -> Judge:
    return Judge(settings(partitions, **options), models=MODELS)


def tick_end(tick: int) -> float:
    return tick * TICK


def brief(decisions: Sequence[Decision]) -> list[tuple[str, str, int, float]]:
    return [(d.value, d.action, d.level, d.issued_at) for d in decisions]


def whole(judgement: Judgement) -> list[Any]:
    """Everything in it, to be compared to the last bit."""
    return [msgspec.to_builtins(part) for part in (judgement.decisions, judgement.alerts)]


# A stream in which everything happens


Stream = list[list[Block]]  # by partition, in the order of the partition


def stream(seed: int, partitions: int = 3, blocks: int = 400) -> Stream:
    """Text and vectors of 28 accounts: thieves and customers, linked, close in time."""
    rng = Random(seed)
    rows = np.random.default_rng(seed)
    parts: Stream = [[] for _ in range(partitions)]
    counts: dict[str, int] = {}
    clocks = [0.0] * partitions
    for _ in range(blocks):
        who = rng.randrange(28)
        partition = who % partitions
        # Now and then in the same tick, and at the same time as others.
        clocks[partition] += rng.choice((0.0, 0.05, 0.3, 1.0, 9.0))
        account = f"account-{who}"
        index = counts.get(account, 0)
        counts[account] = index + 1
        common: dict[str, Any] = {
            "index": index,
            "partition": partition,
            "seq": len(parts[partition]),
            "identity": Identity(
                org=f"org-{who % 4}", links={"payment": str(who % 5 if who < 9 else who)}
            ),
        }
        if who >= 14:
            made = (rows.normal(size=(32, 4)) * (9.0 if who == 27 else 1.0)).astype(np.float32)
            block = vector_block(account, clocks[partition], rows=made, **common)
        elif who == 13:
            block = text_block(account, clocks[partition], score=0.0, population="code", **common)
        else:
            block = text_block(
                account, clocks[partition], score=rng.uniform(-2.0, 3.0) + 3.0 * (who < 5),
                sketch=sketch(who % 6), heads=((who % 3, 20, 5),), **common,
            )  # fmt: skip
        parts[partition].append(block)
    return parts


def commands(seed: int) -> list[Feedback]:
    """A clear of somebody who is throttled at that time, and what changes all decisions."""
    throttled = next(d for d in at_once(seed, []).decisions if d.action == "throttle")
    return [
        Clear(
            id="c", by="me", at=throttled.issued_at + 1.05, scope="account",
            value=throttled.value, reason="known", grace_s=30.0,
        ),
        Allow(
            id="a", by="me", at=START + 80.0, scope="org", value="org-2", reason="partner",
            expires_at=START + 200.0,
        ),
        SetMode(id="m", by="me", at=START + 100.0, mode="enforce"),
        Disallow(id="d", by="me", at=START + 150.0, scope="org", value="org-2"),
    ]  # fmt: skip


def at_once(seed: int, said: Sequence[Feedback]) -> Judgement:
    one = Judge(SETTINGS[seed], models=MODELS)
    for feedback in said:
        one.command(feedback)
    for partition, blocks in enumerate(STREAMS[seed]):
        one.blocks(partition, blocks, blocks[-1].time)
        one.end(partition)
    return one.advance()


def patient() -> Settings:
    """Settings under which steps wait for their delay and for a place."""
    waits = {"new_enforcements_per_min": 2, "delay_s": 1.0, "jitter_s": 6.0}
    made = settings(3)
    return made.model_copy(update={"policy": made.policy.model_copy(update=waits)})


STREAMS = {seed: stream(seed) for seed in range(3)}
SETTINGS = {0: settings(3), 1: settings(3), 2: patient()}
COMMANDS = {seed: commands(seed) for seed in STREAMS}
EXPECTED = {seed: at_once(seed, COMMANDS[seed]) for seed in STREAMS}


def test_a_stream_is_of_steps_that_wait() -> None:
    titles = [alert.finding["finding_info"]["title"] for alert in EXPECTED[2].alerts]
    assert any("held back" in title for title in titles)
    assert not any("held back" in a.finding["finding_info"]["title"] for a in EXPECTED[0].alerts)


def test_the_streams_lead_to_decisions_of_every_kind() -> None:
    for judgement in EXPECTED.values():
        decisions = judgement.decisions
        assert len(decisions) >= 30
        assert {d.action for d in decisions} == {"observe", "throttle", "block", "clear"}
        assert {d.reason.code for d in decisions} == {"extraction", "cleared", "allowlisted"}
        assert {d.mode for d in decisions} == {"shadow", "enforce"}
        assert any(d.campaign for d in decisions)
        assert any(d.value == "account-27" for d in decisions)
        assert {alert.activity for alert in judgement.alerts} == {"create", "update", "close"}


class Feeding:
    """Hands a stream over in pieces, in an order of partitions that a random number picks."""

    def __init__(self, parts: Stream, rng: Random) -> None:
        self.parts = parts
        self.rng = rng
        self.given = [0] * len(parts)
        self.ended: set[int] = set()

    def step(self, to: Judge) -> bool:
        """One piece; False when nothing is left."""
        open_ = [p for p in range(len(self.parts)) if p not in self.ended]
        if not open_:
            return False
        partition = self.rng.choice(open_)
        blocks = self.parts[partition]
        first = self.given[partition]
        last = min(len(blocks), first + self.rng.choice((0, 1, 1, 5, 40)))
        # The watermark may be anywhere up to the next block's time.
        low = blocks[last - 1].time if last else 0.0
        high = blocks[last].time if last < len(blocks) else low
        to.blocks(partition, blocks[first:last], self.rng.choice((low, high)))
        self.given[partition] = last
        if last == len(blocks):
            to.end(partition)
            self.ended.add(partition)
        return True


@pytest.mark.parametrize("seed", STREAMS)
@given(luck=st.integers(0, 2**32))
@hypothesis(max_examples=15, deadline=None)
def test_any_interleaving_of_partitions_gives_the_same(seed: int, luck: int) -> None:
    rng, one, found = Random(luck), Judge(SETTINGS[seed], models=MODELS), Judgement()
    said = [*COMMANDS[seed]]
    rng.shuffle(said)
    for feedback in said:
        one.command(feedback)
    feeding = Feeding(STREAMS[seed], rng)
    while feeding.step(one):
        if rng.random() < 0.5:
            found.extend(one.advance())
    found.extend(one.advance())
    assert whole(found) == whole(EXPECTED[seed])


@pytest.mark.parametrize("seed", STREAMS)
@given(luck=st.integers(0, 2**32))
@hypothesis(max_examples=10, deadline=None)
def test_restarts_at_any_moment_give_the_same(seed: int, luck: int) -> None:
    """From everything, or from everything and later changes; journalled commands come again."""
    rng, one, found = Random(luck), Judge(SETTINGS[seed], models=MODELS), Judgement()
    journal = [one.command(feedback) for feedback in COMMANDS[seed]]
    feeding = Feeding(STREAMS[seed], rng)
    full: bytes | None = None
    more = True
    while more:
        more = feeding.step(one)
        found.extend(one.advance())
        chance = rng.random()
        if chance < 0.15:
            full = one.export()
        if chance < 0.25 and full is not None:
            changes = one.export_changes()
            one = Judge.restore(SETTINGS[seed], None, full, changes, models=MODELS)
            full = None
            for feedback in journal:
                assert one.command(feedback) == feedback
    assert whole(found) == whole(EXPECTED[seed])


def test_going_back_to_a_checkpoint_decides_the_same_again() -> None:
    parts = STREAMS[0]
    one = judge(3)
    journal = [one.command(feedback) for feedback in COMMANDS[0]]
    full = one.export()
    for partition, blocks in enumerate(parts):
        one.blocks(partition, blocks[:40], blocks[39].time)
    first = one.advance()
    again = Judge.restore(settings(3), None, full, generation=1, models=MODELS)
    for feedback in journal:
        again.command(feedback)
    for partition, blocks in enumerate(parts):
        again.blocks(partition, blocks[:40], blocks[39].time)
    second = again.advance()
    assert first.decisions
    assert [(d.id, *brief([d])) for d in first.decisions] == [
        (d.id, *brief([d])) for d in second.decisions
    ]
    # The later judge's versions beat those of the one it replaced.
    assert max(d.version for d in first.decisions) < min(d.version for d in second.decisions)
    assert {d.version >> 32 for d in second.decisions} == {1}


def test_versions_grow_with_each_decision() -> None:
    versions = [decision.version for decision in EXPECTED[1].decisions]
    assert all(a < b for a, b in pairwise(versions))


# Ticks


def damning(account: str = "thief", at: float = 0.05, **fields: Any) -> Block:
    """A block of which one is enough for the first enforcement."""
    return text_block(account, at, score=6.0, **fields)


def due(block: Block) -> int:
    return int(block.time / TICK) + 1


def test_a_decision_is_issued_at_the_end_of_its_blocks_tick() -> None:
    one = judge()
    block = damning()
    one.blocks(0, [block], START + 10.0)
    (decision,) = one.advance().decisions
    assert (decision.action, decision.level) == ("throttle", 1)
    assert decision.issued_at == tick_end(due(block))
    assert block.time < decision.issued_at <= block.time + TICK


def test_a_tick_waits_for_the_slowest_partition() -> None:
    one = judge(3)
    block = damning()
    end = tick_end(due(block))
    one.blocks(0, [block], START + 100.0)
    assert one.advance().decisions == []
    one.blocks(1, [], START + 100.0)
    assert one.advance().decisions == []  # nothing was heard of the third at all
    one.blocks(2, [], end - 1e-3)
    assert one.advance().decisions == []
    one.blocks(2, [], end)
    assert [d.issued_at for d in one.advance().decisions] == [end]


def test_blocks_of_a_tick_count_in_the_order_of_their_times_and_names() -> None:
    one = judge(2)
    one.blocks(1, [damning("b", 0.05, partition=1), damning("c", 0.06, partition=1, seq=1)],
               START + 9.0)  # fmt: skip
    one.blocks(0, [damning("d", 0.05), damning("a", 0.06, seq=1)], START + 9.0)
    assert [d.value for d in one.advance().decisions] == ["b", "d", "a", "c"]


def test_a_silent_partition_holds_nothing_until_it_speaks_again() -> None:
    one = judge(2)
    one.blocks(1, [], START - 50.0)
    one.silence(1)
    one.blocks(0, [damning(at=1.0)], START + 2.0)
    assert len(one.advance().decisions) == 1
    one.blocks(1, [], START + 3.0)
    one.blocks(0, [damning("other", 5.0, seq=1)], START + 6.0)
    assert one.advance().decisions == []
    one.silence(1)
    assert [d.value for d in one.advance().decisions] == ["other"]


def test_a_block_whose_tick_is_over_joins_the_next() -> None:
    one = judge(2)
    one.silence(1)
    first = damning("early", 10.0)
    one.blocks(0, [first], START + 20.0)
    assert [d.value for d in one.advance().decisions] == ["early"]
    one.blocks(1, [damning("late", 4.0, partition=1)], START + 20.0)
    (decision,) = one.advance().decisions
    assert (decision.value, decision.issued_at) == ("late", tick_end(due(first) + 1))


def test_the_end_judges_everything() -> None:
    one = judge(2)
    one.blocks(0, [damning()], START + 0.05)
    one.end(0)
    assert one.advance().decisions == []
    one.end(1)
    assert len(one.advance().decisions) == 1


def test_a_partition_that_goes_on_after_its_end_holds_again() -> None:
    one = judge(2)
    for partition in (0, 1):
        one.blocks(partition, [], START)
        one.end(partition)
    one.blocks(0, [damning(at=5.0)], START + 9.0)
    one.blocks(1, [], START + 1.0)
    assert one.advance().decisions == []
    one.blocks(1, [], START + 9.0)
    assert len(one.advance().decisions) == 1


def test_repeats_are_dropped_and_a_gap_is_an_error() -> None:
    one = judge()
    blocks = [damning(at=float(i), index=i, seq=i) for i in range(3)]
    one.blocks(0, blocks[:2], START + 1.0)
    one.blocks(0, blocks, START + 2.0)
    one.end(0)
    one.advance()
    assert dict(one.accounts())["thief"].blocks == 3
    with pytest.raises(ValueError, match="partition 0: block 4 came where 3 was due"):
        one.blocks(0, [damning(at=9.0, index=4, seq=4)], START + 9.0)


def test_a_watermark_never_goes_back() -> None:
    one = judge(2)
    one.blocks(1, [], START + 9.0)
    one.blocks(1, [], START - 9.0)
    one.blocks(0, [damning()], START + 9.0)
    assert len(one.advance().decisions) == 1


def test_a_decision_ends_without_any_block() -> None:
    one = judge()
    one.blocks(0, [damning()], START + 1.0)
    opened = one.advance()
    assert [alert.activity for alert in opened.alerts] == ["create"]
    one.blocks(0, [], opened.decisions[0].expires_at - 0.5)
    assert one.advance().alerts == []
    one.blocks(0, [], opened.decisions[0].expires_at + 0.5)
    (closed,) = one.advance().alerts
    assert closed.activity == "close"
    assert closed.time == pytest.approx(opened.decisions[0].expires_at, abs=TICK)


# Commands


def clear(at: float | None, name: str = "c", **fields: Any) -> Clear:
    given = {"scope": "account", "value": "thief", "reason": "known", "grace_s": 5.0}
    return Clear(id=name, by="me", at=at, **{**given, **fields})


def fed(*said: Feedback) -> tuple[Judge, list[Decision]]:
    """A judge that is told, and gets a damning block a second for 12 s."""
    one = judge()
    for feedback in said:
        one.command(feedback)
    blocks = [damning(at=float(i), index=i, seq=i) for i in range(12)]
    one.blocks(0, blocks, START + 12.0)
    return one, one.advance().decisions


def test_a_command_takes_effect_at_the_first_tick_from_its_time_on() -> None:
    one = judge()
    tick = one.command(clear(START + 3.05)).tick
    assert tick is not None
    assert tick_end(tick - 1) < START + 3.05 <= tick_end(tick)
    _, decisions = fed(clear(START + 3.05))
    (ended,) = [d for d in decisions if d.action == "clear"]
    assert ended.issued_at == tick_end(tick)


def test_nothing_is_decided_in_the_grace_after_a_clear() -> None:
    _, decisions = fed(clear(START + 3.05))
    after = [d for d in decisions if d.issued_at > START + 3.05 and d.action != "clear"]
    assert after
    assert min(d.issued_at for d in after) >= START + 8.0


def test_a_command_without_a_time_takes_effect_at_the_next_tick() -> None:
    one, _ = fed()
    told = one.command(clear(None))
    assert told.tick == one.tick + 1
    one.blocks(0, [], START + 13.0)
    assert [d.action for d in one.advance().decisions] == ["clear"]


def test_a_command_of_the_past_takes_effect_at_the_next_tick() -> None:
    one, _ = fed()
    assert one.command(clear(START + 1.0)).tick == one.tick + 1


def test_commands_of_a_tick_come_before_its_blocks() -> None:
    """The block at 3 s would go up a rung; the clear in the same tick comes first."""
    _, decisions = fed(clear(START + 3.1))
    at_three = [d.action for d in decisions if tick_end(due(damning(at=3.0))) == d.issued_at]
    assert at_three == ["clear"]


def test_a_command_counts_once() -> None:
    one, _ = fed(clear(START + 3.05))
    later = clear(None)  # the same id
    one.command(later)
    one.blocks(0, [], START + 20.0)
    assert all(d.action != "clear" for d in one.advance().decisions)


def test_a_journalled_command_keeps_its_tick_and_counts_once() -> None:
    one = judge()
    journalled = one.command(clear(START + 3.05))
    assert one.command(journalled) == journalled
    restored = Judge.restore(settings(), None, one.export(), models=MODELS)
    assert restored.command(journalled) == journalled
    restored.blocks(0, [damning(at=float(i), index=i, seq=i) for i in range(12)], START + 12.0)
    cleared = [d for d in restored.advance().decisions if d.action == "clear"]
    assert [d.issued_at for d in cleared] == [tick_end(journalled.tick or 0)]


def test_an_allowed_identity_is_never_decided_against() -> None:
    one = judge()
    one.command(Allow(id="a", by="me", scope="org", value="ours", reason="us"))
    blocks = [
        damning("ours-1", 1.0, identity=Identity(org="ours")),
        damning("theirs", 1.0, seq=1, identity=Identity(org="theirs")),
    ]
    one.blocks(0, blocks, START + 2.0)
    assert [d.value for d in one.advance().decisions] == ["theirs"]


# Verdicts


def test_short_blocks_and_those_without_inputs_say_nothing() -> None:
    one = judge()
    blocks = [
        damning("short", 1.0, n=7),
        damning("metadata", 1.0, seq=1, kind="metadata", population="metadata"),
    ]
    one.blocks(0, blocks, START + 2.0)
    assert one.advance().decisions == []
    assert [summary.blocks for _, summary in one.accounts()] == [1, 1]


def test_a_decision_says_why() -> None:
    one = judge()
    one.blocks(0, [damning()], START + 1.0)
    (decision,) = one.advance().decisions
    assert decision.scorer == "small"
    assert decision.baseline == "shipped"
    assert decision.n_events == 32
    assert decision.reason.technique == "AML.T0024.002"
    assert decision.evidence is not None
    assert decision.evidence.e_value > 100.0
    # Base -3, and of the evidence of 6 a third for each model's column; equals go by name.
    adds = {s.name: s for s in decision.evidence.signals if s.log_odds}
    assert list(adds) == ["links.alike", "links.identity", NAMES[0]]
    for signal in adds.values():
        assert signal.log_odds == pytest.approx(3.0)
        assert signal.weight == pytest.approx(1 / 3)
    assert adds[NAMES[0]].typical == (-3.0, 0.0)
    assert adds[NAMES[0]].value == 5.5
    first, second = decision.evidence.signals[:2]
    assert decision.reason.text.endswith(f": {first.text}, {second.text}")
    assert decision.evidence.log_odds == 6.0
    assert decision.evidence.counted is False


def test_without_any_evidence_there_is_no_decision_however_wide_the_first_rung() -> None:
    policy = settings().policy
    all_watched = policy.ladder[0].model_copy(update={"false_per_1000_week": 1000.0})
    wide = policy.model_copy(update={"ladder": (all_watched, *policy.ladder[1:])})
    one = Judge(settings().model_copy(update={"policy": wide}), models=MODELS)
    quiet = [text_block("quiet", 1.0, score=-3.0), text_block("loud", 2.0, score=1.0, seq=1)]
    one.blocks(0, quiet, START + 3.0)
    assert [d.value for d in one.advance().decisions] == ["loud"]


def test_what_a_decision_rests_on_adds_up() -> None:
    found = [d for j in EXPECTED.values() for d in j.decisions if d.evidence is not None]
    texts = vectors = tied = 0
    for decision in found:
        evidence = decision.evidence
        assert evidence is not None
        assert evidence.log_odds is not None
        assert evidence.base is not None
        added = [signal.log_odds for signal in evidence.signals]
        assert evidence.base + math.fsum(added) == pytest.approx(evidence.log_odds, abs=1e-6)
        assert math.fsum(s.weight for s in evidence.signals) == pytest.approx(1.0)
        texts += evidence.signals[0].name.startswith(NAMES[0])
        vectors += evidence.signals[0].name.startswith("vectors.")
        tied += bool(evidence.ties)
    assert min(texts, vectors, tied) > 0


def test_an_account_in_several_populations_pays_for_its_chances() -> None:
    one = judge()
    # Evidence 0.75 is reached by 13 of 999: 14 in 1,000 in one population, 28 with a second
    # that has evidence too.
    weak = [text_block("a", 1.0, score=0.75)]
    one.blocks(0, weak, START + 2.0)
    assert one.advance().decisions
    found = dict(one.accounts())["a"]
    assert found.rates == pytest.approx({"text": found.rates["text"]})
    alone = found.rates["text"]
    one.blocks(0, [text_block("a", 2.0, score=0.75, seq=1, population="code")], START + 3.0)
    one.advance()
    assert found.rates == {"text": alone, "code": alone}


def test_an_account_that_measure_forgot_counts_from_nothing_again() -> None:
    one = judge()
    blocks = [
        text_block("a", 0.0, index=9, seq=0),
        text_block("a", 3 * WEEK, index=0, seq=1),
    ]
    one.blocks(0, blocks, START + 4 * WEEK)
    one.advance()
    hours = ring(one.campaigns.export()["traffic"][1])
    assert (hours.min(), hours.max()) == (0, 32)
    assert dict(one.accounts())["a"].events == {"text": 32}


def test_evidence_of_a_week_that_is_over_decides_nothing() -> None:
    """Also where the new week's first block cannot be judged, as one of copies."""
    rows = np.random.default_rng(5)
    one = judge()
    blocks = [
        vector_block(f"c{i}", float(i), rows=rows.normal(size=(32, 4)).astype(np.float32), seq=i)
        for i in range(40)
    ]
    far = (9.0 * rows.normal(size=(32, 4))).astype(np.float32)
    blocks.append(vector_block("thief", 50.0, rows=far, seq=40))
    one.blocks(0, blocks, START + 60.0)
    one.advance()
    assert dict(one.accounts())["thief"].rate < 0.01
    copies = vector_block(
        "thief", WEEK + 60.0, rows=np.repeat(far[:1], 32, axis=0), index=1, seq=41
    )
    texts = text_block("thief", WEEK + 90.0, score=2.0, seq=42)
    one.blocks(0, [copies, texts], START + WEEK + 100.0)
    (decision,) = one.advance().decisions[-1:]
    assert set(dict(one.accounts())["thief"].rates) == {"text"}
    assert decision.evidence is not None
    assert decision.evidence.log_odds is not None
    assert math.isfinite(decision.evidence.log_odds)


def test_the_e_value_pays_for_each_population_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.judge.e_value", lambda rate: 1.0 / rate)
    one = judge()
    first = text_block("a", 1.0, score=0.75, population="code")
    one.blocks(0, [first, damning("a", 2.0, seq=1)], START + 3.0)
    one.advance()
    found = dict(one.accounts())["a"]
    assert len(found.rates) == 2
    assert found.e_value == 1.0 / found.rate


def test_three_linked_suspects_are_a_campaign() -> None:
    one = judge()
    identity = Identity(links={"payment": "p"})
    blocks = [
        damning(f"thief-{i}", 1.0 + i, seq=i, identity=identity, sketch=sketch(i)) for i in range(3)
    ]
    one.blocks(0, blocks, START + 9.0)
    decisions = one.advance().decisions
    (name,) = one.campaigns.all()
    assert [d.campaign for d in decisions] == [None, None, name]
    assert decisions[2].params["bucket"] == f"campaign:{name}"


def test_summaries_follow_the_account() -> None:
    one = judge()
    blocks = [
        text_block("a", 1.0, score=-1.0, n=8, revision=0),
        text_block("a", 2.0, score=2.0, n=16, revision=1, seq=1),
        text_block("a", 3.0, score=3.0, revision=2, seq=2),
        text_block("a", 4.0, score=-2.0, index=1, seq=3),
    ]
    one.blocks(0, blocks, START + 5.0)
    one.advance()
    summary = dict(one.accounts())["a"]
    assert summary.blocks == 2  # revisions are the same block
    assert summary.score == -2.0
    assert summary.e_value > 0.0
    assert summary.events == {"text": 64}


# State


def test_state_of_other_settings_or_of_none_is_refused() -> None:
    full = judge(3).export()
    for other in (settings(2), settings(3).model_copy(update={"judge": JudgeSettings(tick_s=1.0)})):
        with pytest.raises(StateMismatch, match="stored judge is of"):
            Judge.restore(other, None, full, models=MODELS)
    with pytest.raises(StateMismatch, match="damaged"):
        Judge.restore(settings(3), None, full[:-9], models=MODELS)
    with pytest.raises(StateMismatch, match="damaged"):
        Judge.restore(settings(3), None, b"", models=MODELS)


def test_changes_are_smaller_than_everything() -> None:
    one = judge()
    one.blocks(
        0, [text_block(f"a{i}", 0.1 * i, seq=i, sketch=sketch(i)) for i in range(300)], START + 30.0
    )
    one.advance()
    full = one.export()
    one.blocks(0, [text_block("a1", 31.0, seq=300, index=1)], START + 32.0)
    one.advance()
    assert len(one.export_changes()) < len(full) / 5


def july() -> Baseline:
    """A thousand customers look a little like thieves, and their operator says that none is."""
    one = judge()
    blocks = [
        text_block(f"c{i}", 0.1 * i, score=(i % 5) - 2.0, seq=i, sketch=sketch(i % 50))
        for i in range(1000)
    ]
    one.blocks(0, blocks, START + 200.0)
    one.advance()
    return one.calibrated("july", 32_000, START, START + WEEK)


def test_a_baseline_of_a_clean_log_loosens_what_its_customers_showed() -> None:
    baseline = july()
    assert baseline.kinds["text"].accounts == 1000
    assert baseline.scorer == "small"
    strict, loose = judge(), Judge(settings(), baseline, models=MODELS)
    suspect = text_block("a", 1.0, score=2.0, sketch=sketch(77))
    for one in (strict, loose):
        one.blocks(0, [suspect], START + 2.0)
        one.advance()
    rates = [dict(one.accounts())["a"].rates["text"] for one in (strict, loose)]
    assert rates[1] > 10 * rates[0]
    assert loose.promise()["baseline"] == "july"
    assert loose.promise()["text"]["customers"] == 1000
    assert "own_in_shadow" not in loose.promise()["text"]


@pytest.mark.parametrize(
    ("last_ts", "least", "needs"),
    [
        (START + 0.5 * WEEK, 1000, "3.5 more days"),
        (START + WEEK, 1400, "400 more customers"),
        (START + WEEK / 7, 2000, "1,000 more customers and 6.0 more days"),
    ],
)
def test_a_small_baseline_is_in_shadow_and_says_what_it_needs(
    last_ts: float, least: int, needs: str
) -> None:
    one = Judge(settings(), models=MODELS, calibrating=True)
    blocks = [text_block(f"c-{i}", i / 10, score=2.0, seq=i) for i in range(1000)]
    one.blocks(0, blocks, START + 200.0)
    one.end(0)
    one.advance()
    baseline = one.calibrated("july", 32_000, START, last_ts)
    chosen = settings(baseline_customers=least)
    shadow, shipped = Judge(chosen, baseline, models=MODELS), judge()
    for each in (shadow, shipped):
        each.blocks(0, [damning()], START + 9.0)
    decisions = shadow.advance().decisions
    assert brief(decisions) == brief(shipped.advance().decisions) != []
    assert {d.baseline for d in decisions} == {"shipped"}
    promise = shadow.promise()
    assert promise["baseline"] == "shipped"
    assert promise["text"]["own_in_shadow"]["baseline"] == "july"
    assert promise["text"]["own_in_shadow"]["needs"] == needs
    enough = Judge(settings(baseline_customers=1, baseline_days=0.0), baseline, models=MODELS)
    assert enough.promise()["baseline"] == "july"


def test_a_baseline_of_other_models_is_in_shadow_until_it_is_made_anew() -> None:
    now = july()
    before = msgspec.structs.replace(now, scorer="older")
    found = []
    for baseline in (now, before, None):
        each = Judge(settings(), baseline, models=MODELS)
        each.blocks(0, [text_block("a", 1.0, score=2.0, sketch=sketch(7))], START + 2.0)
        each.advance()
        found.append(dict(each.accounts())["a"].rates["text"])
        if baseline is before:
            promise = each.promise()
            assert promise["baseline"] == "shipped"
            needs = "to be calibrated anew (it is of older)"
            assert promise["text"]["own_in_shadow"]["needs"] == needs
    own, other, shipped = found
    assert other == shipped
    assert own > 10 * shipped


# How many may be false


def suspicious(i: int, customers: int) -> Block:
    """One that a few in 100 customers are like."""
    seq = customers + i
    return text_block(f"suspect-{i}", 50.0 + i, score=2.0, seq=seq, sketch=sketch(900 + i))


def with_share(max_false_share: float) -> Settings:
    policy = settings().policy.model_copy(update={"max_false_share": max_false_share})
    return settings().model_copy(update={"policy": policy})


def one_by_one(max_false_share: float, suspects: int) -> tuple[Judge, Judgement]:
    """300 quiet customers, and a suspect a second from START + 50 on."""
    one = Judge(with_share(max_false_share), models=MODELS)
    quiet = [text_block(f"c-{i}", i / 300, seq=i, sketch=sketch(i)) for i in range(300)]
    blocks = [*quiet, *(suspicious(i, 300) for i in range(suspects))]
    one.blocks(0, blocks, blocks[-1].time + 0.5)
    return one, one.advance()


def test_a_share_that_may_be_false_holds_back_until_enough_are_found() -> None:
    at = {
        share: {
            d.value: d.issued_at
            for d in one_by_one(share, 40)[1].decisions
            if d.action == "throttle" and d.level == 1
        }
        for share in (1.0, 0.5)
    }
    assert len(at[0.5]) == len(at[1.0]) == 40
    first = min(at[0.5].values())
    waited = [name for name, issued in at[0.5].items() if issued == first]
    # Nobody was enforced until there were many, and then all who waited were, at once.
    assert len(waited) >= 10
    assert sorted(waited) == sorted(f"suspect-{i}" for i in range(len(waited)))
    assert min(at[1.0].values()) < first


def test_few_who_look_alike_among_many_stay_free() -> None:
    one, found = one_by_one(0.5, 3)
    assert {d.action for d in found.decisions} == {"observe"}
    share = one.promise()["max_false_share"]
    assert share["held_back"] == 3
    assert share["accounts_of_the_week"] == 303
    limits = share["false_per_1000_week_at_the_end"]
    assert limits["observe 1"] == 60.0
    assert limits["throttle 1"] < 30.0


def test_who_waits_is_remembered() -> None:
    one, before = one_by_one(0.5, 8)
    again = Judge.restore(with_share(0.5), None, one.export(), models=MODELS)
    rest = [suspicious(i, 300) for i in range(8, 40)]
    again.blocks(0, rest, rest[-1].time + 0.5)
    after = again.advance().decisions
    expected = one_by_one(0.5, 40)[1].decisions
    assert brief([*before.decisions, *after]) == brief(expected)
    assert {d.value for d in after if d.action == "throttle"} > {"suspect-0", "suspect-7"}


# The reference follows customers

DAY = 86_400.0


def days_of_customers(days: range, rising: bool, each: int = 400) -> list[Block]:
    """One block a day of everybody; in a rise, 12 % look a little like harvesting."""
    return [
        text_block(
            f"c-{i}", DAY * day + i, score=1.0 if rising and i % 8 == 0 else -2.0, index=day,
            seq=day * each + i, events=32 * (day + 1),
        )
        for day in days
        for i in range(each)
    ]  # fmt: skip


def following(rising: bool, *said: Feedback) -> tuple[Judge, list[Decision]]:
    """Seven days, in which evidence restarts daily, and a thief at the end."""
    one = Judge(settings(evidence_restart_s=DAY), models=MODELS)
    for feedback in said:
        one.command(feedback)
    blocks = [*days_of_customers(range(7), rising), damning(at=7 * DAY, seq=2800)]
    one.blocks(0, blocks, START + 7 * DAY + 9.0)
    return one, one.advance().decisions


def test_customers_as_the_reference_has_them_leave_it_alone() -> None:
    one, decisions = following(rising=False)
    assert decisions[-1].baseline == one.promise()["baseline"] == "shipped"
    assert [v["name"] for v in one.promise()["refreshed"]["versions"]] == ["shipped"]


def test_customers_who_change_move_the_thresholds_and_decisions_say_so() -> None:
    one, decisions = following(rising=True)
    refreshed = one.promise()["refreshed"]
    assert (
        decisions[-1].baseline == refreshed["active"] == f"shipped+{len(refreshed['versions']) - 1}"
    )
    shift = refreshed["log_odds_above_the_reference"]
    assert 0.2 < shift <= refreshed["at_most"]
    ticks = [version["tick"] for version in refreshed["versions"]]
    assert ticks == sorted(ticks)
    # The same evidence is that much less of a surprise.
    calm, _ = following(rising=False)
    suspects = [
        text_block("s", 7 * DAY + 10.0, score=3.0, seq=2801, sketch=sketch(3)),
        text_block("s", 7 * DAY + 20.0, score=3.0, index=1, seq=2802, sketch=sketch(3)),
    ]
    for each in (one, calm):
        each.blocks(0, suspects, START + 8 * DAY - 9.0)
        each.advance()
    risen, quiet = (dict(each.accounts())["s"].rates["text"] for each in (one, calm))
    assert risen > quiet


def test_a_version_that_was_asked_for_is_kept() -> None:
    back = SetBaseline(id="b", by="me", at=START + 4.5 * DAY, version="shipped")
    one, decisions = following(True, back)
    assert decisions[-1].baseline == "shipped"
    refreshed = one.promise()["refreshed"]
    assert refreshed["held"] is True
    assert len(refreshed["versions"]) >= 3
    again = SetBaseline(id="a", by="me", at=START + 5.5 * DAY)
    one, decisions = following(True, back, again)
    assert decisions[-1].baseline.startswith("shipped+")


def test_versions_survive_a_restart() -> None:
    whole_run, expected = following(rising=True)
    blocks = [*days_of_customers(range(7), True), damning(at=7 * DAY, seq=2800)]
    first = Judge(settings(evidence_restart_s=DAY), models=MODELS)
    first.blocks(0, blocks[:1700], blocks[1699].time)
    before = first.advance().decisions
    full = first.export()
    again = Judge.restore(settings(evidence_restart_s=DAY), None, full, models=MODELS)
    again.blocks(0, blocks[1700:], START + 7 * DAY + 9.0)
    after = again.advance().decisions
    assert brief([*before, *after]) == brief(expected)
    assert again.promise()["refreshed"] == whole_run.promise()["refreshed"]


def test_of_commands_the_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.judge._COMMANDS_KNOWN", 3)
    one = judge()
    for i in range(6):
        one.command(clear(None, f"c{i}"))
    assert unpack("judge", 2, one.export())["commanded"] == ["c3", "c4", "c5"]


def test_other_models_begin_the_references_versions_anew() -> None:
    before, _ = following(rising=True)
    assert before.promise()["refreshed"]["log_odds_above_the_reference"] > 0.0
    others = replace(MODELS, text=replace(MODELS.text, name="other"))
    full = before.export()
    after = Judge.restore(settings(evidence_restart_s=DAY), None, full, models=others)
    refreshed = after.promise()["refreshed"]
    assert refreshed["log_odds_above_the_reference"] == 0.0
    assert refreshed["unsuspected_account_weeks"] == 0
    assert refreshed["active"] == "shipped"


def test_evidence_of_a_population_ends_with_its_week_though_the_account_goes_on_elsewhere() -> None:
    one = judge()
    damned = text_block("a", 1.0, score=5.0, population="code")
    innocent = text_block("a", 700_000.0, score=-2.0, seq=1)
    one.blocks(0, [damned, innocent], START + 700_001.0)
    decisions = one.advance().decisions
    assert decisions
    assert all(decision.issued_at < START + 10.0 for decision in decisions)
    assert dict(one.accounts())["a"].rates == {}
