"""A block of vectors against the customers of its population."""

from __future__ import annotations

from importlib import resources

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from detector.blocks import Block, Identity
from detector.vector_kernels import FEATURES
from detector.vector_model import PLAIN_WORDS, VectorModel
from detector.vectors import (
    MAX_ROWS,
    ROWS_PER_ACCOUNT,
    ROWS_PER_HOUR,
    SHARE_PER_HOUR,
    TRAIL_ROWS,
    VectorPopulation,
)

Rows = NDArray[np.float32]
DIMS = 12
HOUR = 3600.0


@pytest.fixture(scope="module")
def model() -> VectorModel:
    with resources.as_file(resources.files("detector") / "models" / "vector.npz") as path:
        return VectorModel.load(path)


def customer_rows(rng: np.random.Generator, n: int, dims: int = DIMS) -> tuple[Rows, list[str]]:
    """Counts that depend on three classes and on two factors that the dimensions share."""
    ways = np.random.default_rng(7)
    centres, loadings = ways.normal(size=(3, dims)) * 1.5, ways.normal(size=(2, dims))
    classes = rng.integers(0, 3, n)
    x = centres[classes] + rng.normal(size=(n, 2)) @ loadings + 0.4 * rng.normal(size=(n, dims))
    return np.round(4.0 * np.maximum(x, 0.0)).astype(np.float32), [str(c) for c in classes]


def block(
    account: str,
    rows: Rows,
    labels: list[str] | None = None,
    *,
    index: int = 0,
    time: float = 0.0,
    revision: int = 2,
) -> Block:
    n = len(rows)
    return Block(
        partition=0,
        seq=0,
        time=time,
        account=account,
        population="vector:m",
        kind="vector",
        index=index,
        revision=revision,
        n=n,
        events=32 * index + n,
        refused=0,
        first_ts=time,
        last_ts=time,
        features=b"",
        sketch=b"",
        minhash=b"",
        heads=(),
        identity=Identity(),
        dims=rows.shape[1],
        vectors=np.ascontiguousarray(rows, dtype="<f4").tobytes(),
        labels=tuple(labels) if labels is not None else ("",) * n,
    )


def populated(model: VectorModel, accounts: int = 30, blocks: int = 2) -> VectorPopulation:
    """A population that has seen `accounts` customers, one an hour."""
    rng = np.random.default_rng(1)
    population = VectorPopulation(DIMS, model)
    for index in range(blocks):
        for a in range(accounts):
            rows, labels = customer_rows(rng, 32)
            time = (index * accounts + a) * HOUR
            one = block(f"customer-{a}", rows, labels, index=index, time=time)
            population.observe(one)
            population.remember(one)
    return population


def packed(population: VectorPopulation) -> bytes:
    return msgspec.msgpack.encode(population.export())


def scores(population: VectorPopulation, made: list[Block]) -> list[float]:
    found = [population.score(one) for one in made]
    assert None not in found
    return [score for score in found if score is not None]


@pytest.fixture(scope="module")
def settled(model: VectorModel) -> VectorPopulation:
    """Only to be asked, never changed."""
    return populated(model)


def test_unlike_inputs_score_above_every_customer(settled: VectorPopulation) -> None:
    rng = np.random.default_rng(2)
    ordinary = [block(f"new-{i}", *customer_rows(rng, 32)) for i in range(40)]
    pool, _ = customer_rows(rng, 400)
    shuffled = np.stack([rng.permutation(pool[:, k]) for k in range(DIMS)], axis=1)
    uniform = rng.uniform(0.0, pool.max(), (32, DIMS)).astype(np.float32)
    highest = max(scores(settled, ordinary))
    assert scores(settled, [block("shuffle", shuffled[:32])])[0] > highest
    assert scores(settled, [block("uniform", uniform)])[0] > highest


