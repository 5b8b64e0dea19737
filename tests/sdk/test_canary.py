"""Canaries: which answers get a remark, and that it reads back as what was written."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from velvetrope_client.canary import TAG_BITS, BadClosings, Canaries, Closings, tag
from velvetrope_client.keys import Key

KEY = Key("test", b"k" * 32)
CLOSINGS = Closings.shipped()
ALWAYS = Canaries(KEY, share=1.0)
PROSE = (
    "The tide rises and falls because of the pull of the moon and the sun on the water of the "
    "oceans. When both are in line with the earth, the pull is at its strongest and the tide is "
    "at its highest. This happens twice in a month, at the new moon and at the full moon."
)


@given(st.integers(0, 7), st.text())
def test_a_remark_reads_back_as_its_nonce_and_tag(nonce: int, account: str) -> None:
    found = CLOSINGS.pattern.fullmatch(CLOSINGS.write(KEY, account, nonce).encode())
    assert found is not None
    number = CLOSINGS.number(found)
    assert number is not None
    assert CLOSINGS.read(KEY, number) == (nonce, tag(KEY, account))


def test_case_and_spacing_do_not_change_what_a_remark_says() -> None:
    remark = CLOSINGS.write(KEY, "acct-1", 3)
    found = CLOSINGS.pattern.search(remark.upper().replace(" ", "\n ").encode())
    assert found is not None
    assert CLOSINGS.read(KEY, CLOSINGS.number(found) or 0) == (3, tag(KEY, "acct-1"))


def test_another_key_reads_another_tag() -> None:
    found = CLOSINGS.pattern.fullmatch(CLOSINGS.write(KEY, "acct-1", 3).encode())
    assert found is not None
    other = Key("other", b"o" * 32)
    assert CLOSINGS.read(other, CLOSINGS.number(found) or 0) != (3, tag(other, "acct-1"))


def test_tags_have_thirty_five_bits_and_spread() -> None:
    tags = {tag(KEY, f"acct-{n}") for n in range(1_000)}
    assert len(tags) == 1_000
    assert 2**34 < max(tags) < 2**TAG_BITS


def test_the_same_answer_gets_the_same_remark() -> None:
    assert ALWAYS.apply("acct-1", PROSE) == ALWAYS.apply("acct-1", PROSE)


def test_remarks_differ_between_answers() -> None:
    remarks = {ALWAYS.closing("acct-1", f"{PROSE} Case {n}.") for n in range(100)}
    assert len(remarks) == 8


def test_remarks_differ_between_accounts() -> None:
    assert len({ALWAYS.closing(f"acct-{n}", PROSE) for n in range(50)}) == 50


def test_a_remark_follows_after_a_space() -> None:
    assert ALWAYS.apply("a", PROSE).startswith(f"{PROSE} ")


def test_a_remark_is_a_paragraph_where_there_are_paragraphs() -> None:
    text = f"{PROSE}\n\n{PROSE}"
    assert ALWAYS.apply("a", text).startswith(f"{text}\n\n")


def test_a_quarter_of_the_answers_get_one() -> None:
    canaries = Canaries(KEY)
    count = sum(bool(canaries.closing("a", f"{PROSE} Case {n}.")) for n in range(1_000))
    assert 200 < count < 300  # 250, standard deviation 14


@pytest.mark.parametrize(
    "text",
    [
        "",
        "positive",
        "The answer is yes, and that is all there is to say of it.",
        json.dumps({"answer": PROSE}),
        f"<p>{PROSE}</p>",
        f"{PROSE}\n\n```python\nprint('The end of it.')\n```",
        f"```\n{PROSE}",
        f"{PROSE}\n- the last of a list.",
        f"{PROSE}\n2. The second step.",
        f"{PROSE}\n| a | table |",
        f"{PROSE}\n    indented code.",
        PROSE.removesuffix("."),
        PROSE.replace("e", "é"),
        " ".join(["Zeitgeist Kindergarten Wanderlust"] * 30) + ".",
        f"{PROSE} Let me know how it goes.",
    ],
)
def test_what_a_remark_could_harm_stays_as_it_is(text: str) -> None:
    assert ALWAYS.apply("acct-1", text) == text


@given(st.text(), st.text())
def test_any_answer_comes_back_whole(account: str, text: str) -> None:
    assert ALWAYS.apply(account, text).startswith(text)


@given(st.lists(st.integers(0, len(PROSE)), max_size=5))
def test_a_streamed_answer_gets_the_remark_of_the_whole(cuts: list[int]) -> None:
    stream = ALWAYS.stream("acct-1")
    edges = [0, *sorted(cuts), len(PROSE)]
    for start, end in pairwise(edges):
        stream.feed(PROSE[start:end])
    assert stream.close() == ALWAYS.closing("acct-1", PROSE)


def test_a_stream_without_end_is_not_kept() -> None:
    stream = ALWAYS.stream("acct-1")
    for _ in range(1_100):
        stream.feed("word " * 200)
    stream.feed(PROSE)
    assert stream.close() == ""


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_outside_its_bounds_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Canaries(KEY, share=share)


def test_an_operators_own_wordings_are_read(tmp_path: Path) -> None:
    slots = [[f" w{slot}x{n}" for n in range(16)] for slot in range(10)]
    (tmp_path / "closings.json").write_text(json.dumps({"format": 1, "slots": slots}))
    closings = Closings.load(tmp_path / "closings.json")
    found = closings.pattern.fullmatch(closings.write(KEY, "acct-1", 5).encode())
    assert found is not None
    assert closings.read(KEY, closings.number(found) or 0) == (5, tag(KEY, "acct-1"))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "not JSON"),
        ("[]", "expected"),
        ('{"format": 1, "slots": [1]}', "expected"),
        (json.dumps({"format": 1, "slots": [["a", "b"]]}), r"2\^1 remarks: at least 2\^38"),
        (json.dumps({"format": 1, "slots": [["a", "A "]]}), "slot 0: its wordings must"),
        (json.dumps({"format": 1, "slots": [["a"], []]}), "slot 1: its wordings must"),
        (json.dumps({"format": 1, "slots": [["é", "a"]]}), "slot 0: wordings are ASCII"),
        # "a" + "bb" and "ab" + "b" are the same text.
        (json.dumps({"format": 1, "slots": [["a", "ab"], ["bb", "b"]] * 20}), "reads as another"),
    ],
)
def test_wordings_that_cannot_carry_a_tag_are_refused(
    tmp_path: Path, document: str, said: str
) -> None:
    (tmp_path / "c.json").write_text(document)
    with pytest.raises(BadClosings, match=said):
        Closings.load(tmp_path / "c.json")
