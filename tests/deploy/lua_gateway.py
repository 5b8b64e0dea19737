"""deploy/nginx-lua on the real nginx, over a real Redis, in front of a small model's server."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.deploy.gateway import Gateway
from tests.real_nginx import free_port, nginx

__all__ = ["DEPLOY", "lua_gateway"]

DEPLOY = Path(__file__).parents[2] / "deploy" / "nginx-lua"


@contextmanager
def lua_gateway(
    redis_url: str,
    model_port: int,
    *,
    prefix: str,
    replace: dict[str, str] | None = None,
    workers: int = 1,
    **settings: Any,
) -> Iterator[Gateway]:
    """`settings` take the place of those in settings.lua: strings, numbers, True; `redis_NAME`.

    A busy machine that runs the tests must not look like a Redis that is away, so its timeouts
    are longer than as deployed, unless they are given.
    """
    port = free_port()
    at = urlsplit(redis_url)
    given = {
        "redis_port": at.port,
        "redis_prefix": prefix,
        "redis_connect_timeout_ms": 2000,
        "redis_answer_timeout_ms": 2000,
    }
    texts = {
        "127.0.0.1:8080": f"127.0.0.1:{port}",
        "127.0.0.1:8000": f"127.0.0.1:{model_port}",
        "/var/log/nginx": "{folder}",
        "/etc/nginx": "{folder}",
        "worker_processes auto": f"worker_processes {workers}",
    }
    with tempfile.TemporaryDirectory(prefix="velvetrope-lua-") as temporary:
        folder = Path(temporary) / "nginx"
        shutil.copytree(DEPLOY, folder)
        file = folder / "velvetrope" / "settings.lua"
        file.write_text(_overridden(file.read_text(), given | settings))
        with (
            nginx(folder, [port], texts | (replace or {})) as running,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
        ):
            yield Gateway(client, running, port)


def _overridden(text: str, settings: dict[str, Any]) -> str:
    """The settings' file, with assignments before its table is returned."""
    lines = ["local settings = (function()", text, "end)()"]
    for name, value in settings.items():
        place = f"redis.{name.removeprefix('redis_')}" if name.startswith("redis_") else name
        lines.append(f"settings.{place} = {json.dumps(value)}")
    return "\n".join([*lines, "return settings", ""])