def test_answers_help_but_are_not_needed(settled: VectorPopulation) -> None:
    rng = np.random.default_rng(3)
    pool, answers = customer_rows(rng, 32)
    strange = rng.uniform(0.0, pool.max(), (32, DIMS)).astype(np.float32)
    named, bare = scores(settled, [block("t", strange, answers), block("u", strange)])
    assert named > 0.0
    assert bare > 0.0


def test_says_nothing_before_it_knows_customers(model: VectorModel) -> None:
    rng = np.random.default_rng(4)
    population = VectorPopulation(DIMS, model)
    for a in range(4):
        for index in range(6):
            rows, labels = customer_rows(rng, 32)
            population.observe(block(f"customer-{a}", rows, labels, index=index))
    rows, labels = customer_rows(rng, 32)
    assert population.score(block("new", rows, labels)) is None
    assert population.signals(block("new", rows, labels)) == []


@pytest.mark.parametrize("distinct", [1, 3, 15])
def test_skips_blocks_of_repeated_inputs(settled: VectorPopulation, distinct: int) -> None:
    rows, labels = customer_rows(np.random.default_rng(5), distinct)
    again = np.arange(32) % distinct
    assert settled.score(block("monitor", rows[again], [labels[i] for i in again])) is None


def test_skips_blocks_of_another_width(settled: VectorPopulation) -> None:
    rows, labels = customer_rows(np.random.default_rng(6), 32, dims=DIMS + 1)
    assert settled.score(block("wide", rows, labels)) is None


def test_the_same_calls_give_the_same_scores(model: VectorModel) -> None:
    rng = np.random.default_rng(8)
    asked = [block("a", *customer_rows(rng, n)) for n in (8, 16, 32)]
    first, second = populated(model), populated(model)
    assert scores(first, asked) == scores(second, asked)


def test_scoring_leaves_no_trace(model: VectorModel) -> None:
    rng = np.random.default_rng(9)
    asked = [block(f"a{i}", *customer_rows(rng, 32)) for i in range(5)]
    quiet, busy = populated(model), populated(model)
    scores(busy, asked)
    busy.signals(asked[0])
    assert packed(busy) == packed(quiet)


def test_own_rows_are_left_out(model: VectorModel) -> None:
    rng = np.random.default_rng(17)
    population = populated(model)
    alone = [np.round(30.0 + rng.normal(size=(32, DIMS))).astype(np.float32) for _ in range(3)]
    population.observe(block("lonely", alone[0]))
    population.observe(block("lonely", alone[1], index=1))
    mine = population.measure(block("lonely", alone[2], index=2))
    theirs = population.measure(block("somebody", alone[2]))
    assert mine is not None
    assert theirs is not None
    assert mine[FEATURES.index("distance")] > theirs[FEATURES.index("distance")] + 1.0


def test_goes_on_alike_after_a_restart(model: VectorModel) -> None:
    rng = np.random.default_rng(10)
    population = populated(model)
    population.trim({"customer-3"})
    restored = VectorPopulation.restore(msgspec.msgpack.decode(packed(population)), model)
    assert packed(restored) == packed(population)
    for i in range(80):
        rows, labels = customer_rows(rng, 32)
        one = block(f"customer-{i % 35}", rows, labels, index=2 + i, time=(100.0 + i) * HOUR)
        assert restored.score(one) == population.score(one)
        for each in (restored, population):
            each.observe(one)
            each.remember(one)
    assert packed(restored) == packed(population)


def test_refuses_another_versions_state(model: VectorModel) -> None:
    state = {**populated(model, accounts=2).export(), "version": 99}
    with pytest.raises(ValueError, match="version 99"):
        VectorPopulation.restore(state, model)


