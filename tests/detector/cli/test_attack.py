"""`velvetrope attack` at a real gateway: uvicorn, the middleware, the verdict API over a store."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_wine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner
from velvetrope_client.asgi import Headers, Velvetrope

from detector.attack.strategies import TEXT, VECTOR
from detector.cli import build
from responders.gateways.app import create_app
from responders.settings import ApiSettings
from responders.stores.memory import MemoryStore
from tests.real_uvicorn import serving
from tests.responders.making import decision

X = load_wine().data[np.random.default_rng(0).permutation(178)]
FOREVER = 4e9
BODY = ("--body", '{"rows": ["$INPUT"]}', "--answer", "labels.0")


class Gateway:
    """A model; its caller is throttled at its 40th request, and challenged 2 s later."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.store.set_mode("enforce")
        self.callers: list[str] = []
        self._throttled_at = 0.0

    async def predict(self, request: Request) -> JSONResponse:
        document = await request.json()
        self.callers.append(request.headers["x-account"])
        if len(self.callers) == 40:
            self._throttled_at = time.monotonic()
            self._decide("throttle", {"rate_per_min": 120.0, "burst": 1, "bucket": "trial"})
        if self._throttled_at and time.monotonic() > self._throttled_at + 2.0:
            self._decide("challenge", {})
        label = int(document["rows"][0][0] > 13.0)
        return JSONResponse({"labels": [label], "logprobs": {"content": []}})

    def _decide(self, action: str, params: dict[str, Any]) -> None:
        version = len(self.callers)
        fields = {"value": "trial-1", "expires_at": FOREVER, "action": action, "params": params}
        self.store.apply([decision(version, **fields)])


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    return written(tmp_path / "seeds.csv", [*X[:60].tolist()])


def written(path: Path, rows: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def attack(*arguments: str) -> Any:
    return CliRunner().invoke(build(), ["attack", *arguments])


@pytest.fixture
def gateway() -> Iterator[tuple[str, Gateway]]:
    behind = Gateway()
    with serving(create_app(behind.store, ApiSettings())) as api:
        app = Velvetrope(
            Starlette(routes=[Route("/predict", behind.predict, methods=["POST"])]),
            url=api,
            identify=Headers(account="x-account"),
        )
        with serving(app, lifespan="on") as url:
            yield f"{url}/predict", behind


def test_it_says_when_the_gateway_held_it_up_and_what_it_got(
    gateway: tuple[str, Gateway], seeds: Path, tmp_path: Path
) -> None:
    url, behind = gateway
    held_out = written(
        tmp_path / "held.csv", [[*row, int(row[0] > 13.0)] for row in X[60:].tolist()]
    )
    result = attack(
        *(url, "--strategy", "random", "--seeds", str(seeds), *BODY, "--json"),
        *("--header", "X-Account: trial-{n}", "--accounts", "1", "--gap", "0.02"),
        *("--budget", "300", "--minutes", "0.2", "--held-out", str(held_out)),
        *("--out", str(tmp_path / "out.json")),
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "out.json").read_text())
    assert found["reached"]["throttled"]["accounts"] == 1
    assert found["reached"]["challenged"]["accounts"] == 1
    assert found["reached"]["blocked"]["accounts"] == 0
    assert found["reached"]["throttled"]["requests_until_median"] > 40
    assert 40 <= found["answers"] < 300
    assert found["answers_before_first_response"] <= found["answers"]
    assert set(behind.callers) == {"trial-1"}
    assert found["agreement"]["at_the_end"] > found["agreement"]["without_a_query"]


def test_texts_need_no_seeds_and_the_table_is_for_people() -> None:
    async def complete(request: Request) -> JSONResponse:
        document = await request.json()
        assert request.headers["authorization"] == "Bearer key-1"
        said = document["messages"][0]["content"][:20]
        return JSONResponse({"choices": [{"message": {"content": said}}]})

    app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
    with serving(app) as url:
        result = CliRunner().invoke(
            build(),
            [
                *("attack", f"{url}/v1/chat/completions", "--strategy", "reasoning"),
                *("--budget", "10", "--gap", "0.001"),
            ],
            env={"VELVETROPE_ATTACK_KEYS": "key-1"},
        )
    assert result.exit_code == 0, result.output
    assert "over 1 accounts" in result.stdout
    assert "key-1" not in result.output
    assert "who asks" not in result.output
    assert "is velvetrope in front" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("http://models.example.com/v1", "--strategy", "random"), "--confirm-target"),
        (("http://127.0.0.1:1/", "--strategy", "guess"), "no strategy 'guess'"),
        (("http://127.0.0.1:1/", "--strategy", "jbda"), "--seeds FILE"),
        (("ftp://127.0.0.1/", "--strategy", "reasoning"), "expected http"),
        (("http://127.0.0.1:1/", "--strategy", "reasoning", "--header", "X"), "'NAME: VALUE'"),
        (
            ("http://127.0.0.1:1/", "--strategy", "reasoning", "--header", "X: \u00e9"),
            "visible ASCII",
        ),
        (("http://127.0.0.1:1/", "--strategy", "reasoning", "--body", "{}"), "no string '$INPUT'"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: tuple[str, ...], said: str) -> None:
    result = attack(*arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("secret\u00e9\n", encoding="utf-8")
    result = attack(
        "http://127.0.0.1:1/", "--strategy", "reasoning", "--keys", tmp_path / "keys.txt"
    )
    assert (result.exit_code, "secret" in result.output) == (1, False)
    assert "keys.txt: a key is one line of visible ASCII" in result.output


@pytest.mark.parametrize("name", [*TEXT, *VECTOR])
def test_every_strategy_can_be_asked_for_by_name(name: str) -> None:
    assert name in attack("http://127.0.0.1:1/", "--strategy", "guess").output


def test_nobody_there_is_said_in_one_line() -> None:
    result = attack("http://127.0.0.1:1/", "--strategy", "reasoning", "--gap", "0.001")
    assert result.exit_code == 1
    assert "no connection" in result.output
    assert "neither --keys nor --header says who asks" in result.output


def test_rows_that_no_json_can_hold_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "bad.csv", [[1.0, 2.0], [1.0, float("nan")]])
    result = attack(
        "http://127.0.0.1:1/", "--strategy", "jbda", "--seeds", path, "--body", '"$INPUT"'
    )
    assert result.exit_code == 1
    assert "bad.csv, row 2: a number is not finite" in result.output


def test_rows_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "bad.csv", [["a", "b"], [1.0, 2.0], [1.0, "two"]])
    result = attack("http://127.0.0.1:1/", "--strategy", "random", "--seeds", str(path), *BODY)
    assert result.exit_code == 1
    assert "bad.csv, row 3" in result.output
