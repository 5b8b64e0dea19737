"""Evidence about accounts that send text: what counts for whom, and what must not matter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from random import Random
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest

from detector.baseline import Baseline
from detector.blocks import Block, Identity
from detector.evidence import TextEvidence, link_keys
from detector.score import ACCOUNT_COLUMNS, OTHERS_COLUMNS, OWN_COLUMNS, TextModels, shipped
from detector.state import StateMismatch, pack, unpack
from features import NAMES
from tests.detector.small_models import START, models, sketch, text_block

MODELS = models()
WEEK = 604_800.0
NOTHING = -math.inf


def fresh(**options: Any) -> TextEvidence:
    return TextEvidence(MODELS.text, options.pop("restart_s", WEEK), **options)


def take(evidence: TextEvidence, block: Block, score: float) -> float:
    """The account's evidence after one more block."""
    row = evidence.add(block, score)
    return evidence.judge(row)


def others(evidence: TextEvidence, row: int, mean: float = 0.0) -> dict[str, float]:
    """What the accounts around one show, by name."""
    return dict(zip(OTHERS_COLUMNS, evidence.others(row, mean).tolist(), strict=True))


def payer(name: str) -> Identity:
    return Identity(links={"payment": name})


# An account's own history


def history(evidence: TextEvidence, row: int) -> tuple[float, float, float, float, int]:
    """Mean, highest, lowest and deviation of its blocks' scores, and the events in them."""
    mean, highest, lowest, _, deviation = evidence.row(row)[:5].tolist()
    return mean, highest, lowest, deviation, int(evidence["events"][row])


def test_a_history_is_its_mean_highest_and_lowest() -> None:
    evidence = fresh()
    for index, score in enumerate((1.0, -3.0, 5.0)):
        row = evidence.add(text_block(index=index), score)
    spread = math.sqrt((0.0 + 16.0 + 16.0) / 3)  # deviations 0, -4, 4
    assert history(evidence, row) == pytest.approx((1.0, 5.0, -3.0, spread, 96))


def test_each_revision_of_the_first_block_replaces_the_one_before() -> None:
    evidence = fresh()
    for revision, score in enumerate((5.0, 4.0, -1.0)):
        row = evidence.add(text_block(revision=revision, n=8 << revision), score)
    assert history(evidence, row) == (-1.0, -1.0, -1.0, 0.0, 32)
    evidence.add(text_block(index=1), 2.0)
    assert history(evidence, row) == (0.5, 2.0, -1.0, 1.5, 64)


def test_evidence_is_the_running_maximum_of_the_log_odds() -> None:
    evidence = fresh()
    found = [take(evidence, text_block(index=i), s) for i, s in enumerate((1.0, 4.0, -3.0))]
    assert found == [1.0, 2.5, 2.5]  # means 1, 2.5, 2/3


def test_an_ordinary_history_is_no_evidence() -> None:
    assert take(fresh(), text_block(), -0.5) == NOTHING


def test_a_week_after_its_start_an_account_begins_anew() -> None:
    evidence = fresh()
    first = text_block(at=0.0)
    assert take(evidence, first, 5.0) == 5.0
    assert take(evidence, text_block(at=WEEK - 31.0, index=1), 5.0) == 5.0
    again = text_block(at=WEEK - 30.0, index=2)  # its first event was 30 s before the first block
    row = evidence.add(again, -1.0)
    assert evidence.judge(row) == NOTHING
    assert history(evidence, row) == (-1.0, -1.0, -1.0, 0.0, 32)


def test_weeks_are_counted_from_the_start_not_from_the_restart() -> None:
    evidence = fresh(restart_s=100.0)
    take(evidence, text_block(at=30.0), 5.0)  # started at 0
    take(evidence, text_block(at=250.0, index=1), 5.0)  # the third period is from 200 on
    assert take(evidence, text_block(at=299.0, index=2), -3.0) > NOTHING
    assert take(evidence, text_block(at=300.0, index=3), -3.0) == NOTHING


# Linked accounts


