"""Feedback records: decoded whole, or refused with what is wrong."""

from __future__ import annotations

import pytest

from responders.feedback import (
    Allow,
    BadFeedback,
    Clear,
    Disallow,
    Feedback,
    SetMode,
    decode_feedback,
    encode_feedback,
    with_tick,
)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            '{"type":"allow","id":"1","by":"ann","scope":"org","value":"o","reason":"partner"}',
            Allow(id="1", by="ann", scope="org", value="o", reason="partner"),
        ),
        (
            '{"type":"allow","id":"1","by":"a","scope":"cidr","value":"10.1.2.3/8","reason":"",'
            '"expires_at":5.0,"at":1.0}',
            Allow(
                id="1", by="a", scope="cidr", value="10.0.0.0/8", reason="", expires_at=5.0, at=1.0
            ),
        ),
        (
            '{"type":"disallow","id":"1","by":"a","scope":"ip","value":"2001:DB8::0"}',
            Disallow(id="1", by="a", scope="ip", value="2001:db8::"),
        ),
        (
            '{"type":"clear","id":"1","by":"a","scope":"account","value":"x","reason":"ok",'
            '"grace_s":0}',
            Clear(id="1", by="a", scope="account", value="x", reason="ok", grace_s=0.0),
        ),
        ('{"type":"mode","id":"1","by":"a","mode":"off"}', SetMode(id="1", by="a", mode="off")),
    ],
)
def test_every_kind_is_decoded_and_comes_back(record: str, expected: Feedback) -> None:
    assert decode_feedback(record) == expected
    assert decode_feedback(encode_feedback(expected)) == expected


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b"", "truncated"),
        (b'{"type":"allow"', "truncated"),
        (b"\xff\xfe", "feedback"),
        (b'{"id":"1"}', "type"),
        (b'{"type":"ban","id":"1","by":"a"}', "ban"),
        (b'{"type":"mode","id":"1","by":"a","mode":"on"}', "on"),
        (b'{"type":"mode","id":"","by":"a","mode":"off"}', "`id` is empty"),
        (b'{"type":"mode","by":"a","mode":"off"}', "id"),
        (b'{"type":"disallow","id":"1","by":"a","scope":"ip","value":"1.2.3"}', "scope ip"),
        (b'{"type":"disallow","id":"1","by":"a","scope":"cidr","value":"x/8"}', "scope cidr"),
        (b'{"type":"disallow","id":"1","by":"a","scope":"user","value":"x"}', "user"),
        (b'{"type":"disallow","id":"1","by":"a","scope":"org","value":""}', "1 to 256 bytes"),
        (
            b'{"type":"clear","id":"1","by":"a","scope":"org","value":"o","reason":"","grace_s":-1}',
            "`grace_s` is negative",
        ),
        (b'{"type":"mode","id":"1","by":"a","mode":"off","at":NaN}', "feedback"),
        (b'{"type":"mode","id":"1","by":"a","mode":"off","at":1e999}', "feedback"),
    ],
)
def test_a_bad_record_is_refused_with_the_reason(record: bytes, why: str) -> None:
    with pytest.raises(BadFeedback, match=why):
        decode_feedback(record)


def test_a_reason_has_an_end() -> None:
    record = '{"type":"clear","id":"1","by":"a","scope":"org","value":"o","reason":"%s"}'
    decode_feedback(record % ("x" * 1024))
    with pytest.raises(BadFeedback, match="longer than 1024"):
        decode_feedback(record % ("x" * 1025))


def test_the_journal_sets_the_tick() -> None:
    command = SetMode(id="1", by="a", mode="off")
    assert with_tick(command, 7) == SetMode(id="1", by="a", mode="off", tick=7)
