"""Record the golden LiteLLM payloads from a real LiteLLM proxy.

    python -m venv /tmp/litellm && /tmp/litellm/bin/pip install 'litellm[proxy]==1.109.1'
    python tests/detector/formats/record_litellm.py --litellm /tmp/litellm/bin/litellm

Starts the proxy on loopback in front of a small model API of our own, with our guardrail's contract
and a collector for its generic API logger, sends one request a case, and writes what the logger
posted to `golden/litellm/CASE.json`. Cost maps and tracebacks, most of a payload and none of it
read, are cut. `golden.py` then writes what each record decodes to.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden" / "litellm"

AUTH = '''
from fastapi import HTTPException, Request
from litellm.proxy._types import UserAPIKeyAuth

async def user_api_key_auth(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Key sk-NAME belongs to user NAME; sk-limited may ask once a minute, sk-nobody has no user."""
    if not api_key.startswith("sk-"):
        raise HTTPException(401, "no such key")
    name = api_key.removeprefix("sk-")
    return UserAPIKeyAuth(
        api_key=api_key,
        user_id=None if name == "nobody" else name,
        team_id="team-3",
        org_id="org-9",
        rpm_limit=1 if name == "limited" else None,
    )
'''

CONFIG = """
model_list:
  - model_name: chat-small
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: {upstream}/v1
      api_key: none
  - model_name: embed-small
    litellm_params:
      model: openai/text-embedding-3-small
      api_base: {upstream}/v1
      api_key: none
  - model_name: complete-small
    litellm_params:
      model: text-completion-openai/gpt-3.5-turbo-instruct
      api_base: {upstream}/v1
      api_key: none
guardrails:
  - guardrail_name: velvetrope
    litellm_params:
      guardrail: generic_guardrail_api
      mode: [pre_call, post_call]
      api_base: {guardrail}
      default_on: true
litellm_settings:
  callbacks: [velvetrope]
  num_retries: 0
  turn_off_message_logging: {redact}
callback_settings:
  velvetrope:
    callback_type: generic_api
    endpoint: {collector}/v1/events
    headers: {{Content-Type: application/json}}
general_settings:
  master_key: sk-master
  custom_auth: velvetrope_auth.user_api_key_auth
"""

WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object"}},
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


# name: (path, key, body)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chat": (
        "/v1/chat/completions",
        "sk-ada",
        {
            "model": "chat-small",
            "messages": [{"role": "system", "content": "be terse"}, user("hello, wörld")],
            "temperature": 0.3,
            "max_tokens": 50,
            "logprobs": True,
            "top_logprobs": 2,
            "user": "end-5",
        },
    ),
    "stream": (
        "/v1/chat/completions",
        "sk-ada",
        {"model": "chat-small", "messages": [user("stream me")], "stream": True},
    ),
    "tool_call_answered": (
        "/v1/chat/completions",
        "sk-ada",
        {"model": "chat-small", "messages": [user("weather in Oslo?")], "tools": [WEATHER]},
    ),
    "tool_conversation": (
        "/v1/chat/completions",
        "sk-ada",
        {
            "model": "chat-small",
            "messages": [
                user("weather in Oslo?"),
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": "4 degrees, rain"},
                user("and tomorrow?"),
            ],
            "n": 2,
        },
    ),
    "image": (
        "/v1/chat/completions",
        "sk-ada",
        {
            "model": "chat-small",
            "messages": [
                user(
                    [
                        {"type": "text", "text": "what is this?"},
                        {"type": "image_url", "image_url": {"url": PIXEL}},
                    ]
                )
            ],
        },
    ),
    "embedding": (
        "/v1/embeddings",
        "sk-ada",
        {"model": "embed-small", "input": ["a text", "b text"]},
    ),
    "completion": (
        "/v1/completions",
        "sk-ada",
        {"model": "complete-small", "prompt": "Once upon a time", "max_tokens": 9},
    ),
    "responses": (
        "/v1/responses",
        "sk-ada",
        {"model": "chat-small", "input": "what is two and two?", "instructions": "be terse"},
    ),
    "no_user": (
        "/v1/chat/completions",
        "sk-nobody",
        {"model": "chat-small", "messages": [user("hello")]},
    ),
    "upstream_error": (
        "/v1/chat/completions",
        "sk-ada",
        {"model": "chat-small", "messages": [user("fail500")]},
    ),
    "unknown_model": (
        "/v1/chat/completions",
        "sk-ada",
        {"model": "nonexistent", "messages": [user("hello")]},
    ),
    "guardrail_blocked": (
        "/v1/chat/completions",
        "sk-ada",
        {"model": "chat-small", "messages": [user("block me")]},
    ),
    "within_rate_limit": (
        "/v1/chat/completions",
        "sk-limited",
        {"model": "chat-small", "messages": [user("first in this minute")]},
    ),
    "over_rate_limit": (
        "/v1/chat/completions",
        "sk-limited",
        {"model": "chat-small", "messages": [user("second in this minute")]},
    ),
    "guardrail_rewrote_answer": (
        "/v1/chat/completions",
        "sk-ada",
        {"model": "chat-small", "messages": [user("poison me")]},
    ),
}
REDACTED_CASES = {"redacted": CASES["chat"]}


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def body(self) -> Any:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        return json.loads(raw) if raw else None

    def answer(self, status: int, content: Any, kind: str = "application/json") -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Upstream(_Quiet):
    """The smallest model API that LiteLLM's OpenAI client accepts."""

    def do_POST(self) -> None:
        body = self.body()
        usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        if self.path.endswith("/embeddings"):
            data = [
                {"object": "embedding", "index": i, "embedding": [0.1, 0.2]}
                for i in range(len(body["input"]))
            ]
            self.answer(200, {"object": "list", "data": data, "model": "e", "usage": usage})
        elif self.path.endswith("/chat/completions"):
            self.chat(body, usage)
        elif self.path.endswith("/completions"):
            choice = {"index": 0, "text": " there was", "finish_reason": "stop", "logprobs": None}
            self.answer(
                200,
                {
                    "id": "cmpl-1",
                    "object": "text_completion",
                    "created": 1,
                    "model": "c",
                    "choices": [choice],
                    "usage": usage,
                },
            )
        else:
            part = {"type": "output_text", "text": "four", "annotations": []}
            message = {
                "type": "message",
                "id": "m",
                "status": "completed",
                "role": "assistant",
                "content": [part],
            }
            self.answer(
                200,
                {
                    "id": "resp_1",
                    "object": "response",
                    "created_at": 1,
                    "status": "completed",
                    "model": "gpt-4o-mini",
                    "output": [message],
                    "parallel_tool_calls": True,
                    "tool_choice": "auto",
                    "tools": [],
                    "usage": {
                        "input_tokens": 11,
                        "output_tokens": 7,
                        "total_tokens": 18,
                        "input_tokens_details": {"cached_tokens": 0},
                        "output_tokens_details": {"reasoning_tokens": 0},
                    },
                },
            )

    def chat(self, body: dict[str, Any], usage: dict[str, int]) -> None:
        last = body["messages"][-1]["content"]
        common = {"id": "chatcmpl-1", "created": 1, "model": "gpt-4o-mini"}
        if last == "fail500":
            self.answer(500, {"error": {"message": "boom"}})
            return
        if body.get("stream"):
            chunks: list[dict[str, Any]] = [
                {"index": 0, "delta": {"role": "assistant", "content": "streamed "}},
                {"index": 0, "delta": {"content": "answer"}},
                {"index": 0, "delta": {}, "finish_reason": "stop"},
            ]
            lines = [
                json.dumps({**common, "object": "chat.completion.chunk", "choices": [chunk]})
                for chunk in chunks
            ]
            text = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
            self.answer(200, text.encode(), "text/event-stream")
            return
        message: dict[str, Any] = {"role": "assistant", "content": "The answer is 42."}
        if "tools" in body:
            message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        token = {"token": "The", "bytes": [84, 104, 101], "logprob": -0.1, "top_logprobs": []}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": "tool_calls" if "tools" in body else "stop",
            "logprobs": {"content": [token]} if body.get("logprobs") else None,
        }
        choices = [{**choice, "index": i} for i in range(body.get("n") or 1)]
        self.answer(
            200, {**common, "object": "chat.completion", "choices": choices, "usage": usage}
        )


class Guardrail(_Quiet):
    """Blocks "block me" as velvetrope would, and rewrites the answer to "poison me"."""

    def do_POST(self) -> None:
        body = self.body()
        asked = json.dumps(body.get("structured_messages")) + json.dumps(body.get("texts"))
        if "block me" in asked:
            self.answer(200, {"action": "BLOCKED", "blocked_reason": "Quota exceeded."})
        elif body["input_type"] == "response" and "poison me" in asked:
            texts = ["rounded" for _ in body["texts"]]
            self.answer(200, {"action": "GUARDRAIL_INTERVENED", "texts": texts})
        else:
            self.answer(200, {"action": "NONE"})


def collector(into: queue.Queue[dict[str, Any]]) -> type[_Quiet]:
    class Collector(_Quiet):
        def do_POST(self) -> None:
            posted = self.body()
            for payload in posted if isinstance(posted, list) else [posted]:
                into.put(payload)
            self.answer(202, {})

    return Collector


def serve(handler: type[_Quiet]) -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def post(url: str, key: str, body: dict[str, Any]) -> tuple[int, str]:
    """Status and `x-litellm-call-id` (empty when the answer has none)."""
    request = urllib.request.Request(
        url,
        data=json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "User-Agent": "golden/1",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
            return answer.status, answer.headers.get("x-litellm-call-id", "")
    except urllib.error.HTTPError as error:
        error.read()
        return error.code, error.headers.get("x-litellm-call-id", "")


def wait_for(probe: Callable[[], bool], process: subprocess.Popen[bytes], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"LiteLLM ended with {process.returncode}")
        if probe():
            return
        time.sleep(0.5)
    raise RuntimeError(f"LiteLLM was not ready within {within_s:.0f} s")


def alive(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/liveliness", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def trim(payload: dict[str, Any]) -> dict[str, Any]:
    payload["hidden_params"] = {}
    payload["model_map_information"] = {}
    payload.pop("cost_breakdown", None)
    error = payload.get("error_information") or {}
    if error.get("traceback"):
        error["traceback"] = "…"
    return payload


def record(litellm: Path, cases: dict[str, tuple[str, str, dict[str, Any]]], redact: bool) -> None:
    posted: queue.Queue[dict[str, Any]] = queue.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "velvetrope_auth.py").write_text(AUTH)
        config = CONFIG.format(
            upstream=serve(Upstream),
            guardrail=serve(Guardrail),
            collector=serve(collector(posted)),
            redact=str(redact).lower(),
        )
        Path(folder, "config.yaml").write_text(config)
        process = subprocess.Popen(
            [litellm, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            stdout=sys.stderr,
            env={
                **os.environ,
                "DEFAULT_FLUSH_INTERVAL_SECONDS": "1",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            },
        )
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(lambda: alive(url), process, 120)
            for name, (path, key, body) in cases.items():
                status, call = post(url + path, key, body)
                payload = posted.get(timeout=60)
                if call and payload["litellm_call_id"] != call:
                    raise RuntimeError(
                        f"{name}: {call} was asked, {payload['litellm_call_id']} logged"
                    )
                file = GOLDEN / f"{name}.json"
                file.write_text(json.dumps(trim(payload), indent=1, ensure_ascii=False) + "\n")
                sys.stdout.write(f"{name}: {status}, {file.stat().st_size} bytes\n")
        finally:
            process.terminate()
            process.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--litellm", type=Path, required=True, help="the proxy's program")
    arguments = parser.parse_args()
    GOLDEN.mkdir(parents=True, exist_ok=True)
    record(arguments.litellm.absolute(), CASES, redact=False)
    record(arguments.litellm.absolute(), REDACTED_CASES, redact=True)


if __name__ == "__main__":
    main()
