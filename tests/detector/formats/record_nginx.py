"""Record the golden nginx lines from the real nginx with deploy/nginx.

    python -m tests.detector.formats.record_nginx

`golden.py` then writes what each line decodes to.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tests.deploy.gateway import CHAT, Gateway, Model, Verdicts, gateway, served

GOLDEN = Path(__file__).parent / "golden" / "nginx"

# name: (key, path, body)
CASES: dict[str, tuple[str, str, Any]] = {
    "chat": (
        "ada",
        "/v1/chat/completions",
        {
            "model": "chat-small",
            "messages": [
                {"role": "system", "content": "be terse"},
                {"role": "user", "content": 'a "quoted" wörd\n\tand a back\\slash'},
            ],
            "temperature": 0.3,
            "max_completion_tokens": 50,
            "logit_bias": {"50256": -100},
        },
    ),
    "vector": ("ada", "/v1/models/digits:predict", {"instances": [[0, 0.5, 16]]}),
    "vector_rows": ("ada", "/v1/models/digits:predict", {"instances": [[0, 0.5], [1, 2]]}),
    "invalid_utf8": ("ada", "/v1/completions", b'{"model": "m", "prompt": "caf\xe9 noir"}'),
    "binary": ("ada", "/v1/images", bytes(range(256))),
    "throttled": ("throttled", "/v1/chat/completions", CHAT),
    "challenged": ("challenged", "/v1/chat/completions", CHAT),
    "blocked": ("blocked", "/v1/chat/completions", CHAT),
}
LABELS = {
    "vector": {"X-Model-Label": "3", "X-Model-Confidence": "0.75"},
    "vector_rows": {"X-Model-Label": "3,7", "X-Model-Confidence": "0.75,0.5"},
}
VERDICTS: dict[str, tuple[int, dict[str, str]]] = {
    "throttled": (403, {"X-Velvetrope-Status": "429", "X-Velvetrope-Action": "throttle"}),
    "challenged": (401, {"X-Velvetrope-Action": "challenge"}),
    "blocked": (403, {"X-Velvetrope-Status": "403", "X-Velvetrope-Action": "block"}),
}


def record(gate: Gateway, model: Model) -> None:
    for number, (name, (key, path, body)) in enumerate(CASES.items(), start=1):
        content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        headers = {"Authorization": f"Bearer {key}", "User-Agent": "golden/1"}
        model.headers = LABELS.get(name, {})
        gate.client.post(path, content=content, headers=headers)
        (GOLDEN / f"{name}.log").write_bytes(gate.lines(number)[-1] + b"\n")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    GOLDEN.mkdir(parents=True, exist_ok=True)
    model = Model()
    verdicts = Verdicts(answers=VERDICTS)
    with (
        served(model.handler()) as model_port,
        served(verdicts.handler()) as verdict_port,
        gateway(verdict_port, model_port) as gate,
    ):
        record(gate, model)


if __name__ == "__main__":
    main()
