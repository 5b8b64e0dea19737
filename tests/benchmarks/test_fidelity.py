"""The fidelity benchmark: who is dealt what, what a gateway does when, and that figures add up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks.fidelity import extraction, gateway, report, strategies, victims
from benchmarks.fidelity.benchmark import Cell, Point, Size, VictimResult, run
from benchmarks.fidelity.customers import DAY, crowd
from benchmarks.fidelity.extraction import Haul, Plan, Street
from benchmarks.fidelity.gateway import LOG_START, Api, Request
from benchmarks.fidelity.victims import TableVictim, TextVictim
from detector.events import Event
from detector.judge import Judgement, Models
from responders.decisions import Decision
from tests.benchmarks.tiny_sources import write_sources
from tests.responders.making import decision

START_DAY = 1.5


@pytest.fixture(scope="module")
def models() -> Models:
    return Models.shipped()


@pytest.fixture(scope="module")
def table() -> TableVictim:
    return victims.breast_cancer(np.random.default_rng(1))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextVictim:
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    loaded = victims.load("intents", folder, np.random.default_rng(1))
    assert isinstance(loaded, TextVictim)
    return loaded


@pytest.fixture(params=["table", "text"])
def victim(request: pytest.FixtureRequest) -> TableVictim | TextVictim:
    chosen: TableVictim | TextVictim = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(scope="module")
def street(table: TableVictim) -> Street:
    return Street(crowd(table, np.random.default_rng(2), customers=40, days=2.5))


@pytest.fixture(scope="module")
def haul(table: TableVictim) -> Haul:
    asked = strategies.uniform(table, np.random.default_rng(3), 150)
    return extraction.undefended(table, asked, 150)


def stolen(
    api: Api, street: Street, haul: Haul, accounts: int, days: float = 0.5
) -> tuple[extraction.Extraction, Street]:
    """A thief on the second day of a street, 20 s between requests."""
    passing = street.copied()
    found = extraction.extract(
        api,
        passing,
        haul,
        Plan(accounts, gap_s=20.0, seconds=days * DAY),
        START_DAY * DAY,
        np.random.default_rng(4),
        "thief",
    )
    return found, passing


def test_what_is_answered_and_what_is_refused_is_what_was_sent(
    table: TableVictim, street: Street, haul: Haul, models: Models
) -> None:
    with Api(table.name, "vector", models) as api:
        found, _ = stolen(api, street, haul, accounts=2)

        assert found.refused  # otherwise this would say nothing
        assert len(found.given_at) + sum(found.refused.values()) == found.sent
        assert sum(found.given.values()) == len(found.given_at) == len(found.early)
        assert found.given_at == sorted(set(found.given_at))
        assert sum(n for n in found.before if n is not None) == sum(found.early)


def test_with_enforcement_off_a_thief_gets_what_the_bare_model_gives(
    table: TableVictim, street: Street, haul: Haul, models: Models
) -> None:
    with Api(table.name, "vector", models, mode="off") as api:
        found, passing = stolen(api, street, haul, accounts=2)

        assert api.enforced  # decisions are made, and obeyed by nobody
        assert found.sent == len(haul.labels)
        assert found.given_at == list(range(1, found.sent + 1))
        assert passing.refused == 0


def test_an_api_goes_on_from_a_snapshot_as_if_nothing_had_been(
    table: TableVictim, street: Street, haul: Haul, models: Models
) -> None:
    with Api(table.name, "vector", models) as api:
        early = street.copied()
        early.until(api, START_DAY * DAY)
        snapshot = api.snapshot()
        straight = stolen(api, early, haul, accounts=1)[0]
        api.go_on(snapshot)

        assert stolen(api, early, haul, accounts=1)[0] == straight


class ScriptedPipeline:
    """Answers the first event with given decisions."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self._left = list(decisions)
        self.fed: list[Event] = []

    def feed(self, events: Sequence[Event]) -> Judgement:
        self.fed += events
        given, self._left = self._left, []
        return Judgement(decisions=given)

    def silence(self) -> Judgement:
        return Judgement()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, models: Models) -> Iterator[Scripted]:
    made = Scripted(monkeypatch, models)
    yield made
    made.close()


class Scripted:
    """An API whose detector decides as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, models: Models) -> None:
        self._monkeypatch, self._models = monkeypatch, models
        self._api: Api | None = None

    def api(self, *decisions: Decision) -> tuple[Api, ScriptedPipeline]:
        pipeline = ScriptedPipeline(decisions)
        self._monkeypatch.setattr(gateway, "Pipeline", lambda settings, models: pipeline)
        self._api = Api("model", "text", self._models)
        return self._api, pipeline

    def close(self) -> None:
        if self._api is not None:
            self._api.__exit__(None, None, None)


def asked(after: float, account: str = "acct-1") -> Request:
    """A request so many seconds after the log's start."""
    return Request(LOG_START + after, account, "hello", 1, 0.9)


