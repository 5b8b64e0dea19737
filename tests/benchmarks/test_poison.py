"""The benchmark of poison: who is told what, that it adds up, and what the guard is asked."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits
from velvetrope_client import profile

from benchmarks.fidelity import poison, victims
from benchmarks.fidelity.poison import CONFIGURATIONS, Size, VictimResult
from benchmarks.fidelity.victims import TableVictim
from benchmarks.guard.probes import PROBES
from benchmarks.speed import rewriting

SIZE = Size(120, ("random", "natural_pool"), ("label", "probabilities", "repeats", "accounts"))


@pytest.fixture(scope="module")
def victim() -> TableVictim:
    return victims.breast_cancer(np.random.default_rng(1))


@pytest.fixture(scope="module")
def result(victim: TableVictim) -> VictimResult:
    with threadpool_limits(1):
        return poison.run(victim, 1, SIZE)


def agreement(result: VictimResult, configuration: str, reader: str) -> float:
    (found,) = (
        copy.agreement
        for copy in result.copies
        if (copy.configuration, copy.strategy, copy.reader) == (configuration, "random", reader)
    )
    return found


def test_every_copy_is_counted(result: VictimResult) -> None:
    assert len(result.copies) == poison.count("breast_cancer", SIZE)


def test_asking_again_makes_the_same_copy(result: VictimResult) -> None:
    for configuration in CONFIGURATIONS:
        assert agreement(result, configuration, "repeats") == agreement(
            result, configuration, "label"
        )


@pytest.mark.parametrize("configuration", CONFIGURATIONS[:5])
def test_a_customers_labels_are_right_at_all_but_wrong(
    result: VictimResult, configuration: str
) -> None:
    (customer,) = (c for c in result.customers if c.configuration == configuration)
    assert (customer.accuracy_lost, customer.changed) == (0.0, 0.0)


def test_labels_stay_at_all_but_wrong(victim: TableVictim) -> None:
    region = profile.fit(victim.examples)
    asked = victim.public(np.random.default_rng(2), 60)
    own, _ = victim.answers(asked.features)
    for configuration in CONFIGURATIONS:
        told, _ = poison._Api(victim, configuration, region).ask(asked)
        same = bool((told == own).all())
        assert same is (configuration != "wrong"), configuration


def test_a_page_has_a_row_for_each_copy_and_two_for_the_customer(result: VictimResult) -> None:
    rows = [line for line in poison.markdown([result]).splitlines() if line.startswith("| breast")]
    assert len(rows) == 5 + 2


def test_probes_are_as_many_of_each_kind_and_no_two_alike() -> None:
    assert {len(texts) for texts in PROBES.values()} == {40}
    assert len({text for texts in PROBES.values() for text in texts}) == 120


def test_every_kind_of_rewriting_takes_some_time() -> None:
    assert all(took > 0.0 for took in rewriting.measure(rounds=20).values())
