"""Record the golden Envoy lines from a real Envoy with deploy/envoy.

    python -m tests.detector.formats.record_envoy

Sends one request a case through it and writes the line of its log to `golden/envoy/CASE.log`.
`golden.py` then writes what each line decodes to.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.deploy.battery import eventually, verdict_api
from tests.deploy.gateway import CHAT, Model, served
from tests.deploy.test_envoy import envoy, logged
from tests.real_redis import redis_server

GOLDEN = Path(__file__).parent / "golden" / "envoy"

CASES = {
    "chat": json.dumps({**CHAT, "temperature": 0.3}, ensure_ascii=False).encode(),
    "vector_rows": json.dumps({"instances": [[0.5, 1.5], [2.5, 3.5]]}).encode(),
    "invalid_utf8": b'{"input": "one bad \xff byte"}',
}


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    model = Model(headers={"X-Model-Label": "cat,dog", "X-Model-Confidence": "0.5,0.75"})
    with (
        redis_server() as redis,
        verdict_api(redis) as api,
        served(model.handler()) as port,
        envoy(api.port, port, patient=True) as (door, up),
    ):
        ada = api.person()
        headers = {"Authorization": f"Bearer {ada.key}", "User-Agent": "golden/1"}
        lines = 0
        for case, body in CASES.items():
            door.client.post("/v1/chat/completions?a=b", content=body, headers=headers)
            lines += 1
            (GOLDEN / f"{case}.log").write_bytes(logged(up, lines)[-1] + b"\n")
        api.decide(ada, "block")
        eventually(door, ada, 403)
        time.sleep(0.2)
        (GOLDEN / "blocked.log").write_bytes(logged(up, lines + 1)[-1] + b"\n")


if __name__ == "__main__":
    main()
