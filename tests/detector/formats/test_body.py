from __future__ import annotations

import json
from typing import Any

import pytest

from detector.formats.body import MAX_ROWS, conversation, parameters, read_body

CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


# What a client may send, and what was asked.
SHAPES: dict[str, tuple[Any, list[Any]]] = {
    "one message": ({"messages": [said("user", "hi")]}, ["hi"]),
    "roles": (
        {"messages": [said("system", "s"), said("user", "u"), said("assistant", "a")]},
        ["system: s\nuser: u\nassistant: a"],
    ),
    "anthropic system": ({"system": "s", "messages": [said("user", "u")]}, ["system: s\nuser: u"]),
    "anthropic system parts": (
        {"system": [{"type": "text", "text": "s"}], "messages": [said("user", "u")]},
        ["system: s\nuser: u"],
    ),
    "parts": (
        {
            "messages": [
                said("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
            ]
        },
        ["a\nb"],
    ),
    "tool calls": (
        {
            "messages": [
                said("user", "u"),
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c", "content": "2"},
            ]
        },
        ['user: u\nassistant: add({"a": 1})\ntool: 2'],
    ),
    "anthropic tools": (
        {
            "messages": [
                said("assistant", [{"type": "tool_use", "name": "add", "input": {"a": 1}}]),
                said("user", [{"type": "tool_result", "content": "2"}]),
            ]
        },
        ['assistant: add({"a":1})\nuser: 2'],
    ),
    "gemini": (
        {
            "systemInstruction": {"parts": [{"text": "s"}]},
            "contents": [{"role": "user", "parts": [{"text": "u"}]}],
        },
        ["system: s\nuser: u"],
    ),
    "responses": ({"instructions": "s", "input": "u"}, ["system: s\nuser: u"]),
    "responses items": (
        {
            "input": [
                said("user", [{"type": "input_text", "text": "u"}]),
                {"type": "function_call", "name": "add", "arguments": "{}"},
                {"type": "function_call_output", "output": "2"},
            ]
        },
        ["user: u\nassistant: add({})\ntool: 2"],
    ),
    "prompt": ({"prompt": "p"}, ["p"]),
    "prompts": ({"prompt": ["p", "q"]}, ["p\nq"]),
    "token ids": ({"prompt": [464, 3290]}, ["464 3290"]),
    "embedding": ({"input": ["a", "b"]}, ["a\nb"]),
    "vector": ({"input": [1, 2.5]}, [[1.0, 2.5]]),
    "rows": ({"input": [[1, 2], [3, 4]]}, [[1.0, 2.0], [3.0, 4.0]]),
    "instances": ({"instances": [[1, 2], [3, 4]]}, [[1.0, 2.0], [3.0, 4.0]]),
    "images": ({"instances": [[[1, 2], [3, 4]]]}, [[1.0, 2.0, 3.0, 4.0]]),
    "named numbers": ({"instances": [{"b": 2, "a": 1}]}, [[1.0, 2.0]]),
    "words in rows": ({"instances": [{"a": 1, "b": "x"}]}, ['{"a":1,"b":"x"}']),
    "kserve v2": (
        {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]},
        [[1.0, 2.0], [3.0, 4.0]],
    ),
    "kserve v2 nested": (
        {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [[1, 2]]}]},
        [[1.0, 2.0]],
    ),
    "columns": ({"inputs": {"x": [[1, 2], [3, 4]]}}, [[1.0, 2.0], [3.0, 4.0]]),
    "mlflow": (
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}},
        [[1.0, 2.0], [3.0, 4.0]],
    ),
    "tgi": ({"inputs": "p", "parameters": {"temperature": 1}}, ["p"]),
    "bare array": ([[1, 2]], [[1.0, 2.0]]),
    "bare numbers": ([1, 2], [[1.0, 2.0]]),
    "nothing known": ({"audio": "x"}, []),
    "empty messages": ({"messages": []}, []),
    "null messages then a prompt": ({"messages": None, "prompt": "p"}, ["p"]),
    "bare number": (7, ["7"]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_body_becomes_what_was_asked(shape: str) -> None:
    body, inputs = SHAPES[shape]
    assert read_body(json.dumps(body)).inputs == inputs


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ("", []),
        ("  \n", []),
        ("plain words", ["plain words"]),
        ('{"input": [NaN]}', ['{"input": [NaN]}']),
        ('{"messages": ' + "[" * 50_000, ['{"messages": ' + "[" * 50_000]),
        ("\x89PNG\r\n\x1a\n\x00\x00", []),
        ("\ufffd\ufffd\ufffdx", []),
    ],
    ids=["empty", "blank", "text", "not JSON", "deep", "binary", "mostly repaired"],
)
def test_a_body_that_is_not_json_is_its_text_or_nothing(body: str, inputs: list[str]) -> None:
    assert read_body(body).inputs == inputs


def test_one_request_counts_at_most_so_many_rows() -> None:
    assert len(read_body(json.dumps([[1]] * (MAX_ROWS + 9))).inputs) == MAX_ROWS


def test_images_are_told_apart_without_their_bytes() -> None:
    def image(data: str) -> str | None:
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        return conversation([said("user", [part])])

    one, again, other = image("A" * 9000), image("A" * 9000), image("B" * 9000)
    assert one == again
    assert one != other
    assert one is not None
    assert len(one) == len("[image_url 0123456789abcdef]")


def test_parameters_have_the_contracts_names_and_stay_small() -> None:
    found = parameters(
        {
            "temperature": 0.5,
            "max_completion_tokens": 9,
            "reasoning_effort": "high",
            "logit_bias": {"50256": -100},
            "tools": [{}, {}],
            "response_format": {"type": "json_object", "schema": {}},
            "stop": ["x"],
            "user": "someone",
            "n": 10**400,
            "seed": [1],
        }
    )
    assert found == {
        "temperature": 0.5,
        "max_tokens": 9,
        "reasoning": "high",
        "logit_bias": {"50256": -100},
        "tools": 2,
        "response_format": "json_object",
    }


def test_geminis_and_tgis_nested_parameters_are_found() -> None:
    assert parameters({"generationConfig": {"maxOutputTokens": 5, "topK": 3}}) == {
        "max_tokens": 5,
        "top_k": 3,
    }
    assert parameters({"parameters": {"max_new_tokens": 5}}) == {"max_tokens": 5}
