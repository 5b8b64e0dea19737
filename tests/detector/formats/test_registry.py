from __future__ import annotations

import pytest

from detector.events import BadRecord
from detector.formats import UnknownFormat, get, names, split_records


def test_every_name_is_found_and_is_the_formats_own() -> None:
    assert names() == ("native", "nginx", "litellm", "envoy")
    assert [get(name).name for name in names()] == list(names())


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("ngnix", "nginx"), ("LiteLLM", "litellm"), ("nativ", "native")]
)
def test_an_unknown_name_is_told_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UnknownFormat, match=f"did you mean '{nearest}'"):
        get(wrong)


@pytest.mark.parametrize(
    ("body", "records"),
    [
        (b'{"a": 1}', [b'{"a": 1}']),
        (b'[{"a": 1}, {"b": [2]}]', [b'{"a": 1}', b'{"b": [2]}']),
        (b'{"a": 1}\n\n{"b"\n', [b'{"a": 1}', b'{"b"']),
        (b'{"a": 1}\r\n{"b":\r1}\n', [b'{"a": 1}\r', b'{"b":\r1}']),
        (b'{\n "a": 1\n}\n', [b'{\n "a": 1\n}']),
        (b"[]", []),
    ],
    ids=["one", "array", "lines", "returns", "one over many lines", "empty array"],
)
def test_a_posted_body_is_split_by_its_shape(body: bytes, records: list[bytes]) -> None:
    assert split_records(body) == records


@pytest.mark.parametrize("body", [b"", b" \n", b"[{", b'[{"a": 1}] x', b"[" * 100_000])
def test_a_body_that_nobody_can_split_is_refused_whole(body: bytes) -> None:
    with pytest.raises(BadRecord):
        split_records(body)


@pytest.mark.parametrize("name", names())
def test_the_control_record_ends_the_input_in_every_format(name: str) -> None:
    events, bad = get(name).decode_lines([b'{"control": "end"}'], 0.0)
    assert [type(event).__name__ for event in events] == ["EndOfInput"]
    assert bad == []