def test_trimmed_accounts_teach_nothing(model: VectorModel) -> None:
    rng = np.random.default_rng(11)
    population = populated(model)
    strange = rng.uniform(0.0, 20.0, (600, DIMS)).astype(np.float32)
    asked = block("asked", strange[:32])
    before = scores(population, [asked])[0]
    thieves = [f"thief-{i}" for i in range(15)]
    for i, name in enumerate(thieves):
        own = strange[32 + 32 * i : 64 + 32 * i]
        population.observe(block(name, own, time=(200.0 + i) * HOUR))
    fooled = scores(population, [asked])[0]
    population.trim(thieves)
    after = scores(population, [asked])[0]
    assert fooled < before
    assert after == pytest.approx(before, rel=0.1)
    state = population.export()
    assert not {row[1] for row in state["rows"]} & set(thieves)
    assert not {row[1] for part in state["references"] for row in part} & set(thieves)


def test_one_hours_newcomers_cannot_become_the_population(model: VectorModel) -> None:
    rng = np.random.default_rng(12)
    population = populated(model)
    for i in range(100):
        strange = rng.uniform(0.0, 20.0, (32, DIMS)).astype(np.float32)
        population.observe(block(f"rush-{i}", strange, time=500.0 * HOUR + i))
    frame = population.export()["frame"]
    rushed = sum(row[1].startswith("rush") for row in frame)
    assert 0 < rushed <= ROWS_PER_HOUR


def test_who_came_first_does_not_stay_the_population(model: VectorModel) -> None:
    rng = np.random.default_rng(18)
    population = VectorPopulation(DIMS, model)
    for i in range(20):
        strange = rng.uniform(0.0, 20.0, (32, DIMS)).astype(np.float32)
        population.observe(block(f"rush-{i}", strange, time=float(i)))
    for a in range(1, 31):
        population.observe(block(f"customer-{a}", *customer_rows(rng, 32), time=a * HOUR))
    frame = population.export()["frame"]
    rushed = sum(row[1].startswith("rush") for row in frame)
    assert 0 < rushed <= SHARE_PER_HOUR * (len(frame) - rushed) + 1


