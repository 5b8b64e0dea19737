"""No answer to a caller tells of a score, a signal, a threshold, a campaign or a reason."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from responders.decisions import Decision, Evidence, Reason, Signal
from responders.gateways.app import create_app
from responders.settings import ApiSettings, ChallengeSettings
from responders.stores.memory import MemoryStore
from tests.responders.making import NOW, decision

# Every value that a decision holds of why, each found nowhere else in an answer.
WHY: Final = Evidence(
    e_value=271828.25,
    signals=(
        Signal(
            name="coverage.zzsignal",
            value=0.314159,
            typical=(0.577215, 0.662607),
            weight=0.161803,
            text="zzexplained",
        ),
    ),
)
SECRETS: Final = (
    *("271828", "zzsignal", "314159", "577215", "662607", "161803", "zzexplained"),
    *("zzreason", "zzcode", "AML.T0024", "zzcampaign", "987654", "zzscorer", "zzbaseline"),
    *("e_value", "evidence", "score", "threshold", "weight", "suspic"),
)
ACTIONS: Final = ("throttle", "challenge", "poison", "block")
# Of a problem document (RFC 9457) and what this project adds to it for the client.
MEMBERS: Final = {
    *("type", "title", "status", "detail", "violated-policies", "authenticate_at", "challenge"),
}
ACCOUNT: Final = {"X-Account": "acct-1"}
KEYS = '{"format": 1, "keys": [{"id": "k", "secret": "%s="}]}' % ("A" * 43)
CALLS: Final[dict[str, tuple[str, str, dict[str, Any] | None]]] = {
    "nginx": ("GET", "/authorize/nginx", None),
    "envoy": ("POST", "/authorize/envoy/v1/chat?x=y", None),
    "forward": ("GET", "/authorize/forward", None),
    "opa": ("POST", "/authorize/opa", {"input": {"request": {"headers": ACCOUNT}}}),
    "litellm before": (
        "POST",
        "/beta/litellm_basic_guardrail_api",
        {"input_type": "request", "texts": [], "request_data": {"user_api_key_user_id": "acct-1"}},
    ),
    "litellm after": (
        "POST",
        "/beta/litellm_basic_guardrail_api",
        {"input_type": "response", "texts": [], "request_data": {"user_api_key_user_id": "acct-1"}},
    ),
    "challenge": ("GET", "/challenge", None),
    "challenge's return": ("GET", "/challenge?return=forged", None),
    "challenge's answer": ("POST", "/challenge", {"answer": "forged"}),
    "feed": ("GET", "/v1/decisions", None),
    "identities": ("GET", "/v1/identities", None),
    "ready": ("GET", "/readyz", None),
    "metrics": ("GET", "/metrics", None),
}


def told(action: str) -> Decision:
    return decision(
        action=action,
        params={"rate_per_min": 6.0, "burst": 1, "bucket": "campaign:zzcampaign"},
        reason=Reason(code="zzcode", text="zzreason", technique="AML.T0024.002"),
        evidence=WHY,
        campaign="zzcampaign",
        n_events=987654,
        scorer="zzscorer",
        baseline="zzbaseline",
    )


@pytest.fixture(params=ACTIONS)
async def api(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    keys = tmp_path / "keys.json"
    keys.write_text(KEYS)
    store = MemoryStore(clock=lambda: NOW)
    store.set_mode("enforce")
    store.apply([told(request.param)])
    settings = ApiSettings(challenge=ChallengeSettings(keys=keys, tries=1))
    app = create_app(store, settings, clock=lambda: NOW)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://v") as client:
        yield request.param, client


def everything(answer: httpx.Response) -> str:
    fields = " ".join(f"{name}: {value}" for name, value in answer.headers.items())
    return f"{fields} {answer.text}"


@pytest.mark.parametrize("call", [c for c in CALLS if c not in ("feed", "metrics")])
async def test_no_caller_is_told_why(api: tuple[str, httpx.AsyncClient], call: str) -> None:
    _, client = api
    method, path, body = CALLS[call]
    for _ in range(3):  # within the rate, and beyond it
        answer = await client.request(method, path, json=body, headers=ACCOUNT)
        said = everything(answer).lower()
        assert [secret for secret in SECRETS if secret.lower() in said] == []


async def test_problem_documents_have_no_members_but_the_known(
    api: tuple[str, httpx.AsyncClient],
) -> None:
    action, client = api
    answers = [await client.get("/authorize/forward", headers=ACCOUNT) for _ in range(3)]
    assert answers[-1].status_code == {"block": 403, "challenge": 401}.get(action, 429)
    assert json.loads(answers[-1].text).keys() <= MEMBERS


async def test_followers_are_told_what_to_enforce_and_no_evidence(
    api: tuple[str, httpx.AsyncClient],
) -> None:
    action, client = api
    answer = await client.get("/v1/decisions")
    (shown,) = answer.json()["decisions"]
    assert shown["action"] == action
    assert "evidence" not in shown
    for secret in ("271828", "zzsignal", "314159", "577215", "161803", "zzexplained"):
        assert secret not in answer.text