def test_links_and_templates_are_told_apart() -> None:
    identity = Identity(ip="203.0.113.77", links={"payment": "p", "device": "d"})
    assert link_keys(identity) == ["link:device:d", "link:payment:p", "net:203.0.113.0"]
    assert link_keys(Identity(ip="2001:db8:1:2::3")) == ["net:2001:db8:1::"]
    for no_address in ("not an address", "203.0.113.256", "203.0.113", "203.0.113.07", "1.2.3.4.5"):
        assert link_keys(Identity(ip=no_address)) == []
    evidence = fresh()
    # A head counts as a template once three distinct texts have it.
    row = evidence.add(text_block(heads=((7, 30, 3), (8, 30, 2)), identity=identity), 0.0)
    assert sorted(evidence.keys(row)) == sorted([*link_keys(identity), "head:7"])


def test_an_account_keeps_a_bounded_number_of_links() -> None:
    evidence = fresh()
    for index in range(100):
        identity = Identity(ip=f"10.0.{index}.1", links={"device": f"d{index}"})
        row = evidence.add(text_block(index=index, heads=((index, 9, 9),), identity=identity), 0.0)
    assert len(evidence.keys(row)) == 32


def test_others_are_the_mean_of_those_who_share_a_link() -> None:
    evidence = fresh()
    for name, score in (("a", 4.0), ("b", 2.0), ("c", -1.0)):
        evidence.add(text_block(name, identity=payer("p")), score)
    evidence.add(text_block("d"), 6.0)
    found = [others(evidence, evidence.accounts[name], -7.0) for name in "abcd"]
    assert [o["linked_mean"] for o in found] == pytest.approx([0.5, 1.5, 3.0, -7.0])
    assert [o["log_linked"] for o in found] == pytest.approx([*[math.log(4)] * 3, 0.0])
    assert {o["template_mean"] for o in found} == {-7.0}


def test_accounts_with_the_same_templates_count_apart_from_links() -> None:
    evidence = fresh()
    head = ((7, 30, 3),)
    for name, score in (("a", 4.0), ("b", 2.0)):
        evidence.add(text_block(name, heads=head, identity=payer(name)), score)
    found = [others(evidence, row, -7.0) for row in (0, 1)]
    assert [o["template_mean"] for o in found] == pytest.approx([2.0, 4.0])
    assert [(o["linked_mean"], o["log_linked"]) for o in found] == [(-7.0, 0.0)] * 2


def test_a_rare_link_counts_more_than_a_common_one() -> None:
    evidence = fresh()
    crowd = Identity(ip="203.0.113.1")
    for i in range(50):
        evidence.add(text_block(f"neighbour-{i}", identity=crowd), -3.0)
    evidence.add(text_block("accomplice", identity=payer("p")), 5.0)
    both = Identity(ip="203.0.113.2", links={"payment": "p"})
    row = evidence.add(text_block("a", identity=both), 0.0)
    rare, common = 1.0 / math.log(2 + 5), 1.0 / math.log(51 + 5)
    found = others(evidence, row)
    assert found["linked_mean"] == pytest.approx((5.0 * rare - 3.0 * common) / (rare + common))
    assert found["log_linked"] == math.log1p(51)  # of the most crowded


def test_the_order_of_accounts_does_not_change_what_others_show() -> None:
    rng = Random(5)
    made = [
        (f"a{i}", rng.choice("pq"), rng.uniform(-3.0, 5.0), rng.uniform(-3.0, 5.0))
        for i in range(5)
    ]
    seen = set()
    for order in permutations(made):
        evidence = fresh()
        for name, link, first, second in order:
            evidence.add(text_block(name, identity=payer(link), heads=((1, 9, 9),)), first)
            evidence.add(text_block(name, index=1, identity=payer(link)), second)
        around = [others(evidence, evidence.accounts[name]) for name, *_ in made]
        seen.add(tuple((o["linked_mean"], o["template_mean"]) for o in around))
    assert len(seen) == 1


def test_thieves_linked_to_a_thief_speak_against_it() -> None:
    alone, together = fresh(), fresh()
    for i in range(6):
        take(together, text_block(f"thief-{i}", identity=payer("p")), 5.0)
    found = [take(e, text_block("a", identity=payer("p")), 1.0) for e in (alone, together)]
    assert found[1] > found[0] > NOTHING


def test_no_company_convicts_an_account_whose_own_history_is_ordinary() -> None:
    """A thief copies a customer's template, sits in its network and pays with its card."""
    evidence = fresh()
    shared: dict[str, Any] = {
        "identity": Identity(ip="203.0.113.1", links={"payment": "p"}),
        "heads": ((7, 32, 32),),
        "sketch": sketch(1),
    }
    customer = text_block("customer", **shared)
    assert take(evidence, customer, -0.25) == NOTHING
    for i in range(60):
        assert take(evidence, text_block(f"thief-{i}", **shared), 6.0) > 1.5
    for index in range(1, 8):
        assert take(evidence, text_block("customer", index=index, **shared), -0.25) == NOTHING


