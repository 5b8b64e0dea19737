"""The verdict API over the decisions in Redis, as a process of its own beside the workers.

It holds nothing that is not in Redis, so any number of them may run, one beside each gateway.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable
from typing import Final

import uvicorn
from starlette.applications import Starlette

from responders.gateways.app import create_app
from responders.gateways.protocol import TolerantProtocol
from responders.settings import ApiSettings, RedisSettings
from responders.stores.redis import RedisLimiter, RedisStore

__all__ = ["serve_verdicts"]

_BACKLOG: Final = 1024


def serve_verdicts(
    api: ApiSettings, redis: RedisSettings, listening: Callable[[str], None] = lambda url: None
) -> None:
    """Answer gateways until SIGTERM or SIGINT.

    A Redis that is away makes it answer 503, on which gateways fail as they are set to, until
    Redis is back.

    Args:
        api: where to listen, and how callers are known.
        redis: where the decisions are.
        listening: told the URL once connections are taken.

    Raises:
        ValueError: it would listen off loopback without a secret; of the file of poison
            velvetrope_client's BadSettings.
        OSError: the address cannot be listened on.
    """
    store = RedisStore(redis)
    limiter = RedisLimiter(redis)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await limiter.close()

    with contextlib.closing(store):
        app = create_app(store, api, limiter=limiter, lifespan=lifespan)
        with _listen(api.host, api.port) as listener:
            server = uvicorn.Server(
                uvicorn.Config(
                    app,
                    http=TolerantProtocol,
                    log_level="warning",
                    access_log=False,
                    server_header=False,
                    date_header=False,
                    timeout_graceful_shutdown=5,
                    limit_concurrency=api.max_connections,
                )
            )
            # uvicorn ends on these, and then raises them again for whoever had them before.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)
            host, port = listener.getsockname()[:2]
            listening(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
            server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(
            error.errno, f"cannot listen on {host}:{port}: {error.strerror or error}"
        ) from None
    return listener
