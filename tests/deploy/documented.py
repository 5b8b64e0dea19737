"""Gateways that cannot be installed here, as their documentation and source say they behave.

Each reads its own configuration out of deploy/, so that a header that is missing there is missing
here, and asks the real verdict API. What is modelled is what they do with our answers:

- Traefik's `headers` and `forwardAuth` (pkg/middlewares/auth/forward.go): GET with X-Forwarded-*;
  2xx lets through, with headers that match `authResponseHeadersRegex` taken out and set again; all
  else is relayed whole; no answer is 500.
- APISIX's `forward-auth` (apisix/plugins/forward-auth.lua): below 300 lets through and sets
  `upstream_headers`, a missing one removed; all else is the client's, with `client_headers` alone;
  without an answer `allow_degradation` lets through.
- Kong's `opa` (developer.konghq.com/plugins/opa): a POST with the request in `input.request.http`;
  `result.allow` lets through with `headers` set on the request, else `status`, `headers` and
  `message` are the answer; anything but 200 is 500.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.deploy.gateway import Answering

__all__ = ["Answer", "Headers", "apisix", "kong", "proxy", "traefik"]

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
Headers = dict[str, str]  # lower-case
Answer = tuple[int, Headers, bytes]
# Asks about a request: headers for the model, or the client's answer.
Check = Callable[[str, str, Headers], Headers | Answer]


def traefik(api_port: int, secret: str) -> Check:
    """deploy/traefik/dynamic.yaml."""
    text = (DEPLOY / "traefik" / "dynamic.yaml").read_text()
    text = text.replace('{{ env "VELVETROPE_SECRET" }}', secret).replace("8470", str(api_port))
    middlewares = yaml.safe_load(text)["http"]["middlewares"]
    asked = middlewares["velvetrope"]["forwardAuth"]
    assert asked["trustForwardHeader"] is False
    taken = re.compile(asked["authResponseHeadersRegex"], re.IGNORECASE)
    changed = middlewares["velvetrope-forged"]["headers"]["customRequestHeaders"]

    def check(method: str, target: str, headers: Headers) -> Headers | Answer:
        for name, value in changed.items():
            headers.pop(name.lower(), None)
            if value:
                headers[name.lower()] = value
        allowed = [name.lower() for name in asked["authRequestHeaders"]]
        given = {name: headers[name] for name in allowed if name in headers}
        given |= {"X-Forwarded-Method": method, "X-Forwarded-Uri": target}
        try:
            answer = httpx.get(asked["address"], headers=given, timeout=30)
        except httpx.HTTPError:
            return 500, {}, b""
        if not answer.is_success:
            return answer.status_code, dict(answer.headers), answer.content
        kept = {name: value for name, value in headers.items() if not taken.match(name)}
        return kept | {n: v for n, v in answer.headers.items() if taken.match(n)}

    return check


def apisix(api_port: int, secret: str) -> Check:
    """deploy/apisix/apisix.yaml."""
    text = (DEPLOY / "apisix" / "apisix.yaml").read_text().replace("8470", str(api_port))
    plugins = yaml.safe_load(text.replace("${{VELVETROPE_SECRET:=}}", secret))["routes"][0][
        "plugins"
    ]
    asked = plugins["forward-auth"]

    def check(method: str, target: str, headers: Headers) -> Headers | Answer:
        headers = _without_forged(headers)
        extra = {"$remote_addr": "127.0.0.1"}
        given = {k: extra.get(v, v) for k, v in asked["extra_headers"].items()}
        given |= {"X-Forwarded-Method": method, "X-Forwarded-Uri": target}
        for name in asked["request_headers"]:
            if name.lower() in headers:
                given[name] = headers[name.lower()]
        try:
            answer = httpx.get(asked["uri"], headers=given, timeout=asked["timeout"] / 1000)
        except httpx.HTTPError:
            return headers if asked["allow_degradation"] else (403, {}, b"")
        if answer.status_code >= 300:
            named = asked["client_headers"]
            told = {n: answer.headers[n] for n in named if n in answer.headers}
            return answer.status_code, told, answer.content
        for name in asked["upstream_headers"]:
            headers.pop(name.lower(), None)
            if name in answer.headers:
                headers[name.lower()] = answer.headers[name]
        return headers

    return check


def kong(api_port: int, secret: str) -> Check:
    """deploy/kong/kong.yaml. Kong cannot send a secret: on loopback none is asked for."""
    plugins = yaml.safe_load((DEPLOY / "kong" / "kong.yaml").read_text())["services"][0]["plugins"]
    opa = next(plugin["config"] for plugin in plugins if plugin["name"] == "opa")
    assert opa["opa_port"] == 8470
    url = f"{opa['opa_protocol']}://{opa['opa_host']}:{api_port}{opa['opa_path']}"

    def check(method: str, target: str, headers: Headers) -> Headers | Answer:
        headers = _without_forged(headers)
        http = {"method": method, "path": target.partition("?")[0], "headers": headers}
        try:
            answer = httpx.post(url, json={"input": {"request": {"http": http}}}, timeout=5)
        except httpx.HTTPError:
            return 500, {}, b""
        if answer.status_code != 200:
            return 500, {}, b""
        result: dict[str, Any] = answer.json()["result"]
        if result["allow"]:
            return headers | {n.lower(): v for n, v in result["headers"].items()}
        return result["status"], result["headers"], json.dumps(result["message"]).encode()

    return check


def proxy(check: Check, model_port: int, api_port: int, secret: str) -> type[Answering]:
    """A gateway that asks, and then the model's server; /challenge is the verdict API's."""

    class Handler(Answering):
        def do_GET(self) -> None:  # noqa: N802
            self.challenge()

        def challenge(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = _without_forged({n.lower(): v for n, v in self.headers.items()})
            headers = {n: v for n, v in headers.items() if n not in ("host", "connection")}
            headers["x-velvetrope-secret"] = secret
            url = f"http://127.0.0.1:{api_port}{self.path}"
            answer = httpx.request(self.command, url, content=body, headers=headers, timeout=10)
            self.answer(answer.status_code, {"Content-Type": "application/json"}, answer.content)

        def do_POST(self) -> None:  # noqa: N802
            if self.path.partition("?")[0] == "/challenge":
                self.challenge()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found = check("POST", self.path, headers)
            if isinstance(found, dict):
                hop = {"host", "content-length", "connection"}
                sent = {n: v for n, v in found.items() if n not in hop}
                url = f"http://127.0.0.1:{model_port}{self.path}"
                answer = httpx.post(url, content=body, headers=sent, timeout=10)
                found = answer.status_code, {}, answer.content
            status, told, content = found
            hop = {"content-length", "transfer-encoding", "connection"}
            self.answer(status, {n: v for n, v in told.items() if n.lower() not in hop}, content)

    return Handler


def _without_forged(headers: Headers) -> Headers:
    # What the pre-functions of Kong's and APISIX's configuration do.
    forged = re.compile(r"x-account$|x-velvetrope-")
    return {name: value for name, value in headers.items() if not forged.match(name)}
