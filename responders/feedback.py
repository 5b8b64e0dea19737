"""What people tell the judge: allow, disallow, clear, the mode, and the baseline's version.

A feedback record is one JSON object, told apart by `type`. It is journalled by the judge, which
sets `tick`, before it has any effect, so that a replay of the journal decides the same.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import msgspec

from responders.allowlist import BadEntry, canonical_value
from responders.decisions import Scope

__all__ = [
    "Allow",
    "BadFeedback",
    "Clear",
    "Disallow",
    "Feedback",
    "RunMode",
    "SetBaseline",
    "SetMode",
    "decode_feedback",
    "encode_feedback",
    "with_tick",
]

RunMode = Literal["enforce", "shadow", "off"]
_MAX_TEXT: Final = 1024


class BadFeedback(ValueError):
    """A feedback record that cannot be applied; the message says which field and why."""


class _Base(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every record carries.

    `at` is the event time from which it holds (None: at once); `tick` is the judge's, set when it
    is journalled.
    """

    id: str
    by: str
    at: float | None = None
    tick: int | None = None


class Allow(_Base, frozen=True, kw_only=True, tag="allow"):
    """Never decide against (scope, value) until `expires_at` (event time; None: for good)."""

    scope: Scope
    value: str
    reason: str
    expires_at: float | None = None


class Disallow(_Base, frozen=True, kw_only=True, tag="disallow"):
    """Take (scope, value) off the allowlist."""

    scope: Scope
    value: str


class Clear(_Base, frozen=True, kw_only=True, tag="clear"):
    """An analyst found (scope, value) innocent: end its decision, and leave it in peace.

    `grace_s` are seconds of event time without a decision; None takes the policy's setting.
    """

    scope: Scope
    value: str
    reason: str
    grace_s: float | None = None


class SetMode(_Base, frozen=True, kw_only=True, tag="mode"):
    """Enforce, shadow, or off: the kill switch."""

    mode: RunMode


class SetBaseline(_Base, frozen=True, kw_only=True, tag="baseline"):
    """Rest decisions on a version of the baseline and stay there; None: follow customers again."""

    version: str | None = None


Feedback = Allow | Disallow | Clear | SetMode | SetBaseline

_decoder: Final = msgspec.json.Decoder(Feedback)
_encoder: Final = msgspec.json.Encoder()


def decode_feedback(record: bytes | str) -> Feedback:
    """One JSON record to feedback, its (scope, value) in canonical form. Raises BadFeedback."""
    try:
        feedback: Feedback = _decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFeedback(f"feedback: {error}") from error
    return _checked(feedback)


def encode_feedback(feedback: Feedback) -> bytes:
    """The JSON record that `decode_feedback` reads back."""
    return _encoder.encode(feedback)


def with_tick(feedback: Feedback, tick: int) -> Feedback:
    """The same command, journalled for `tick`."""
    return msgspec.structs.replace(feedback, tick=tick)


def _checked(feedback: Feedback) -> Feedback:
    if not feedback.id:
        raise BadFeedback("feedback: `id` is empty")
    times = {"at": feedback.at}
    if isinstance(feedback, Allow):
        times["expires_at"] = feedback.expires_at
    if isinstance(feedback, Clear):
        times["grace_s"] = feedback.grace_s
        if feedback.grace_s is not None and feedback.grace_s < 0:
            raise BadFeedback("feedback: `grace_s` is negative")
    for name, time in times.items():
        if time is not None and not math.isfinite(time):
            raise BadFeedback(f"feedback: `{name}` is not a finite number")
    if isinstance(feedback, Allow | Clear) and len(feedback.reason) > _MAX_TEXT:
        raise BadFeedback(f"feedback: `reason` is longer than {_MAX_TEXT} characters")
    if isinstance(feedback, SetMode | SetBaseline):
        return feedback
    try:
        value = canonical_value(feedback.scope, feedback.value)
    except BadEntry as error:
        raise BadFeedback(f"feedback: {error}") from error
    return msgspec.structs.replace(feedback, value=value)
