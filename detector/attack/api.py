"""The API that is asked: how an input is put, and where the answer is in what comes back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import httpx

from detector.attack.strategies import Input

__all__ = ["CHAT_ANSWER", "CHAT_BODY", "INPUT", "Account", "Api", "BadAnswer", "Outcome"]

INPUT: Final = "$INPUT"  # stands for the input in a body
CHAT_BODY: Final = '{"model": "default", "messages": [{"role": "user", "content": "$INPUT"}]}'
CHAT_ANSWER: Final = "choices.0.message.content"
_LONGEST_WAIT_S: Final = 86_400.0

Kind = Literal["answered", "throttled", "challenged", "blocked", "failed"]
_KINDS: Final[dict[int, Kind]] = {429: "throttled", 401: "challenged", 403: "blocked"}


class BadAnswer(ValueError):
    """An answer of 200 that is not what was said to come. The text says what is missing."""


@dataclass(frozen=True)
class Account:
    """One of the thief's accounts: its number from 1 on, and what tells the gateway who it is."""

    number: int
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What came of one request.

    Attributes:
        kind: what the gateway did.
        status: of the response, 0 when there was none.
        label: the answer.
        shape: paths of the answer's document, so that withheld fields show.
        wait_s: of Retry-After.
    """

    kind: Kind
    status: int
    label: str = ""
    shape: frozenset[str] = frozenset()
    wait_s: float | None = None


class Api:
    """Puts inputs to one URL.

    Args:
        client: an HTTP client that follows no redirect and uses no proxy.
        url: what is asked.
        body: JSON text in which the string `$INPUT` stands for the input.
        answer: path of the answer in the response's JSON, with dots, numbers for places in lists.

    Raises:
        ValueError: the body is not JSON, or has no `$INPUT`.
    """

    def __init__(self, client: httpx.Client, url: str, body: str, answer: str) -> None:
        self._client = client
        self._url = url
        self._answer = answer.split(".")
        try:
            self._body = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the body is not JSON: {error}") from None
        if INPUT not in _strings(self._body):
            raise ValueError(f"the body has no string {INPUT!r} where the input belongs: {body}")

    def ask(self, account: Account, given: Input) -> Outcome:
        """Ask once. Raises BadAnswer for a 200 without an answer where one should be."""
        try:
            response = self._client.post(
                self._url, json=_filled(self._body, given), headers=dict(account.headers)
            )
        except httpx.HTTPError:
            return Outcome("failed", 0)
        if not response.is_success:
            kind = _KINDS.get(response.status_code, "failed")
            return Outcome(kind, response.status_code, wait_s=_wait(response))
        try:
            document = response.json()
            shape = frozenset(_paths(document, ""))
        except (ValueError, RecursionError):  # or JSON that is nested without end
            raise BadAnswer(f"{self._url} answered 200 with no JSON that can be read") from None
        found = document
        for step in self._answer:
            try:
                found = found[int(step)] if isinstance(found, list) else found[step]
            except (KeyError, IndexError, TypeError, ValueError):
                raise BadAnswer(
                    f"the answer of {self._url} has no {'.'.join(self._answer)}: "
                    f"{json.dumps(document)[:200]}"
                ) from None
        return Outcome("answered", response.status_code, _label(found), shape)


def _label(found: Any) -> str:
    # Scores of classes are an answer too: the highest one's place.
    if isinstance(found, list) and found and all(isinstance(v, int | float) for v in found):
        return str(max(range(len(found)), key=found.__getitem__))
    return found if isinstance(found, str) else json.dumps(found, sort_keys=True)


def _wait(response: httpx.Response) -> float | None:
    try:
        wait = float(response.headers["Retry-After"])
    except (KeyError, ValueError):  # a date is rare, and as good as none
        return None
    return min(max(wait, 0.0), _LONGEST_WAIT_S) if math.isfinite(wait) else None


def _filled(body: Any, given: Input) -> Any:
    if isinstance(body, dict):
        return {key: _filled(value, given) for key, value in body.items()}
    if isinstance(body, list):
        return [_filled(value, given) for value in body]
    return given if body == INPUT else body


def _strings(body: Any) -> Iterator[str]:
    if isinstance(body, Mapping):
        for value in body.values():
            yield from _strings(value)
    elif isinstance(body, str):
        yield body
    elif isinstance(body, Sequence):
        for value in body:
            yield from _strings(value)


def _paths(document: Any, prefix: str) -> Iterator[str]:
    # Places in lists are left out: how long a list is changes from answer to answer.
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _paths(value, f"{prefix}.{key}")
    elif isinstance(document, list):
        for value in document:
            yield from _paths(value, f"{prefix}[]")
    elif document is not None:
        yield prefix
