"""Answers as poisoned callers get them: shaped by level, and marked or wrong where opted in.

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
from fnmatch import fnmatchcase
from typing import Any, Final

from velvetrope_client.canary import Canaries, CanaryStream
from velvetrope_client.cells import Input
from velvetrope_client.classifier_answers import read_answers, read_inputs
from velvetrope_client.keys import Key
from velvetrope_client.rewriter_settings import EndpointSettings, RewriterSettings
from velvetrope_client.shaping import TextFilter, shape_choices, shape_probabilities
from velvetrope_client.sse import EventStream
from velvetrope_client.watermark import Watermark
from velvetrope_client.wrong_answers import WrongAnswers, swapped

__all__ = ["Rewriter", "StreamRewriter"]

_log = logging.getLogger(__name__)
_STRUCTURED: Final = ("json_object", "json_schema")


class Rewriter:
    """Rewrites answers. One serves all requests; it keeps nothing of them."""

    def __init__(self, settings: RewriterSettings | None = None) -> None:
        self._settings = RewriterSettings() if settings is None else settings
        keys = self._settings.keys
        key = None if keys is None else keys.current
        self._endpoints = [
            _Endpoint(one, key) for one in (*self._settings.endpoints, EndpointSettings())
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

    def text(
        self, *, action: str, level: int, subject: str, endpoint: str, text: str
    ) -> tuple[str, int]:
        """The same for a bare text, whole or as far as it has come, and how much of it is an end.

        The text without that many characters at its end is what may be shown while there is more to
        come: whatever comes, it only grows. A text that begins as JSON or code does is not cut.
        """
        if action != "poison":
            return text, 0
        prose = not text.lstrip().startswith(("{", "[", "```"))
        shown = _Answer(self._at(endpoint), level, subject, b"").text(prose=prose)
        said = shown.feed(text)
        end = shown.end(by_itself=True)
        return said + end, len(end)

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
        answer = _Answer(self._at(endpoint), level, subject, request)
        if kind == "text/event-stream":
            return StreamRewriter(EventStream(answer.event), None, 0)
        return StreamRewriter(None, answer.document, self._settings.max_body_bytes)

    def _at(self, endpoint: str) -> _Endpoint:
        return next(one for one in self._endpoints if fnmatchcase(endpoint, one.settings.match))


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


class _Endpoint:
    """The settings of one endpoint, and what was opted into there."""

    __slots__ = ("canaries", "settings", "watermark", "wrong")

    def __init__(self, settings: EndpointSettings, key: Key | None) -> None:
        self.settings = settings
        self.canaries: Canaries | None = None
        self.watermark: Watermark | None = None
        self.wrong: WrongAnswers | None = None
        if key is None:
            return
        if settings.wrong_answers.opted_in:
            self.wrong = WrongAnswers(settings.wrong_answers, key)
        if settings.canaries.from_level:
            self.canaries = Canaries(
                key, share=settings.canaries.share, closings=settings.canaries.closings
            )
        if settings.watermark.from_level:
            self.watermark = Watermark(
                key,
                rate=settings.watermark.rate,
                scale=settings.watermark.scale,
                register=settings.watermark.register,
            )


class _Text:
    """The text of one choice: shaped as it goes by, with a closing remark when it has ended."""

    __slots__ = ("_canary", "_shown")

    def __init__(self, shown: TextFilter, canary: CanaryStream | None) -> None:
        self._shown = shown
        self._canary = canary

    @property
    def shortened(self) -> bool:
        return self._shown.shortened

    def feed(self, piece: str) -> str:
        return self._passed(self._shown.feed(piece))

    def end(self, *, by_itself: bool) -> str:
        """What follows the last piece; `by_itself` when the model stopped without being cut."""
        rest = self._passed(self._shown.close())
        canary, self._canary = self._canary, None
        if canary is None or not by_itself or self.shortened:
            return rest
        return rest + canary.close()

    def _passed(self, piece: str) -> str:
        if self._canary is not None:
            self._canary.feed(piece)
        return piece


class _Answer:
    """One answer to one request, in one document or in the documents of a stream's events."""

    def __init__(self, endpoint: _Endpoint, level: int, subject: str, request: bytes) -> None:
        self._endpoint = endpoint
        self._level = level
        self._subject = subject
        self._shape = endpoint.settings.shaping.at(level)
        self._asked = _read(request)
        self._texts: dict[int, _Text] = {}

    def text(self, *, prose: bool) -> _Text:
        """A text of this answer; one that is no prose is neither cut nor added to."""
        canary = None
        first = self._endpoint.settings.canaries.from_level
        if self._endpoint.canaries is not None and first <= self._level and prose:
            canary = self._endpoint.canaries.stream(self._subject)
        return _Text(TextFilter(self._shape, prose=prose), canary)

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
            place = index if isinstance(index, int) else 0
            if place not in self._texts:
                self._texts[place] = self.text(prose=not self._structured())
            _show(self._texts[place], choice, last=last)
            if self._texts[place].shortened and choice.get("finish_reason") == "stop":
                choice["finish_reason"] = "length"

    def _structured(self) -> bool:
        form = self._asked.get("response_format") if isinstance(self._asked, dict) else None
        return isinstance(form, dict) and form.get("type") in _STRUCTURED

    def _classified(self, document: Any) -> None:
        paths = self._endpoint.settings.paths
        answers = read_answers(document, paths)
        inputs = read_inputs(self._asked, paths, len(answers))
        for answer, given in zip(answers, inputs, strict=True):
            label, chances = answer.label, answer.chances
            if given is not None:
                label, chances = self._drawn(given, label, chances, answer.drawn_from(paths))
            answer.write(
                label,
                shape_probabilities(self._shape, chances, label),
                only_top=self._shape.top_one,
            )

    def _drawn(
        self, given: Input, label: str, chances: dict[str, float], classes: tuple[str, ...]
    ) -> tuple[str, dict[str, float]]:
        """A wrong answer where one is due, else perhaps a mark."""
        if self._endpoint.wrong is not None:
            told, chances = self._endpoint.wrong.answer(
                self._subject, self._level, given, label, chances, classes
            )
            if told != label:
                return told, chances
        if (
            self._endpoint.watermark is not None
            and self._endpoint.settings.watermark.from_level <= self._level
        ):
            told = self._endpoint.watermark.answer(self._subject, given, label, classes)
            if told != label:
                return told, swapped(chances, label, told)
        return label, chances


def _show(text: _Text, choice: dict[str, Any], *, last: bool) -> None:
    """Pass the text of a choice through, where it stands: a message's, a delta's or its own."""
    parts = (choice.get(name) for name in ("message", "delta"))
    said: dict[str, Any] = next((part for part in parts if isinstance(part, dict)), choice)
    name = "text" if said is choice else "content"
    held = said.get(name)
    if isinstance(held, str):
        said[name] = text.feed(held)
    elif isinstance(held, list):
        for part in held:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                part["text"] = text.feed(part["text"])
    reason = choice.get("finish_reason")
    if not last and reason is None:
        return
    rest = text.end(by_itself=reason == "stop" and not said.get("tool_calls"))
    if rest and isinstance(held, list):
        held.append({"type": "text", "text": rest})
    elif rest:
        said[name] = (said.get(name) or "") + rest


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
