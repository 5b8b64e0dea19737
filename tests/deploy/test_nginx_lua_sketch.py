"""deploy/nginx-lua keeps prompts out of the log: keyed sketches, the same bytes as in Python."""

from __future__ import annotations

import base64
import json
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from velvetrope_client.sketch import Sketcher

from detector.formats.body import read_body
from responders.gateways.caller import key_scope
from responders.settings import RedisSettings
from responders.stores.redis import RedisStore
from tests.deploy.gateway import Gateway, Model, served
from tests.deploy.lua_gateway import DEPLOY, lua_gateway
from tests.real_nginx import free_port
from tests.real_redis import RedisServer

ROOT: Final = DEPLOY.parents[1]
VECTORS: Final = json.loads((ROOT / "tests" / "sdk" / "sketch_vectors.json").read_text())
# The sketch of a raw body, for the vectors alone.
PROBE: Final = """
        location = /_sketch {
            client_body_buffer_size 1m;
            content_by_lua_block {
                ngx.req.read_body()
                local function read(file) return io.open(file):read("*a") end
                local lists = require("cjson").decode(read("{folder}/velvetrope/words.json"))
                local keys = require "velvetrope.keys"
                local key = keys.derive(keys.newest(read("{folder}/keys.json"), ""), "sketch")
                local sketch = require("velvetrope.sketch").new(key, lists)
                ngx.print(sketch(ngx.req.get_body_data() or ""))
            }
        }

        location / {"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keyring, as a file."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    ring = {"format": 1, "keys": [{"id": "2026-11", "secret": VECTORS["secret"]}]}
    file.write_text(json.dumps(ring))
    return file


@pytest.fixture(scope="module")
def gateway(redis_running: RedisServer, keys: Path) -> Iterator[Gateway]:
    prefix = f"{uuid.uuid4().hex}:"
    store = RedisStore(RedisSettings(url=redis_running.url, prefix=prefix))
    store.set_mode("enforce")
    with (
        served(Model().handler()) as model_port,
        lua_gateway(
            redis_running.url,
            model_port,
            prefix=prefix,
            replace={"        location / {": PROBE.replace("{folder}/keys.json", str(keys))},
            log_input="sketch",
            keys_file=str(keys),
        ) as running,
    ):
        yield running
    store.close()


def lines_after(gateway: Gateway, body: bytes) -> dict[str, Any]:
    """What the log says of one request."""
    log = gateway.nginx.folder / "velvetrope.log"
    before = len(log.read_bytes().splitlines())
    gateway.post("key", body)
    line: dict[str, Any] = json.loads(gateway.lines(before + 1)[before])
    return line


def test_its_words_are_those_of_the_specification() -> None:
    ours = (DEPLOY / "velvetrope" / "words.json").read_text()
    assert ours == (ROOT / "sdk" / "velvetrope_client" / "words.json").read_text()


@pytest.mark.parametrize("vector", VECTORS["texts"], ids=lambda vector: vector["name"])
def test_the_vectors_of_the_specification_hold(gateway: Gateway, vector: dict[str, str]) -> None:
    text = vector["text"].encode() if "text" in vector else base64.b64decode(vector["base64"])
    answer = gateway.client.post("/_sketch", content=text)
    assert answer.text == vector["sketch"]


def test_random_texts_give_the_same_bytes_as_in_python(gateway: Gateway) -> None:
    dice = random.Random(7)
    sketcher = Sketcher(bytes.fromhex(VECTORS["key"]))
    letters = "aeiou the WHAT? 0123456789\n\t.,;-_'ßéж漢😀"
    for _ in range(50):
        text = "".join(dice.choices(letters, k=dice.choice((1, 30, 300, 3000))))
        assert gateway.client.post("/_sketch", content=text.encode()).text == sketcher.sketch(text)


CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
BODIES: Final[dict[str, Any]] = {
    "lone question": {"messages": [{"role": "user", "content": "What is a café?"}]},
    "chat with tools": {
        "messages": [
            {"role": "system", "content": "be terse"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}, {"text": "there"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "42"},
        ]
    },
    "anthropic": {"system": "be kind", "messages": [{"role": "user", "content": "hello"}]},
    "gemini": {
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "contents": [{"role": "user", "parts": [{"text": "one"}, {"text": "two"}]}],
    },
    "responses": {"instructions": "rhyme", "input": "a poem"},
    "embeddings": {"input": ["one text", "another text"]},
    "completion": {"prompt": "Once upon a time"},
    "tokens": {"prompt": [1, 15, 400000]},
    "tgi": {"inputs": "some text", "parameters": {"temperature": 0.5}},
    "classifier": {"texts": ["good film", "bad film"]},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_body_is_sketched_as_the_text_that_the_detector_would_read(
    gateway: Gateway, body: dict[str, Any]
) -> None:
    text = json.dumps(body)
    expected = read_body(text).inputs[0]
    assert isinstance(expected, str)
    line = lines_after(gateway, text.encode())
    sketcher = Sketcher(bytes.fromhex(VECTORS["key"]))
    assert line["input_sketch"] == sketcher.sketch(expected)
    assert line["body"] == ""


def test_a_body_that_is_not_json_is_sketched_as_it_stands(gateway: Gateway) -> None:
    sketcher = Sketcher(bytes.fromhex(VECTORS["key"]))
    line = lines_after(gateway, b"plain words, no JSON")
    assert line["input_sketch"] == sketcher.sketch("plain words, no JSON")


def test_numbers_are_logged_as_they_are(gateway: Gateway) -> None:
    line = lines_after(gateway, b'{"instances": [[0, 1.5], [2, 3]]}')
    assert (line["input_sketch"], line["body"]) == ("", '{"instances": [[0, 1.5], [2, 3]]}')


def test_nothing_of_a_binary_body_is_logged(gateway: Gateway) -> None:
    line = lines_after(gateway, bytes(range(256)) * 8)
    assert (line["input_sketch"], line["body"]) == ("", "")


def test_the_detector_reads_the_line_with_model_and_parameters(gateway: Gateway) -> None:
    body = {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": "a secret prompt"}],
        "temperature": 0.25,
        "max_completion_tokens": 100,
        "logit_bias": {"50256": -100},
        "tools": [{"type": "function"}, {"type": "function"}],
        "response_format": {"type": "json_schema", "schema": {"secret": 1}},
    }
    log = gateway.nginx.folder / "velvetrope.log"
    before = len(log.read_bytes().splitlines())
    gateway.post("key", body)
    event = gateway.events(before + 1)[-1]
    assert event.input is None
    assert event.input_sketch is not None
    assert event.model == "gpt-x"
    assert event.params == read_body(json.dumps(body)).params
    assert b"secret" not in log.read_bytes().splitlines()[before]


def test_what_is_let_through_without_redis_counts_with_its_sketch(keys: Path) -> None:
    with (
        served(Model().handler()) as model_port,
        lua_gateway(
            f"redis://127.0.0.1:{free_port()}",
            model_port,
            prefix="velvetrope:",
            log_input="sketch",
            keys_file=str(keys),
        ) as gateway,
    ):
        assert gateway.post("key").status_code == 200
        event = gateway.events(1)[0]
    assert event.account == event.api_key == key_scope(b"key")
    assert event.input_sketch is not None