# Accounts that send alike


def test_accounts_that_send_alike_count_for_each_other_both_ways() -> None:
    # Nobody is linked: that model has the account's own mean once more.
    for score, expected in ((-1.0, (2.0 + 2.0 - 1.0) / 3), (5.0, (2.0 + 2.0 + 5.0) / 3)):
        evidence = fresh()
        for i in range(20):
            take(evidence, text_block(f"c{i}", sketch=sketch(1)), score)
        assert take(evidence, text_block("a", sketch=sketch(1)), 2.0) == expected


def test_the_twenty_most_alike_count() -> None:
    evidence = fresh()
    for i in range(40):
        evidence.add(text_block(f"c{i}", sketch=sketch(i % 2)), 4.0 * (i % 2))
    row = evidence.add(text_block("a", sketch=sketch(1)), 2.0)
    found = others(evidence, row)
    assert found["sketch_mean"] == 4.0
    assert found["sketch_cosine"] == pytest.approx(1.0, abs=0.02)


# Accounts that also go about it alike


@dataclass
class Plain:
    """What is known of one account, as lists."""

    sketches: list[list[int]]
    features: list[list[float]]
    scores: list[float]
    links: set[str]
    start: float
    end: float
    events: int

    def joint(self, centre: list[float]) -> list[int]:
        """The direction by which company is found; all features are centred and scaled already."""
        blocks = len(self.scores)
        away = [
            float(np.float32(sum(column) / blocks)) - c
            for column, c in zip(zip(*self.sketches, strict=True), centre, strict=True)
        ]
        means = [sum(column) / blocks for column in zip(*self.features, strict=True)]
        far = [min(max(mean, -3.0), 3.0) for mean in means]
        found = []
        for half in (away, far):
            norm = math.sqrt(math.fsum(value * value for value in half)) or 1.0
            found += [round(127.0 / math.sqrt(2.0) * value / norm) for value in half]
        return found


def population(seed: int, accounts: int) -> tuple[TextEvidence, list[Plain]]:
    """Accounts of three kinds, each of its own texts, with links across the kinds."""
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(3, len(NAMES)))
    evidence = fresh()
    known = []
    for who in range(accounts):
        kind = who % 3
        plain = Plain([], [], [], set(), START + 1000.0 * who - 30.0, 0.0, 0)
        for index in range(1 + who % 4):
            at = 1000.0 * who + 7000.0 * index
            features = (kinds[kind] + 0.3 * rng.normal(size=len(NAMES))).astype(np.float32)
            text = sketch(50 + (kind if rng.random() < 0.9 else 9))
            identity = payer(str(who % 5)) if who % 2 else Identity()
            score = float(rng.uniform(-3.0, 5.0))
            evidence.add(
                text_block(
                    f"a{who}", at, index=index, features=features.tobytes(), sketch=text,
                    identity=identity,
                ),
                score,
            )  # fmt: skip
            plain.sketches.append(np.frombuffer(text, np.int8).tolist())
            plain.features.append(features.tolist())
            plain.scores.append(score)
            plain.links |= set(link_keys(identity))
            plain.end, plain.events = START + at, 32 * index + 32
        known.append(plain)
    return evidence, known


def company(known: list[Plain], row: int, centre: list[float], nobody: float) -> dict[str, float]:
    """The columns of "company", in plain Python."""
    if len(known) == 1:
        return {name: nobody * (name == "company_mean") for name in COMPANY}
    directions = [plain.joint(centre) for plain in known]
    dots = [sum(a * b for a, b in zip(directions[row], d, strict=True)) for d in directions]
    order = sorted((r for r in range(len(known)) if r != row), key=lambda r: (-dots[r], r))
    cosines = [dots[r] / 127**2 for r in order]
    me, twenty = known[row], [known[r] for r in order[:20]]
    means = [sum(plain.scores) / len(plain.scores) for plain in twenty]
    same = [known[r] for r, c in zip(order[:64], cosines, strict=False) if c >= 0.85]
    found = {
        "company_mean": fmean(means),
        "company_deviation": pstdev(means),
        "company_cosine": fmean(cosines[:5]),
        "company_farthest": cosines[:20][-1],
        "company_linked": fmean(bool(plain.links & me.links) for plain in twenty),
        "company_start": fmean(abs(plain.start - me.start) for plain in twenty) / 86_400,
        "company_volume": fmean(
            abs(math.log2(plain.events) - math.log2(me.events)) for plain in twenty
        ),
        "company_end": fmean(abs(plain.end - me.end) for plain in twenty) / 86_400,
        "company_crowd": math.log2(1 + len(same)),
        "company_strangers": math.log2(1 + sum(not plain.links & me.links for plain in same)),
    }
    assert set(found) == set(COMPANY)
    return found


