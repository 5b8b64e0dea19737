"""deploy/nginx on the real nginx: what clients get, what the model gets, and what the log says."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.deploy.gateway import DEPLOY, Gateway, Model, Verdicts, gateway, served
from tests.real_nginx import free_port

QUOTA = "https://iana.org/assignments/http-problem-types#quota-exceeded"
ABNORMAL = "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"


@pytest.fixture
def verdicts() -> Verdicts:
    return Verdicts()


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def model_port(model: Model) -> Iterator[int]:
    with served(model.handler()) as port:
        yield port


@pytest.fixture
def verdict_port(verdicts: Verdicts) -> Iterator[int]:
    with served(verdicts.handler()) as port:
        yield port


@pytest.fixture
def gate(verdict_port: int, model_port: int) -> Iterator[Gateway]:
    with gateway(verdict_port, model_port) as running:
        yield running


def test_the_documented_log_format_is_the_one_that_is_deployed() -> None:
    def log_format(text: str) -> str:
        start = text.index("log_format velvetrope escape")
        return text[start : text.index(";", start)]

    documented = (DEPLOY.parents[1] / "docs" / "formats.md").read_text()
    deployed = (DEPLOY / "velvetrope" / "http.conf").read_text()
    assert log_format(documented) == log_format(deployed)


def test_an_allowed_request_reaches_the_model_with_the_verdict(gate: Gateway) -> None:
    answer = gate.post("k1")
    assert answer.status_code == 200
    assert answer.json()["x-velvetrope-action"] == "allow"
    assert answer.json()["x-velvetrope-account"] == "acct-k1"


def test_a_throttled_client_gets_429_as_a_problem_document(
    gate: Gateway, verdicts: Verdicts
) -> None:
    verdicts.answers["k1"] = (
        403,
        {
            "X-Velvetrope-Status": "429",
            "X-Velvetrope-Action": "throttle",
            "Retry-After": "17",
            "RateLimit": '"quota";r=0;t=17',
            "RateLimit-Policy": '"quota";q=6;w=60',
        },
    )
    answer = gate.post("k1")
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == QUOTA
    assert answer.json()["status"] == 429
    assert answer.headers["retry-after"] == "17"
    assert answer.headers["ratelimit"] == '"quota";r=0;t=17'
    assert answer.headers["ratelimit-policy"] == '"quota";q=6;w=60'
    assert not [name for name in answer.headers if name.startswith("x-velvetrope")]


@pytest.mark.parametrize(
    "verdict", [(401, {}), (403, {"X-Velvetrope-Status": "401"})], ids=["as 401", "as 403"]
)
def test_a_challenged_client_gets_401(
    gate: Gateway, verdicts: Verdicts, verdict: tuple[int, dict[str, str]]
) -> None:
    status, headers = verdict
    challenge = {"X-Velvetrope-Action": "challenge", "WWW-Authenticate": 'Bearer realm="again"'}
    verdicts.answers["k1"] = (status, headers | challenge)
    answer = gate.post("k1")
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == 'Bearer realm="again"'
    assert answer.json()["status"] == 401


def test_a_blocked_client_gets_403_as_a_problem_document(gate: Gateway, verdicts: Verdicts) -> None:
    verdicts.answers["k1"] = (403, {"X-Velvetrope-Status": "403", "X-Velvetrope-Action": "block"})
    answer = gate.post("k1")
    assert answer.status_code == 403
    assert answer.json()["type"] == ABNORMAL


def test_the_models_own_refusals_pass_as_they_are(gate: Gateway, model: Model) -> None:
    model.status = 403
    answer = gate.post("k1")
    assert answer.status_code == 403
    assert answer.json()["authorization"] == "Bearer k1"


def test_forged_headers_reach_neither_the_service_nor_the_model_nor_the_client(
    gate: Gateway, verdicts: Verdicts, model: Model
) -> None:
    model.headers = {"X-Velvetrope-Action": "forged", "X-Velvetrope-Account": "forged"}
    answer = gate.post(
        "k1",
        X_Velvetrope_Action="forged",
        X_Velvetrope_Level="forged",
        X_Velvetrope_Account="forged",
        X_Velvetrope_Status="forged",
        X_Velvetrope_Secret="forged",
        X_Account="forged",
    )
    assert "forged" not in verdicts.asked[0].values()
    assert "forged" not in answer.json().values()
    assert "forged" not in answer.headers.values()
    assert [event.account for event in gate.events(1)] == ["acct-k1"]


def test_nginx_refuses_two_keys(gate: Gateway, verdicts: Verdicts) -> None:
    keys = [("Authorization", "Bearer k1"), ("Authorization", "Bearer k2")]
    assert gate.client.post("/v1/chat/completions", headers=keys).status_code == 400
    assert verdicts.asked == []


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("/v1/chat/completions?key=s3cret", "/v1/chat/completions"),
        ("/v1//%63hat/./completions", "/v1/chat/completions"),
        ("/v1/x%0d%0aX-Account:%20victim", "/v1/x%0d%0aX-Account:%20victim"),
    ],
    ids=["without its query", "as nginx matched it", "no field of the client's own"],
)
def test_the_service_is_told_the_path(
    sent: str, told: str, gate: Gateway, verdicts: Verdicts
) -> None:
    with socket.create_connection(("127.0.0.1", gate.port)) as connection:
        connection.sendall(f"GET {sent} HTTP/1.0\r\n\r\n".encode())
        assert connection.recv(4096)
    assert verdicts.asked[0]["x-original-uri"] == told
    assert verdicts.asked[0]["x-original-method"] == "GET"
    assert "x-account" not in verdicts.asked[0]


def test_a_named_caller_and_the_secret_go_to_the_service(
    verdict_port: int, model_port: int, verdicts: Verdicts
) -> None:
    settings = {"caller": "$http_x_account", "secret": '"s3cret"'}
    with gateway(verdict_port, model_port, **settings) as gate:
        gate.post("k1", X_Account="acct-from-the-front")
    assert verdicts.asked[0]["x-account"] == "acct-from-the-front"
    assert verdicts.asked[0]["x-velvetrope-secret"] == "s3cret"


def test_the_services_connection_is_kept(gate: Gateway, verdicts: Verdicts) -> None:
    for _ in range(3):
        assert gate.post("k1").status_code == 200
    assert len(verdicts.asked) == 3
    assert len(verdicts.connections) == 1


AWAY: dict[str, Callable[[Verdicts], None]] = {
    "slow": lambda verdicts: setattr(verdicts, "delay_s", 5.0),
    "ill": lambda verdicts: verdicts.answers.update(k1=(503, {"Retry-After": "9"})),
    "something else": lambda verdicts: verdicts.answers.update(k1=(404, {})),
}


@pytest.mark.parametrize("away", list(AWAY))
@pytest.mark.parametrize(("setting", "expected"), [("open", 200), ("closed", 503)])
def test_a_service_that_does_not_answer_lets_through_or_closes(
    away: str, setting: str, expected: int, verdicts: Verdicts, verdict_port: int, model_port: int
) -> None:
    AWAY[away](verdicts)
    settings = {"when_away": setting, "patience": "as deployed"}
    with gateway(verdict_port, model_port, **settings) as gate:
        began = time.monotonic()
        answer = gate.post("k1", X_Velvetrope_Action="forged")
        assert answer.status_code == expected
        assert time.monotonic() - began < 2.0
        if expected == 200:
            assert "x-velvetrope-action" not in answer.json()
        else:
            assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("setting", "expected"), [("open", 200), ("closed", 503)])
def test_a_service_that_is_down_lets_through_or_closes(
    setting: str, expected: int, model_port: int
) -> None:
    settings = {"when_away": setting, "caller": "$http_x_account"}
    with gateway(free_port(), model_port, **settings) as gate:
        assert gate.post("k1", X_Account="acct-front").status_code == expected
        event = gate.events(1)[0]
    assert event.account == "acct-front"
    assert event.served == (expected == 200)


def test_the_log_says_when_a_request_arrived_and_how_long_it_took(gate: Gateway) -> None:
    before = time.time()
    gate.post("k1")
    after = time.time()
    event = gate.events(1)[0]
    assert before - 0.002 <= float(event.ts) <= after
    assert event.latency_ms is not None
    assert 0 <= event.latency_ms <= (after - before) * 1000 + 2
    assert (event.status, event.served, event.model) == (200, True, "m")
    assert (event.ip, event.endpoint) == ("127.0.0.1", "/v1/chat/completions")
    assert event.input == "hello"


def test_a_body_of_15_kb_is_in_the_log(gate: Gateway) -> None:
    text = 'wörd "quoted" back\\slash\n' * 600
    gate.post("k1", {"model": "m", "messages": [{"role": "user", "content": text}]})
    assert gate.events(1)[0].input == text


def test_a_body_over_the_buffer_is_counted_without_its_input(gate: Gateway) -> None:
    gate.post("k1", {"messages": [{"role": "user", "content": "x" * 200_000}]})
    event = gate.events(1)[0]
    assert (event.served, event.input) == (True, None)


def test_a_binary_body_is_counted_without_an_input(gate: Gateway) -> None:
    gate.post("k1", bytes(range(256)) * 32)
    event = gate.events(1)[0]
    assert (event.served, event.input) == (True, None)


def test_invalid_utf8_does_not_take_a_request_out_of_the_count(gate: Gateway) -> None:
    gate.post("k1", b'{"messages": [{"role": "user", "content": "caf\xff"}]}')
    assert gate.events(1)[0].input == "caf\N{REPLACEMENT CHARACTER}"


def test_refused_requests_are_logged_as_not_served(gate: Gateway, verdicts: Verdicts) -> None:
    verdicts.answers |= {
        "k1": (403, {"X-Velvetrope-Status": "429"}),
        "k2": (401, {}),
        "k3": (403, {"X-Velvetrope-Status": "403"}),
    }
    for key in ("k1", "k2", "k3", "k4"):
        gate.post(key)
    events = gate.events(4)
    assert [(e.account, e.status, e.served) for e in events] == [
        ("acct-k1", 429, False),
        ("acct-k2", 401, False),
        ("acct-k3", 403, False),
        ("acct-k4", 200, True),
    ]


def test_the_models_label_is_logged_and_hidden(gate: Gateway, model: Model) -> None:
    model.headers = {"X-Model-Label": "7", "X-Model-Confidence": "0.91"}
    answer = gate.post("k1", {"instances": [[0, 1.5, 2]]})
    output = gate.events(1)[0].output
    assert output is not None
    assert (output.label, output.confidence) == ("7", 0.91)
    assert "x-model-label" not in answer.headers


def test_no_key_is_in_the_log(gate: Gateway) -> None:
    gate.client.post("/v1/models/m:predict?key=s3cret-key", headers={"Authorization": "Bearer sk"})
    event = gate.events(1)[0]
    assert event.model == "m"
    log = (gate.nginx.folder / "velvetrope.log").read_text()
    assert "s3cret-key" not in log
    assert "Bearer" not in log


def test_a_client_that_hangs_up_leaves_no_line_that_does_not_decode(gate: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gate.port)) as connection:
        connection.sendall(b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{")
    gate.post("k1")
    # The first has a line too if its verdict was there before it hung up, perhaps after k1's.
    deadline = time.monotonic() + 5
    while "acct-k1" not in (served := [e.account for e in gate.events(1) if e.served]):
        assert time.monotonic() < deadline
    assert served == ["acct-k1"]


def test_what_velvetrope_does_not_guard_is_not_in_the_log(
    verdict_port: int, model_port: int
) -> None:
    unguarded = "location = /health { return 200; }\n\n        location / {"
    with gateway(verdict_port, model_port, location=unguarded) as gate:
        assert gate.client.get("/health").status_code == 200
        gate.post("k1")
        assert [event.endpoint for event in gate.events(1)] == ["/v1/chat/completions"]
