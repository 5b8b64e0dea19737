"""The test behind `velvetrope prove`: exact where a reader can count, and fair to innocents."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import comb

import pytest
from velvetrope_client.keys import Key, Keyring
from velvetrope_client.watermark import Draw, Question, draw

from responders.actions.prove import Stratum, holm, p_value, prove, question_id

KEY = Key("test", b"k" * 32)
RING = Keyring((KEY,))


def registered(
    count: int, *, classes: int = 10, key: Key = KEY, subject: str = "acct-1"
) -> list[Question]:
    """Marks and controls among texts whose true label is "0"."""
    names = tuple(str(n) for n in range(classes))
    cells = (f"t:{n}" for n in range(10**6))
    drawn = (c for c in cells if draw(key, subject, c) is not Draw.NEITHER)
    return [Question(key.id, subject, next(drawn), "", "0", names) for _ in range(count)]


def answered(
    questions: list[Question], label: Callable[[Question], str], key: Key = KEY
) -> dict[str, str]:
    return {question_id(key, question): label(question) for question in questions}


def clone(question: Question) -> str:
    """Learned every mark, and everything else as it is."""
    marked = question.draw(KEY) is Draw.MARKED
    return question.wrong_label(KEY) if marked else question.label


def test_ten_marks_of_ten_classes_that_were_all_learned_give_one_ninth_to_the_tenth() -> None:
    assert p_value([Stratum(10, 10, 10, 9)], 10) == pytest.approx(9.0**-10)


def test_with_two_classes_the_choice_of_the_marked_is_the_evidence() -> None:
    # All 10 marked among the 14 of 100 on which the suspect disagrees.
    assert p_value([Stratum(100, 10, 14, 1)], 10) == pytest.approx(comb(14, 10) / comb(100, 10))


def test_with_two_classes_and_no_controls_nothing_can_be_said() -> None:
    assert p_value([Stratum(10, 10, 10, 1)], 10) == pytest.approx(1.0)


def test_a_suspect_that_never_disagrees_is_innocent() -> None:
    assert p_value([Stratum(100, 10, 0, 9)], 0) == pytest.approx(1.0)


def test_strata_add_up() -> None:
    # One mark of one, twice, with 9 and with 4 other labels: both hit.
    both = [Stratum(1, 1, 1, 9), Stratum(1, 1, 1, 4)]
    assert p_value(both, 2) == pytest.approx(1 / 36)


def test_a_small_tail_keeps_its_digits() -> None:
    assert p_value([Stratum(60, 60, 60, 9)], 60) == pytest.approx(9.0**-60, rel=1e-9)


def test_the_p_value_is_the_share_of_keys_that_do_as_well() -> None:
    """For one suspect, over 300 keys: P(p <= .05) is at most .05, within 3 deviations."""
    suspect = {f"t:{n}": random.Random(n).choice("0000123456789") for n in range(1_500)}
    below = 0
    keys = [Key("k", random.Random(n).randbytes(32)) for n in range(300)]
    for key in keys:
        questions = registered(30, key=key)
        answers = {question_id(key, q): suspect.get(q.cell, "0") for q in questions}
        claims = prove(questions, answers, Keyring((key,)), alternates=0)
        below += bool(claims) and claims[0].p_value <= 0.05
    assert below / len(keys) <= 0.05 + 3 * (0.05 * 0.95 / len(keys)) ** 0.5


def test_a_clone_is_recognised() -> None:
    questions = registered(100)
    claim = prove(questions, answered(questions, clone), RING)[0]
    assert (claim.learned, claim.controls_disagreed) == (claim.marks, 0)
    assert claim.p_value < 9.0**-claim.marks


def test_no_other_key_does_as_well_as_the_one_a_clone_learned() -> None:
    questions = registered(100)
    claim = prove(questions, answered(questions, clone), RING, alternates=199)[0]
    assert claim.p_alternates == 1 / 200


def test_an_innocent_is_as_good_under_other_keys() -> None:
    questions = registered(100)
    wrong = answered(questions, lambda q: random.Random(q.cell).choice("0123456789"))
    claim = prove(questions, wrong, RING, alternates=199)[0]
    assert claim.p_alternates > 0.01


def test_the_subject_whose_marks_were_learned_is_named() -> None:
    mine, other = registered(60), registered(60, subject="acct-2")
    answers = answered(mine, clone) | answered(other, lambda q: q.label)
    claims = prove([*mine, *other], answers, RING, alternates=0)
    assert [(c.subject, c.adjusted < 1e-3) for c in claims] == [
        ("acct-1", True),
        ("acct-2", False),
    ]


def test_an_old_key_still_proves() -> None:
    questions = registered(100)
    ring = Keyring((Key("new", b"n" * 32), KEY))
    assert prove(questions, answered(questions, clone), ring, alternates=0)[0].p_value < 1e-3


def test_questions_that_were_not_answered_do_not_count() -> None:
    questions = registered(100)
    answers = answered(questions[:50], clone)
    claim = prove(questions, answers, RING, alternates=0)[0]
    assert claim.marks + claim.controls == 50


def test_without_a_marked_answer_there_is_no_claim() -> None:
    controls = [q for q in registered(50) if q.draw(KEY) is Draw.CONTROL]
    assert prove(controls, answered(controls, clone), RING) == []


def test_question_ids_tell_marked_from_unmarked_to_nobody() -> None:
    questions = registered(400)
    ids = sorted((question_id(KEY, q), q.draw(KEY) is Draw.MARKED) for q in questions)
    first = sum(marked for _, marked in ids[:200])
    second = sum(marked for _, marked in ids[200:])
    assert abs(first - second) < 20  # 0 expected, standard deviation 6


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], []), ([0.5], [0.5]), ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]), ([0.9, 0.8], [1.0, 1.0])],
)
def test_holm_corrects_for_how_many_were_tested(given: list[float], expected: list[float]) -> None:
    assert holm(given) == pytest.approx(expected)
