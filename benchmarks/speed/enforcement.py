"""Time from a decision in Redis to the first request that each gateway refuses.

Run: python -m benchmarks.speed.enforcement [--decisions 40]

The real programs with the configurations of deploy/, in front of the real verdict API with its own
settings, over a real Redis. Customers ask all the time; somebody new is blocked, and asks every
5 ms until refused. It includes the request that is refused.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from responders.settings import ApiSettings
from tests.deploy.battery import SECRET, Person, VerdictApi, verdict_api
from tests.deploy.gateway import Model, served
from tests.deploy.gateway import gateway as nginx
from tests.deploy.test_caddy import caddy
from tests.deploy.test_envoy import envoy
from tests.real_redis import redis_server

__all__ = ["main"]

Ask = Callable[[Person], int]


@contextmanager
def _nginx(api_port: int, model_port: int) -> Iterator[Ask]:
    with nginx(api_port, model_port, secret=f'"{SECRET}"') as gate:
        yield lambda person: gate.post(person.key).status_code


@contextmanager
def _envoy(api_port: int, model_port: int) -> Iterator[Ask]:
    with envoy(api_port, model_port, patient=True) as (door, _):
        yield lambda person: door.post(person).status_code


@contextmanager
def _caddy(api_port: int, model_port: int) -> Iterator[Ask]:
    with caddy(api_port, model_port, patient=True) as door:
        yield lambda person: door.post(person).status_code


def _customers(ask: Ask, person: Person, stop: threading.Event) -> None:
    while not stop.wait(0.02):
        try:
            ask(person)
        except httpx.HTTPError:
            return


def _waits(ask: Ask, api: VerdictApi, count: int) -> list[float]:
    stop = threading.Event()
    threading.Thread(target=_customers, args=(ask, api.person(), stop), daemon=True).start()
    dice = random.Random(7)
    waits = []
    for _ in range(count):
        person = api.person()
        ask(person)
        time.sleep(dice.random() * 0.5)  # not in step with the API's refresh
        began = time.monotonic()
        api.decide(person, "block")
        while ask(person) != 403:
            time.sleep(0.005)
        waits.append(time.monotonic() - began)
    stop.set()
    return waits


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=40)
    given = parser.parse_args()
    with (
        redis_server() as redis,
        verdict_api(redis, refresh_s=ApiSettings().refresh_s) as api,
        served(Model().handler()) as model_port,
    ):
        for name, gateway in (("nginx", _nginx), ("Envoy", _envoy), ("Caddy", _caddy)):
            with gateway(api.port, model_port) as ask:
                waits = _waits(ask, api, given.decisions)
            print(
                f"{name}: {given.decisions} decisions, median {statistics.median(waits):.2f} s, "
                f"longest {max(waits):.2f} s"
            )


if __name__ == "__main__":
    main()
