"""Tracing: remarks are found however a corpus is cut and coded, and chance is what it should be."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from velvetrope_client.canary import TAG_BITS, Closings, tag
from velvetrope_client.keys import Key, Keyring

from responders.actions.trace import Remarks, name, p_value

KEY = Key("test", b"k" * 32)
RING = Keyring((KEY,))
CLOSINGS = Closings.shipped()
ACCOUNTS = [f"acct-{n}" for n in range(100)]


def remark(account: str, nonce: int, key: Key = KEY) -> str:
    return CLOSINGS.write(key, account, nonce)


def collected(*texts: str | bytes) -> Counter[int]:
    remarks = Remarks(CLOSINGS)
    for text in texts:
        remarks.feed(text.encode() if isinstance(text, str) else text)
        remarks.end()
    return remarks.numbers


def test_an_account_is_named_by_two_remarks() -> None:
    numbers = collected(f"A. {remark('acct-7', 1)} B. {remark('acct-7', 2)}")
    found = name(numbers, ACCOUNTS, RING, below=1e-3)
    assert [(f.account, f.remarks) for f in found] == [("acct-7", 2)]


def test_the_p_value_is_that_of_so_many_matches_by_chance() -> None:
    numbers = collected(*(remark("acct-7", n) for n in (1, 2)), remark("acct-8", 3))
    found = name(numbers, ACCOUNTS, RING, below=1e-3)
    # Two of three remarks; 100 accounts under one key.
    assert found[0].p_value == pytest.approx((3 / 2**35) ** 2 / 2)
    assert found[0].adjusted == pytest.approx(100 * found[0].p_value)


def test_one_remark_of_a_stranger_names_nobody() -> None:
    assert name(collected(remark("stranger", 1)), ACCOUNTS, RING, below=1.0) == []


def test_copies_of_one_remark_are_one_piece_of_evidence() -> None:
    found = name(collected(*[remark("acct-7", 1)] * 50), ACCOUNTS, RING, below=1.0)[0]
    assert (found.remarks, found.times) == (1, 50)
    assert found.p_value == pytest.approx(2.0**-TAG_BITS)


def test_what_an_older_key_wrote_is_found_after_a_rotation() -> None:
    ring = Keyring((Key("new", b"n" * 32), KEY))
    numbers = collected(remark("acct-7", 1), remark("acct-7", 2))
    assert [f.key_id for f in name(numbers, ACCOUNTS, ring, below=1e-3)] == ["test"]


def test_every_key_that_was_tried_is_corrected_for() -> None:
    ring = Keyring((Key("new", b"n" * 32), KEY))
    numbers = collected(remark("acct-7", 1), remark("acct-7", 2))
    found = name(numbers, ACCOUNTS, ring, below=1e-3)[0]
    assert found.adjusted == pytest.approx(200 * found.p_value)


@given(st.lists(st.integers(1, 3_000), max_size=8))
def test_how_a_corpus_is_cut_into_chunks_does_not_matter(sizes: list[int]) -> None:
    corpus = json.dumps([f'Line {n}\nof "text". {remark("acct-1", n)}\n' for n in range(20)])
    remarks = Remarks(CLOSINGS)
    rest = corpus.encode()
    for size in sizes:
        remarks.feed(rest[:size])
        rest = rest[size:]
    remarks.feed(rest)
    remarks.end()
    assert remarks.numbers == collected(corpus)
    assert len(remarks.numbers) == 20


def test_bytes_that_come_one_by_one_are_read() -> None:
    remarks = Remarks(CLOSINGS)
    for byte in f"Text. {remark('acct-1', 1)} More.".encode():
        remarks.feed(bytes([byte]))
    remarks.end()
    assert len(remarks.numbers) == 1


@pytest.mark.parametrize(
    "coded",
    [
        lambda text: text.upper(),
        lambda text: text.replace(" ", "\n    "),
        lambda text: json.dumps(text.replace(" ", "\n", 3)),
        lambda text: json.dumps(json.dumps(text.replace(" ", "\n", 3))),
        lambda text: f'id,answer\n1,"said ""yes"". {text}"\n',
        lambda text: f"“Quoted — ‘twice’” {text}",
        lambda text: text.replace("e", "\\u0065"),
    ],
)
def test_a_remark_is_found_however_it_is_written(coded: object) -> None:
    assert callable(coded)
    assert len(collected(coded(remark("acct-1", 7)))) == 1


def test_a_remark_does_not_go_on_in_the_next_file() -> None:
    text = remark("acct-1", 7)
    assert collected(text[:60], text[60:]) == Counter()


def test_a_text_full_of_polite_sentences_names_nobody() -> None:
    """10,000 remarks of another key: 10,000 x 100 / 2^35 = .00003 matches expected."""
    other = Key("other", b"o" * 32)
    numbers = collected(*(remark(f"their-{n}", n % 8, other) for n in range(10_000)))
    assert len(numbers) > 9_900
    assert name(numbers, ACCOUNTS, RING, below=1e-3) == []


def test_many_matches_have_a_p_value_that_is_a_number() -> None:
    assert p_value(256, 10**6) == 0.0
    assert p_value(1, 2**36) == 1.0


def test_a_tag_belongs_to_an_account_and_a_key() -> None:
    assert tag(KEY, "a") != tag(KEY, "b")