def test_memory_is_bounded(model: VectorModel) -> None:
    rng = np.random.default_rng(13)
    population = VectorPopulation(DIMS, model)
    sizes = []
    for i in range(600):
        rows, labels = customer_rows(rng, 32)
        one = block(f"customer-{i % 300}", rows, labels, index=i // 300, time=i * HOUR)
        population.observe(one)
        population.remember(one)
        if i >= 300:
            sizes.append(len(packed(population)))
    state = population.export()
    held: dict[str, int] = {}
    for row in state["rows"]:
        held[row[1]] = held.get(row[1], 0) + 1
    assert max(held.values()) <= ROWS_PER_ACCOUNT
    assert len(state["rows"]) <= MAX_ROWS * 5 // 4
    assert len(state["frame"]) <= MAX_ROWS
    assert len(state["trail_at"]) == len(set(state["trail_at"])) == TRAIL_ROWS
    assert max(sizes) < 2_000_000


@pytest.mark.parametrize(
    "rows",
    [
        np.full((32, DIMS), 3.4e38, dtype=np.float32) * np.linspace(-1, 1, 32)[:, None],
        np.tile(np.arange(32, dtype=np.float32)[:, None], (1, DIMS)),
        np.eye(32, DIMS, dtype=np.float32) * 1e-38,
        np.concatenate([np.zeros((28, DIMS)), np.eye(4, DIMS) * 1e30]),
    ],
    ids=["huge", "one-line", "tiny", "spike"],
)
def test_hostile_inputs_give_finite_figures(model: VectorModel, rows: NDArray[np.float64]) -> None:
    population = populated(model)
    one = block("hostile", rows.astype(np.float32), ["\x00" * 300] * 32)
    for _ in range(3):
        standard = population.standardise(one)
        if standard is not None:
            assert np.isfinite(standard).all()
        population.observe(one)
    rows_after, labels = customer_rows(np.random.default_rng(14), 32)
    score = population.score(block("customer-1", rows_after, labels))
    assert score is not None
    assert np.isfinite(score)


def test_a_constant_dimension_is_no_obstacle(model: VectorModel) -> None:
    rng = np.random.default_rng(15)
    population = VectorPopulation(DIMS, model)
    for a in range(30):
        rows, labels = customer_rows(rng, 32)
        rows[:, 0] = 5.0
        population.observe(block(f"customer-{a}", rows, labels, time=a * HOUR))
    rows, _ = customer_rows(rng, 32)
    rows[:, 0] = 5.0
    moved = rows.copy()
    moved[:, 0] = np.arange(32)
    same, other = population.measure(block("same", rows)), population.measure(block("o", moved))
    assert same is not None
    assert other is not None
    assert other[FEATURES.index("distance")] > same[FEATURES.index("distance")]


def test_signals_share_the_score(settled: VectorPopulation) -> None:
    rng = np.random.default_rng(16)
    strange = rng.uniform(0.0, 20.0, (32, DIMS)).astype(np.float32)
    signals = settled.signals(block("thief", strange))
    assert sum(abs(weight) for *_, weight, _ in signals) == pytest.approx(1.0)
    weights = [weight for *_, weight, _ in signals]
    assert weights == sorted(weights, reverse=True)
    name, value, low, high, _, text = signals[0]
    assert text == PLAIN_WORDS[name.removeprefix("vectors.")]
    assert not low <= value <= high


def test_a_forgotten_account_that_comes_back_is_measured_anew(settled: VectorPopulation) -> None:
    """Its first block has the id of the first one that it ever sent."""
    rng = np.random.default_rng(17)
    before = block("back", customer_rows(rng, 32)[0])
    after = block("back", rng.uniform(0.0, 20.0, (32, DIMS)).astype(np.float32))
    after = msgspec.structs.replace(after, seq=9)
    assert before.id == after.id
    alone = settled.measure(msgspec.structs.replace(after, seq=10))
    settled.measure(before)
    found = settled.measure(after)
    assert found is not None
    assert alone is not None
    assert found.tobytes() == alone.tobytes()


def trail_figures(population: VectorPopulation, one: Block) -> dict[str, float]:
    figures = population.measure(one)
    assert figures is not None
    return {name: float(v) for name, v in zip(FEATURES, figures, strict=True) if "trail" in name}


def test_steps_from_what_another_account_sent_are_found(model: VectorModel) -> None:
    rng = np.random.default_rng(16)
    population = populated(model)
    seeds, _ = customer_rows(rng, 32)
    steps = np.float32(0.25) * rng.choice([-1, 1], seeds.shape).astype(np.float32)
    frame = population._frame
    assert frame is not None
    child = block("second", seeds + steps * frame.scale.astype(np.float32), time=70 * HOUR)
    before = trail_figures(population, child)
    first = block("first", seeds, time=70 * HOUR)
    population.remember(first)
    population._measured.clear()  # as when the frame is made anew
    after = trail_figures(population, child)
    assert after["trail_steps"] > 0.9 > 0.4 > before["trail_steps"]
    assert after["trail_flatness"] == pytest.approx(1.0, abs=0.03)
    assert after["trail"] == pytest.approx(np.log(0.25), abs=0.05)
    assert after["trail"] < before["trail"]
    ordinary, _ = customer_rows(rng, 32)
    assert trail_figures(population, block("third", ordinary))["trail_steps"] < 0.4


def test_the_same_inputs_again_are_no_step(model: VectorModel) -> None:
    population = populated(model)
    rows, _ = customer_rows(np.random.default_rng(17), 32)
    one = block("first", rows, time=70 * HOUR)
    before = trail_figures(population, one)
    population.remember(block("second", rows, time=70 * HOUR))
    held = population.export()["trail_at"]
    population.remember(block("third", rows, time=71 * HOUR))
    assert population.export()["trail_at"] == held
    population._measured.clear()
    assert trail_figures(population, one)["trail_steps"] == before["trail_steps"]
