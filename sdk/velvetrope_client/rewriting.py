"""Answers as poisoned callers get them: shaped by level, and wrong where an endpoint opted in.

    rewriter = Rewriter(settings)
    body = rewriter.rewrite(action="poison", level=1, subject="acct-1", endpoint="/v1/classify",
                            request=request, body=body, content_type="application/json")

Understood are OpenAI's completions and chat completions, whole and streamed, and classifiers'
answers in JSON. Anything else, and whatever cannot be read, passes unchanged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

from velvetrope_client.classifier_answers import ClassifierPaths, read_answers, read_inputs
from velvetrope_client.keys import Keyring
from velvetrope_client.shaping import (
    ShapingSettings,
    TextFilter,
    shape_choices,
    shape_probabilities,
)
from velvetrope_client.sse import EventStream
from velvetrope_client.wrong_answers import WrongAnswers, WrongAnswerSettings

__all__ = ["EndpointSettings", "Rewriter", "RewriterSettings", "StreamRewriter"]

_log = logging.getLogger(__name__)
_STRUCTURED: Final = ("json_object", "json_schema")


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """What poison does at the endpoints that a glob pattern matches."""

    match: str = "*"
    shaping: ShapingSettings = field(default_factory=ShapingSettings)
    paths: ClassifierPaths = field(default_factory=ClassifierPaths)
    wrong_answers: WrongAnswerSettings = field(default_factory=WrongAnswerSettings)


@dataclass(frozen=True, slots=True)
class RewriterSettings:
    """The endpoints, of which the first that matches counts, and the keys of wrong answers.

    `max_body_bytes` is the largest answer that is read; a larger one passes unchanged. Raises
    ValueError when wrong answers are opted into and there are no keys.
    """

    endpoints: tuple[EndpointSettings, ...] = ()
    keys: Keyring | None = None
    max_body_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        for endpoint in self.endpoints:
            wrong = endpoint.wrong_answers
            if self.keys is None and (wrong.perturb_from or wrong.wrong_from):
                raise ValueError(f"endpoint {endpoint.match!r}: wrong answers need `keys`")


class Rewriter:
    """Rewrites answers. One serves all requests; it keeps nothing of them."""

    def __init__(self, settings: RewriterSettings | None = None) -> None:
        self._settings = RewriterSettings() if settings is None else settings
        keys = self._settings.keys
        endpoints = (*self._settings.endpoints, EndpointSettings())
        self._endpoints = [
            (one, None if keys is None else WrongAnswers(one.wrong_answers, keys))
            for one in endpoints
        ]

    def rewrite(
        self,
        *,
        action: str,
        level: int,
        subject: str,
        endpoint: str,
        request: bytes,
        body: bytes,
        content_type: str,
    ) -> bytes:
        """The answer to give in the place of `body`; the very same bytes when nothing changes.

        `subject` is the campaign of the decision if it has one, else the account; `request` is
        what was asked. Never raises on what a model or a caller sent.
        """
        stream = self.stream(
            action=action,
            level=level,
            subject=subject,
            endpoint=endpoint,
            request=request,
            content_type=content_type,
        )
        return stream.feed(body) + stream.close()

    def stream(
        self,
        *,
        action: str,
        level: int,
        subject: str,
        endpoint: str,
        request: bytes,
        content_type: str,
    ) -> StreamRewriter:
        """The same for an answer that comes in pieces.

        Events of a stream leave as soon as they are whole; a JSON document leaves at its end.
        """
        kind = content_type.partition(";")[0].strip().lower()
        if action != "poison" or not ("json" in kind or kind == "text/event-stream"):
            return StreamRewriter(None, None, 0)
        settings, wrong = next(
            pair for pair in self._endpoints if fnmatchcase(endpoint, pair[0].match)
        )
        answer = _Answer(settings, wrong, level, subject, request)
        if kind == "text/event-stream":
            return StreamRewriter(EventStream(answer.event), None, 0)
        return StreamRewriter(None, answer.document, self._settings.max_body_bytes)


class StreamRewriter:
    """One answer on its way: `feed` each piece, then `close`; both give what may leave by then."""

    __slots__ = ("_document", "_events", "_held", "_limit")

    def __init__(
        self,
        events: EventStream | None,
        document: Callable[[bytes], bytes | None] | None,
        limit: int,
    ) -> None:
        self._events = events
        self._document = document
        self._limit = limit
        self._held = bytearray()

    def feed(self, piece: bytes) -> bytes:
        """What may leave after this piece."""
        if self._events is not None:
            return self._events.feed(piece)
        if self._document is None:
            return piece
        self._held += piece
        if len(self._held) <= self._limit:
            return b""
        _log.warning("an answer of over %d bytes passes unchanged", self._limit)
        self._document = None
        held, self._held = bytes(self._held), bytearray()
        return held

    def close(self) -> bytes:
        """What may leave at the end."""
        if self._events is not None:
            return self._events.close()
        held, self._held = bytes(self._held), bytearray()
        if self._document is None:
            return held
        rewritten = self._document(held)
        return held if rewritten is None else rewritten


class _Answer:
    """One answer to one request, in one document or in the documents of a stream's events."""

    def __init__(
        self,
        settings: EndpointSettings,
        wrong: WrongAnswers | None,
        level: int,
        subject: str,
        request: bytes,
    ) -> None:
        self._settings = settings
        self._wrong = wrong
        self._level = level
        self._subject = subject
        self._shape = settings.shaping.at(level)
        self._asked = _read(request)
        self._texts: dict[int, TextFilter] = {}

    def event(self, data: bytes) -> bytes | None:
        """Rewrite the data of one event; None leaves it."""
        return self._rewritten(data, last=False)

    def document(self, body: bytes) -> bytes | None:
        """Rewrite a whole answer; None leaves it."""
        return self._rewritten(body, last=True)

    def _rewritten(self, data: bytes, *, last: bool) -> bytes | None:
        document = _read(data)
        if not isinstance(document, dict | list):
            return None
        try:
            before = _written(document)
            if isinstance(document, dict) and isinstance(document.get("choices"), list):
                self._completion(document, last)
            else:
                self._classified(document)
            after = _written(document)
        except (RecursionError, ValueError):  # too deep, or a number that JSON has no form for
            return None
        return None if after == before else after

    def _completion(self, document: dict[str, Any], last: bool) -> None:
        shape_choices(self._shape, document)
        for choice in document["choices"]:
            if not isinstance(choice, dict):
                continue
            index = choice.get("index")
            shown = self._texts.setdefault(index if isinstance(index, int) else 0, self._text())
            said = next(
                (
                    part
                    for name in ("message", "delta")
                    if isinstance(part := choice.get(name), dict)
                ),
                choice,
            )
            _show(shown, said, ended=last or choice.get("finish_reason") is not None)
            if shown.shortened and choice.get("finish_reason") == "stop":
                choice["finish_reason"] = "length"

    def _text(self) -> TextFilter:
        form = self._asked.get("response_format") if isinstance(self._asked, dict) else None
        structured = isinstance(form, dict) and form.get("type") in _STRUCTURED
        return TextFilter(self._shape, prose=not structured)

    def _classified(self, document: Any) -> None:
        paths = self._settings.paths
        answers = read_answers(document, paths)
        inputs = read_inputs(self._asked, paths, len(answers))
        for answer, given in zip(answers, inputs, strict=True):
            label, chances = answer.label, answer.chances
            if self._wrong is not None and given is not None:
                label, chances = self._wrong.answer(
                    self._subject, self._level, given, label, chances, answer.drawn_from(paths)
                )
            answer.write(
                label,
                shape_probabilities(self._shape, chances, label),
                only_top=self._shape.top_one,
            )


def _show(shown: TextFilter, said: dict[str, Any], *, ended: bool) -> None:
    """Pass a message's or a delta's text through its filter, where it stands."""
    name = "content" if "content" in said else "text" if "text" in said else None
    held = said.get(name) if name is not None else None
    if name is not None and isinstance(held, str):
        said[name] = shown.feed(held)
    elif isinstance(held, list):
        for part in held:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                part["text"] = shown.feed(part["text"])
    if ended and (rest := shown.close()):
        # The rest belongs to a text that began in this message or in an earlier delta.
        if name is not None and isinstance(said.get(name), str):
            said[name] += rest
        else:
            said["content"] = rest


def _read(data: bytes) -> Any:
    """The JSON value, or None for what is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _written(document: Any) -> bytes:
    """Compact JSON. Raises ValueError for NaN and infinity."""

    def text(ascii_only: bool) -> str:
        return json.dumps(document, ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":"))

    try:
        return text(False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only escape
        return text(True).encode()