def decided(issued_after: float, **changes: Any) -> Decision:
    """An enforced throttle of acct-1, issued so long after the log's start, for a minute."""
    issued_at = LOG_START + issued_after
    return decision(issued_at=issued_at, expires_at=issued_at + 60.0, **changes)


def test_a_decision_holds_from_when_it_was_issued_until_it_expires(scripted: Scripted) -> None:
    api, _ = scripted.api(decided(5.0, action="block", params={}))

    given = [api.ask(asked(t)).given for t in (1.0, 4.5, 6.0, 64.0, 66.0)]

    assert given == [True, True, False, False, True]
    assert api.enforced == {"acct-1": LOG_START + 5.0}


def test_a_throttled_account_gets_its_burst_and_is_told_when_to_come_back(
    scripted: Scripted,
) -> None:
    # Six a minute, three at once: 10 s an answer.
    api, _ = scripted.api(decided(1.0))
    api.ask(asked(0.0))

    outcomes = [api.ask(asked(2.0 + t / 10)) for t in range(5)]

    assert [o.status for o in outcomes] == [200, 200, 200, 429, 429]
    wait = outcomes[3].wait_s
    assert wait is not None
    assert 10.0 <= wait <= 15.0  # and up to half of it again, so that not all come back at once
    assert api.ask(asked(2.3 + wait)).given


def test_other_accounts_are_answered(scripted: Scripted) -> None:
    api, _ = scripted.api(decided(1.0, action="block", params={}))
    api.ask(asked(0.0))

    assert not api.ask(asked(3.0)).given
    assert api.ask(asked(3.1, "acct-2")).given


def test_the_detector_reads_of_a_request_when_it_has_ended(scripted: Scripted) -> None:
    api, pipeline = scripted.api(decided(0.0, action="block", params={}))

    api.ask(asked(1.0))
    assert pipeline.fed == []
    api.ask(asked(2.0))
    api.until(LOG_START + 3.0)

    served, refused = pipeline.fed
    assert (served.served, served.status) == (True, 200)
    assert served.output is not None
    assert served.output.label == "1"
    assert (refused.served, refused.status, refused.output) == (False, 403, None)


def test_customers_thief_and_comparison_share_no_text(text: TextVictim) -> None:
    rng = np.random.default_rng(0)
    bodies = {
        share: {
            words
            for sent in text.ordinary(rng, 400, share).sent
            if isinstance(sent, str)
            # The middle is what the voice left alone.
            for words in [" ".join(sent.lower().rstrip(".").split()[2:5])]
        }
        for share in ("customers", "thief")
    }

    assert bodies["customers"]
    assert not bodies["customers"] & bodies["thief"]


def test_a_text_victim_learns_its_intents() -> None:
    rng = np.random.default_rng(0)
    own = {
        f"intent-{i}": [f"w{i} v{i}" + "".join(f" c{n}" for n in rng.integers(9, size=3))] * 40
        for i in range(12)
    }
    learned = TextVictim("intents", own, ["nothing of the kind"] * 40, rng)

    assert learned.accuracy > 0.9
    assert extraction.baseline(learned) < 0.2


def test_rows_lie_in_the_published_ranges_at_their_resolution(table: TableVictim) -> None:
    rng = np.random.default_rng(0)
    for requests in (table.uniform(rng, 50), table.public(rng, 50)):
        assert (requests.features >= table.low).all()
        assert (requests.features <= table.high).all()
        assert_allclose(requests.features, np.array(requests.sent), rtol=0, atol=0)
        # The first column of the recorded table has at most three digits.
        assert_allclose(requests.features[:, 0], np.round(requests.features[:, 0], 3), atol=1e-9)


def test_every_strategy_asks_as_often_as_it_may(victim: TableVictim | TextVictim) -> None:
    for ask in strategies.of(victim).values():
        found = extraction.undefended(victim, ask(victim, np.random.default_rng(5), 120), 120)
        labels, _ = victim.answers(found.requests.features)

        assert len(found.requests) == len(found.labels) == len(found.confidence) == 120
        assert found.labels.tolist() == labels.tolist()


