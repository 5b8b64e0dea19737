"""Evidence about accounts that send vectors: company, and going on after a restart."""

from __future__ import annotations

from importlib import resources

import msgspec
import numpy as np
import pytest

from detector.blocks import Block
from detector.vector_evidence import VectorEvidence
from detector.vector_model import VectorModel
from tests.detector.test_vectors import DIMS, HOUR, block, customer_rows

WEEK = 604_800.0


@pytest.fixture(scope="module")
def model() -> VectorModel:
    with resources.as_file(resources.files("detector") / "models" / "vector.npz") as path:
        return VectorModel.load(path)


def take(evidence: VectorEvidence, one: Block) -> float:
    evidence.take(one)
    evidence.learn(one)
    return evidence.of(one.account)


def packed(evidence: VectorEvidence) -> bytes:
    return msgspec.msgpack.encode(evidence.export())


def settled(model: VectorModel) -> VectorEvidence:
    """What thirty customers with two blocks each leave behind."""
    rng = np.random.default_rng(1)
    evidence = VectorEvidence(DIMS, model, WEEK)
    for index in range(2):
        for a in range(30):
            rows, labels = customer_rows(rng, 32)
            time = (30 * index + a) * HOUR
            take(evidence, block(f"customer-{a}", rows, labels, index=index, time=time))
    return evidence


def test_goes_on_alike_after_a_restart(model: VectorModel) -> None:
    rng = np.random.default_rng(2)
    evidence = settled(model)
    restored = VectorEvidence(DIMS, model, WEEK)
    restored.restore(msgspec.msgpack.decode(packed(evidence)))
    for i in range(30):
        strange = rng.uniform(0.0, 20.0, (32, DIMS)).astype(np.float32)
        rows, labels = customer_rows(rng, 32)
        for one in (
            block(f"thief-{i % 12}", strange, index=i // 12, time=(70.0 + i) * HOUR),
            block(f"customer-{i}", rows, labels, index=2, time=(70.0 + i) * HOUR),
        ):
            assert take(restored, one) == take(evidence, one)
    assert packed(restored) == packed(evidence)


def test_revisions_of_a_first_block_replace_each_other(model: VectorModel) -> None:
    rows, labels = customer_rows(np.random.default_rng(3), 32)
    once, growing = settled(model), settled(model)
    take(once, block("new", rows, labels, time=70.0 * HOUR))
    for revision, n in enumerate((8, 16, 32)):
        growing.take(block("new", rows[:n], labels[:n], revision=revision, time=70.0 * HOUR))
    histories = [one.export()["histories"]["new"] for one in (once, growing)]
    assert histories[0]["scores"] == histories[1]["scores"]
    assert histories[0]["first_total"] == histories[1]["first_total"]
    assert histories[1]["blocks"] == 1


def test_thieves_who_come_one_by_one_have_evidence_and_customers_less(model: VectorModel) -> None:
    rng = np.random.default_rng(4)
    evidence = settled(model)
    thieves, customers = [], []
    for i in range(12):
        strange = rng.uniform(0.0, 20.0, (32, DIMS)).astype(np.float32)
        rows, labels = customer_rows(rng, 32)
        time = (70.0 + i) * HOUR
        evidence.take(block(f"thief-{i}", strange, labels, time=time))
        evidence.suspect(f"thief-{i}")
        thieves.append(evidence.of(f"thief-{i}"))
        customers.append(take(evidence, block(f"late-{i}", rows, labels, time=time)))
    assert min(thieves) > max(customers)


def test_a_baselines_evidence_is_of_whole_weeks_where_there_are_some(model: VectorModel) -> None:
    rng = np.random.default_rng(6)
    evidence = VectorEvidence(DIMS, model, WEEK, whole_weeks=True)
    evidence.restore(settled(model).export())
    before = evidence.evidence
    assert len(before) == 30
    rows, labels = customer_rows(rng, 32)
    take(evidence, block("customer-0", rows, labels, index=2, time=WEEK + 2 * HOUR))
    assert evidence.of("customer-0") != before[0]
    assert evidence.evidence == before
