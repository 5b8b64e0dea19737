"""A run against an API that is written down: who asks when, and what is noted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from detector.attack.api import Account, Outcome
from detector.attack.campaign import Plan, Run, Unreachable, run
from detector.attack.strategies import Input, Strategy

ACCOUNTS = [Account(number, {}) for number in (1, 2)]
FIELDS = frozenset({".label", ".logprobs"})


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Scripted:
    """An API whose answer is a function of account and request number of that account."""

    def __init__(self, answer: Callable[[int, int, Input], Outcome]) -> None:
        self._answer = answer
        self.asked: list[tuple[int, Input]] = []

    def ask(self, account: Account, given: Input) -> Outcome:
        self.asked.append((account.number, given))
        count = sum(number == account.number for number, _ in self.asked)
        return self._answer(account.number, count, given)


def numbers() -> Strategy:
    """Asks 0, 1, 2 … in batches of four."""
    first = 0
    while True:
        labels = yield [[float(first + i)] for i in range(4)]
        assert labels == [f"label {first + i}" for i in range(4)]
        first += 4


def given(value: Input, shape: frozenset[str] = FIELDS) -> Outcome:
    assert not isinstance(value, str)
    return Outcome("answered", 200, f"label {value[0]:.0f}", shape)


def attacked(
    answer: Callable[[int, int, Input], Outcome],
    answers: int = 20,
    requests: int = 200,
    seconds: float = 1e6,
    accounts: Sequence[Account] = ACCOUNTS,
) -> tuple[Run, Scripted, Clock]:
    api, clock = Scripted(answer), Clock()
    plan = Plan(answers, requests, 0.5, seconds)
    found = run(api, accounts, numbers(), plan, clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]
    return found, api, clock


def test_everything_is_asked_once_beside_the_probes() -> None:
    found, _, _ = attacked(lambda account, count, value: given(value))
    assert found.inputs == [[float(i)] for i in range(20)]
    assert found.labels == [f"label {i}" for i in range(20)]
    assert found.sent == 22  # a probe of each account
    assert found.before is None
    assert not any(found.reached.values())


def test_a_refused_input_is_asked_again_by_the_next_account() -> None:
    def answer(account: int, count: int, value: Input) -> Outcome:
        throttled = account == 1 and count > 3
        return Outcome("throttled", 429, wait_s=1e9) if throttled else given(value)

    found, api, _ = attacked(answer)
    assert found.labels == [f"label {i}" for i in range(20)]
    assert found.reached["throttled"] == {1: 4}
    assert [number for number, _ in api.asked].count(1) == 4  # it waits as it was told
    # Two accounts took turns: two probes, and two answers of each before the fourth of account 1.
    assert found.before == 4


def test_an_account_waits_for_its_retry_after() -> None:
    def answer(account: int, count: int, value: Input) -> Outcome:
        return given(value) if count != 2 else Outcome("throttled", 429, wait_s=500.0)

    found, _, clock = attacked(answer, answers=3, accounts=ACCOUNTS[:1])
    assert clock.now > 600.0
    assert len(found.labels) == 3


def test_without_retry_after_an_account_rests_ever_longer() -> None:
    def answer(account: int, count: int, value: Input) -> Outcome:
        return given(value) if count < 3 else Outcome("blocked", 403)

    found, _, _ = attacked(answer, seconds=1000.0, accounts=ACCOUNTS[:1])
    # Refused at about 1 s, then after 60, 120, 240 and 480 s more; the next would be at 1,860 s.
    assert found.outcomes["blocked"] == 5
    assert found.reached["blocked"] == {1: 3}


@pytest.mark.parametrize(
    "poisoned",
    [
        lambda value: Outcome("answered", 200, "wrong", FIELDS),
        lambda value: given(value, frozenset({".label"})),
    ],
    ids=["another label", "a field withheld"],
)
def test_a_probe_whose_answer_changes_shows_poison(poisoned: Callable[[Input], Outcome]) -> None:
    def answer(account: int, count: int, value: Input) -> Outcome:
        changed = account == 2 and value == [0.0] and count > 1
        return poisoned(value) if changed else given(value)

    found, _, _ = attacked(answer, answers=80)
    # Account 2 probes again when 25 of its requests have been answered.
    assert found.reached["poisoned"] == {2: 26}


def test_the_run_ends_with_its_requests() -> None:
    found, _, _ = attacked(
        lambda account, count, value: Outcome("throttled", 429, wait_s=0.1), requests=7
    )
    assert found.sent == 7
    assert found.labels == []
    assert found.before == 0


def test_a_target_that_is_not_there_is_said_to_be_away() -> None:
    with pytest.raises(Unreachable, match="no connection"):
        attacked(lambda account, count, value: Outcome("failed", 0))


def test_a_few_failures_between_answers_are_borne() -> None:
    def answer(account: int, count: int, value: Input) -> Outcome:
        return Outcome("failed", 503) if count % 3 == 0 else given(value)

    found, _, _ = attacked(answer)
    assert found.labels == [f"label {i}" for i in range(20)]


def test_the_median_is_over_the_accounts_that_came_so_far() -> None:
    found = Run()
    assert found.requests_until("blocked") is None
    found.reached["blocked"] = {1: 10, 2: 40, 5: 20}
    assert found.requests_until("blocked") == 20.0


def test_progress_is_told_after_every_request() -> None:
    told: list[int] = []
    clock = Clock()
    run(
        Scripted(lambda account, count, value: given(value)),  # type: ignore[arg-type]
        ACCOUNTS,
        numbers(),
        Plan(5, 50, 0.5, 1e6),
        told=lambda found: told.append(found.sent),
        clock=clock,
        sleep=clock.sleep,
    )
    assert told == list(range(1, 8))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seconds: float) -> None:
        raise AssertionError("the machine's clock was waited for")

    monkeypatch.setattr("time.sleep", refuse)