def test_active_learning_asks_what_its_copy_is_least_sure_of(table: TableVictim) -> None:
    asking = strategies.active(table, np.random.default_rng(6), 300)
    first = next(asking)
    labels = table.answers(first.features)[0]
    second = asking.send(labels)
    copy = victims.fitted(table.copy, first.features, labels)

    def margins(requests: victims.Requests) -> list[float]:
        return [abs(one - other) for one, other in copy.predict_proba(requests.features)]

    ordinary = table.ordinary(np.random.default_rng(7), 300, "thief")
    assert np.median(margins(second)) < np.quantile(margins(ordinary), 0.35)


def test_a_crowd_comes_in_order_with_the_answers_it_is_due(
    victim: TableVictim | TextVictim,
) -> None:
    traffic = crowd(victim, np.random.default_rng(9), customers=20, days=2.0)

    assert traffic.times == sorted(traffic.times)
    assert traffic.times[0] >= 0.0
    assert traffic.times[-1] <= 2.0 * DAY
    assert set(traffic.who) == set(range(20))
    assert traffic.labels == victim.answers(traffic.requests.features)[0].tolist()


def test_without_an_answer_there_is_only_the_baseline(table: TableVictim) -> None:
    nothing = np.empty((0, table.held_out[0].shape[1]))
    commonest = np.bincount(table.held_out[1]).max() / len(table.held_out[1])

    assert extraction.agreement(table, nothing, np.empty(0, dtype=np.int64)) == commonest


def test_the_benchmark_adds_up_and_is_written(tmp_path: Path) -> None:
    size = Size(customers=40, accounts=(1,), answers=100, days=2.0, thief_days=0.2, start_day=1.5)

    (result,) = run(["breast_cancer"], None, 1, size)
    report.write([result], tmp_path)

    assert [cell.strategy for cell in result.cells] == [
        "random",
        "natural_pool",
        "uniform",
        "jbda",
        "active",
    ]
    for cell in result.cells:
        answers = sum(cell.given.values())
        assert answers + sum(cell.refused.values()) == cell.sent
        assert cell.at_end.answers == answers
        assert cell.at_enforcement.answers <= answers
        assert cell.curve[64].answers <= 64
        if cell.curve[64].answers == 64:
            assert cell.curve[64].agreement == cell.undefended[64]
        assert [point.answers for point in cell.by_hour.values()] == sorted(
            point.answers for point in cell.by_hour.values()
        )
        assert cell.customers_seen <= 40
    assert {file.name for file in tmp_path.iterdir()} == {
        "results.json",
        "report.md",
        "breast_cancer.png",
    }


def made(share: float, strategy: str = "jbda", seed: int = 1, least: float = 0.1) -> VictimResult:
    """A result in which so much of the gain is left at enforcement."""
    cell = Cell(
        strategy=strategy,
        accounts=10,
        seed=seed,
        gap_s=10.0,
        undefended={100: 0.5, 250: 0.9},
        curve={100: Point(90, 0.4, 0.5), 250: Point(120, 0.6, 0.6)},
        undefended_by_hour={1.0: 0.9},
        by_hour={1.0: Point(95, 0.45, 0.5)},
        soonest=Point(80, 0.3, least),
        at_enforcement=Point(90, 0.4, share),
        at_end=Point(120, 0.6, 0.6),
        sent=260,
        refused={"throttle": 140},
        given={"allow": 90, "throttle": 30},
        hours=12.0,
        hours_undefended=0.7,
        enforced_accounts=10,
        answers_before=9.0,
        customers_seen=30,
        customers_enforced=1,
        customers_refused=4,
    )
    return VictimResult(
        victim="letter",
        seed=seed,
        kind="vector",
        classes=26,
        accuracy=0.9,
        baseline=0.05,
        customers=40,
        customer_events=4000,
        alone_enforced=2,
        cells=[cell],
    )


def test_the_page_holds_the_mean_over_seeds_against_the_aim() -> None:
    page = report.markdown([made(0.1), made(0.28, seed=2)])

    assert "1 of 1 rows.\n" in page  # the mean is .19
    assert "0 of 1 rows. Missed:\n\n- letter jbda x10: 0.25\n" in report.markdown([made(0.25)])
    assert "| letter | jbda | without | 0.500 | 0.900 |" in page
    assert "| letter | jbda | 10 | 0.450 |" in page
    assert "| letter | 60 over 2 extractions | 2 | 8 | 4 of 80 |" in page


def test_the_page_says_when_the_aim_cannot_be_met() -> None:
    page = report.markdown([made(0.5, least=0.3)])

    assert "letter jbda x10: 0.50 (beyond reach: 0.30 by the first blocks)" in page


def test_the_page_counts_no_other_strategy_against_the_aim() -> None:
    assert "No strategy of the aim was run" in report.markdown([made(0.9, "natural_pool")])