COMPANY = [name for name in OTHERS_COLUMNS if name.startswith("company_")]


@pytest.mark.parametrize("accounts", [1, 2, 7, 21, 90])
def test_company_is_that_of_plain_python(accounts: int) -> None:
    evidence, known = population(accounts, accounts)
    centre = evidence.export(False)["centre"].tolist()
    for row in range(0, accounts, 1 + accounts // 9):
        expected = company(known, row, centre, -7.0)
        found = others(evidence, row, -7.0)
        assert {name: found[name] for name in COMPANY} == pytest.approx(expected, abs=2e-6)


def test_company_goes_about_it_alike_and_does_not_only_send_alike() -> None:
    evidence = fresh()
    for i in range(60):
        features = np.zeros(len(NAMES), np.float32)
        features[i % 2] = 2.0
        made = text_block(f"c{i}", features=features.tobytes(), sketch=sketch(1))
        evidence.add(made, 4.0 * (i % 2))
    for i in range(100):  # so that the population's middle is elsewhere
        evidence.add(text_block(f"other-{i}", sketch=sketch(100 + i)), 0.0)
    found = others(evidence, 1)
    assert (found["company_mean"], found["company_deviation"]) == (4.0, 0.0)
    assert found["company_crowd"] == found["company_strangers"] == math.log2(1 + 29)
    assert found["sketch_mean"] < 4.0  # texts alone do not tell the two apart


# What the models see


def test_a_row_is_the_history_the_constancy_and_the_mean_features() -> None:
    evidence, known = population(3, 12)
    for row, plain in enumerate(known):
        found = dict(zip(ACCOUNT_COLUMNS, evidence.row(row).tolist(), strict=True))
        total = [sum(column) for column in zip(*plain.sketches, strict=True)]
        k, norm2 = len(plain.sketches), sum(entry * entry for entry in total) / 127**2
        expected = {
            "mean": fmean(plain.scores),
            "max": max(plain.scores),
            "min": min(plain.scores),
            "log2_events": math.log2(plain.events),
            "deviation": pstdev(plain.scores),
            "constancy": 1.0 if k == 1 else (norm2 - k) / (k * (k - 1)),
        }
        for name, column in zip(NAMES, zip(*plain.features, strict=True), strict=True):
            expected[f"habit.{name}"] = fmean(column)
        assert set(expected) == set(OWN_COLUMNS)
        assert {name: found[name] for name in OWN_COLUMNS} == pytest.approx(expected, abs=1e-6)
        assert {found[name] for name in OTHERS_COLUMNS} == {0.0}


def test_constancy_is_the_mean_cosine_between_blocks() -> None:
    evidence = fresh()
    for index, seed in enumerate((1, 1, 2)):
        row = evidence.add(text_block(index=index, sketch=sketch(seed)), 0.0)
    one, two = (np.frombuffer(sketch(seed), np.int8) / 127.0 for seed in (1, 2))
    constancy = evidence.row(row)[OWN_COLUMNS.index("constancy")]
    assert constancy == pytest.approx((1.0 + 2.0 * float(one @ two)) / 3, abs=0.01)


@pytest.mark.parametrize("used", [MODELS.text, shipped()], ids=["small", "shipped"])
def test_judging_an_account_again_changes_nothing(used: TextModels) -> None:
    """The second time its histories are not those that `add` kept, but seen anew."""
    evidence = TextEvidence(used, 9_000.0, bar=-30.0)
    some = 0
    for block, score in crowded():
        row = evidence.add(block, score)
        found = evidence.judge(row)
        if found > NOTHING:
            seen = evidence.seen(row).tolist()
            assert evidence.judge(row) == found
            assert evidence.seen(row).tolist() == seen
            some += 1
    assert some > 5


@pytest.mark.parametrize("used", [MODELS.text, shipped()], ids=["small", "shipped"])
def test_what_was_seen_gives_the_evidence(used: TextModels) -> None:
    evidence = TextEvidence(used, 9_000.0, bar=-30.0)
    for block, score in crowded():
        before = float(evidence["evidence"][evidence.accounts.get(block.account, 0)])
        row = evidence.add(block, score)
        if evidence.judge(row) > before:
            mean = float(evidence.row(row)[0])
            assert evidence.seen(row)[len(OWN_COLUMNS) :].tolist() == (
                evidence.others(row, mean).tolist()
            )
    rows = [row for row in range(len(evidence)) if evidence["evidence"][row] > NOTHING]
    assert len(rows) > 5
    for row in rows:
        assert used.odds(evidence.seen(row)) == evidence["evidence"][row]


def test_a_new_week_forgets_what_was_seen_also_after_a_restart_of_the_program() -> None:
    first, second = fresh(restart_s=100.0), fresh(restart_s=100.0)
    take(first, text_block("a", 30.0), 5.0)
    second.restore(first.export(False))
    assert second.seen(0).tolist() == first.seen(0).tolist()
    assert take(first, text_block("a", 300.0, index=1), -3.0) == NOTHING
    second.restore(first.export(True))
    for evidence in (first, second):
        assert evidence["evidence"][0] == NOTHING
        assert evidence.export(False)["seen"] == []


def test_what_was_kept_for_judging_is_forgotten_when_another_state_is_taken_in() -> None:
    first, second = fresh(bar=NOTHING), fresh(bar=NOTHING)
    row = first.add(text_block("a"), 5.0)
    other = second.add(text_block("a"), -2.0)
    first.restore(second.export(False))
    assert first.judge(row) == second.judge(other)


def test_a_restored_one_finds_the_same_company() -> None:
    first, _ = population(5, 90)
    second = fresh()
    second.restore(unpack("evidence", 1, pack("evidence", 1, first.export(False))))
    for row in range(90):
        assert others(second, row) == others(first, row)
        assert second.like(row, math.inf).scores.tolist() == (
            first.like(row, math.inf).scores.tolist()
        )
        assert second.watch(row, 0.3, 9) == first.watch(row, 0.3, 9)


def test_watched_accounts_that_send_alike_are_found_the_nearest_first() -> None:
    evidence = fresh()
    for i in range(30):
        evidence.add(text_block(f"customer-{i}", sketch=sketch(i)), -1.0)
    near = np.frombuffer(sketch(99), np.int8).astype(np.int64)
    noise = np.frombuffer(sketch(98), np.int8).astype(np.int64)
    for i in range(4):
        bent = (near + i * noise // 8).clip(-127, 127).astype(np.int8).tobytes()
        row = evidence.add(text_block(f"thief-{i}", sketch=bent), 5.0)
        if i < 3:
            alike = evidence.watch(row, 0.5, 5)
            assert {name for name, _ in alike} == {f"thief-{j}" for j in range(i)}
    alike = evidence.watch(row, 0.5, 5)
    assert [name for name, _ in alike] == ["thief-2", "thief-1", "thief-0"]
    assert 1.0 > alike[0][1] > alike[1][1] > alike[2][1] > 0.5
    assert evidence.watch(row, 0.5, 1) == alike[:1]
    assert evidence.watch(row, 0.9999, 5) == []


# What is kept


def crowded(seed: int = 1) -> list[tuple[Block, float]]:
    """Blocks of 40 accounts in disorder, with links, templates and revisions."""
    rng = Random(seed)
    made = []
    counts = dict.fromkeys(range(40), 0)
    for number in range(400):
        who = rng.randrange(40)
        made.append(
            (
                text_block(
                    f"account-{who}", 60.0 * number, index=counts[who],
                    identity=payer(str(rng.randrange(12))), sketch=sketch(rng.randrange(8)),
                    heads=((rng.randrange(9), 10, 4),),
                ),
                rng.uniform(-3.0, 5.0) + (who < 8),
            )
        )  # fmt: skip
        counts[who] += 1
    return made


def outcome(evidence: TextEvidence, made: list[Any], start: int = 0) -> list[Any]:
    """What is found block by block from number `start` on."""
    found: list[Any] = []
    for number in range(start, len(made)):
        block, score = made[number]
        found.append(take(evidence, block, score))
        row = evidence.accounts[block.account]
        found += evidence.others(row, score).tolist()
        found += evidence.row(row).tolist()
        if evidence["evidence"][row] > NOTHING:
            found += evidence.seen(row).tolist()
        if number % 3 == 0:
            found.append(evidence.watch(row, 0.3, 5))
    return found


@pytest.mark.parametrize(("full", "changes"), [(0, None), (200, None), (100, 101), (150, 390)])
def test_a_restored_one_goes_on_the_same(full: int, changes: int | None) -> None:
    made = crowded()
    expected = outcome(fresh(restart_s=9_000.0), made)
    first, resumed = fresh(restart_s=9_000.0), fresh(restart_s=9_000.0)
    at = full if changes is None else changes
    before = outcome(first, made[:full])
    parts = [first.export(False)]
    if changes is not None:
        before += outcome(first, made[:changes], full)
        parts.append(first.export(True))
    for part in parts:
        resumed.restore(unpack("evidence", 1, pack("evidence", 1, part)))
    assert before + outcome(resumed, made, at) == expected


def test_changes_are_fewer_than_everything() -> None:
    evidence = fresh()
    made = crowded()
    outcome(evidence, made[:390])
    everything = len(pack("evidence", 1, evidence.export(False)))
    outcome(evidence, made[:393], 390)
    assert len(pack("evidence", 1, evidence.export(True))) < everything / 3


def test_changes_without_what_they_change_are_refused() -> None:
    evidence = fresh()
    made = crowded()
    outcome(evidence, made[:200])
    evidence.export(False)
    take(evidence, text_block("new"), 1.0)
    with pytest.raises(StateMismatch, match="without those before them"):
        fresh().restore(evidence.export(True))


def test_a_baseline_keeps_customers_without_their_names(tmp_path: Path) -> None:
    evidence = fresh()
    for block, score in crowded():
        take(evidence, block, score)
    kind, centre = evidence.clean(25)
    assert kind.accounts == 40
    assert kind.evidence == sorted(kind.evidence)
    # 5 % of 40 customers pass the bar that they set; only their evidence counts.
    own = sorted(evidence["own_top"][:40])
    assert kind.bar == np.quantile(own, 0.95)
    assert 1 <= len(kind.evidence) <= sum(top >= kind.bar for top in own) + 2
    assert len(kind.sketches) == 128 * len(kind.means)
    assert 0 < len(kind.means) <= 25
    rows = np.frombuffer(kind.sketches, np.int8).reshape(-1, 128)
    assert np.array_equal(rows, rows[np.lexsort(rows.T)])  # no trace of who came first
    baseline = Baseline(
        name="july", scorer="small", events=1, first_ts=START, last_ts=START + 1.0,
        kinds={"text": kind}, centre=centre,
    )  # fmt: skip
    file = tmp_path / "baseline.json"
    baseline.save(file)
    assert b"account" not in file.read_bytes().replace(b'"accounts"', b"")


def test_a_baseline_is_of_whole_weeks_where_there_are_some() -> None:
    """Of what a week that has only begun came to, thresholds would lie too low."""
    evidence = fresh(whole_weeks=True)
    for i in range(20):
        take(evidence, text_block(f"c{i}", float(i)), 3.0)
        take(evidence, text_block(f"c{i}", WEEK + i, index=1), -3.0)
    take(evidence, text_block("late", WEEK + 99.0), 2.0)
    kind, _ = evidence.clean(100)
    assert evidence.week(0)[0] == 3.0
    assert evidence.week(20)[0] == 2.0
    assert kind.accounts == 21
    assert kind.bar == 3.0
    assert len(kind.evidence) == 20  # of the week that has begun nobody has any
    assert kind.evidence[-1] == 3.0


def test_customers_of_the_baseline_count_as_accounts_that_send_alike() -> None:
    before = fresh()
    for i in range(20):
        take(before, text_block(f"c{i}", sketch=sketch(1)), -1.0)
    kind, centre = before.clean(100)
    after = fresh(clean=kind)
    after.start_centre(centre)
    assert take(after, text_block("a", sketch=sketch(1)), 2.0) == (2.0 + 2.0 - 1.0) / 3
