"""Who calls: from the headers that a gateway sets, or from a payload, to an identity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from responders.allowlist import address_of
from responders.settings import ApiSettings

__all__ = [
    "ANSWER_HEADER",
    "Caller",
    "caller_of_headers",
    "caller_of_litellm",
    "header_value",
    "key_scope",
    "plain_path",
]

ANSWER_HEADER: Final = "Challenge-Answer"  # the client's own: gateways relay it as it came
_ANSWER: Final = ANSWER_HEADER.lower().encode()
_MAX_BYTES: Final = 256


class Caller(msgspec.Struct, frozen=True):
    """A caller as the gateway names it. The account may yet follow from the key's identity.

    `api_key` is `sha256:<hex>`; `path` (without its query) and `model` are None when unknown.
    `answer` is what the client brings against a challenge, `tokens` what the request may take.
    `two_keys`: it has two, and the model's server may go by the other one.
    """

    api_key: str | None = None
    account: str | None = None
    org: str | None = None
    ip: str | None = None
    path: str | None = None
    model: str | None = None
    answer: str | None = None
    plan: str | None = None
    tokens: float | None = None
    two_keys: bool = False


def caller_of_headers(
    headers: Iterable[tuple[bytes, bytes]], settings: ApiSettings, path: str | None
) -> Caller:
    """From raw header fields. Only the configured ones count, X-Forwarded-For never does.

    Where a field comes twice, the last counts: a gateway that appends has the last word.
    """
    key_name = settings.key_header.lower().encode()
    account_name = settings.account_header.lower().encode()
    ip_name = None if settings.ip_header is None else settings.ip_header.lower().encode()
    plan_name = (settings.plan_header or "").lower().encode()
    tokens_name = (settings.tokens_header or "").lower().encode()
    api_key = account = ip = answer = plan = tokens = None
    two_keys = False
    for name, value in headers:
        lower = name.lower()
        if lower == key_name:
            key = key_scope(value)
            two_keys |= api_key is not None and key != api_key
            api_key = key
        elif lower == account_name:
            account = _text(value)
        elif lower == ip_name:
            ip = _address(value)
        elif lower == _ANSWER:
            answer = value.decode("ascii", "replace")
        elif lower == plan_name:
            plan = _text(value)
        elif lower == tokens_name:
            tokens = _number(value)
    return Caller(
        api_key=api_key,
        account=account,
        ip=ip,
        path=path,
        answer=answer,
        plan=plan,
        tokens=tokens,
        two_keys=two_keys,
    )


def caller_of_litellm(body: dict[str, Any], settings: ApiSettings) -> Caller:
    """From LiteLLM's guardrail request: `request_data.user_api_key_*` and `model`."""
    data = body.get("request_data")
    data = data if isinstance(data, dict) else {}
    key_hash = _known(data.get("user_api_key_hash"))
    api_key = None if key_hash is None else f"sha256:{key_hash}"
    account = None
    if settings.litellm_account != "key":
        account = _known(data.get(f"user_api_key_{settings.litellm_account}_id"))
    return Caller(
        api_key=api_key,
        account=account or api_key,
        org=_known(data.get("user_api_key_org_id")),
        model=_known(body.get("model")),
    )


def key_scope(value: bytes) -> str | None:
    """`sha256:` and the hex of the key, without `Bearer `; None when there is no key.

    >>> key_scope(b"Bearer ") is None
    True
    """
    key = value.strip()
    if key[:6].lower() == b"bearer" and not key[6:7].strip():
        key = key[6:].strip()
    return "sha256:" + hashlib.sha256(key).hexdigest() if key else None


def plain_path(uri: str, *, decoded: bool = False) -> str:
    """The path of a request target as a model's server may take it: one spelling for all.

    Decisions about endpoints match it, and `/v1/%63hat` must not escape one about `/v1/chat`.
    `decoded`: percent-encoding is undone already, and twice would be another path.

    >>> plain_path("/v1//x/../%63hat/?a=b")
    '/v1/chat/'
    """
    # Servers drop a fragment too, which no browser sends and APISIX and nginx let a client send.
    path = uri if decoded else uri.partition("?")[0].partition("#")[0]
    if not path.startswith("/") and "://" in path:  # the absolute form
        path = "/" + path.partition("://")[2].partition("/")[2]
    if "%" in path and not decoded:
        path = unquote(path, errors="surrogateescape")
    if "//" not in path and "/." not in path:
        return path
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    ends = "/" if parts and path.endswith(("/", "/.", "/..")) else ""
    return "/" + "/".join(parts) + ends


def header_value(text: str) -> bytes:
    """A value that may stand in a header field: UTF-8, control characters percent-encoded."""
    raw = text.encode("utf-8", "surrogateescape")
    if all(0x20 <= byte != 0x7F for byte in raw):
        return raw
    return b"".join(bytes([byte]) if 0x20 <= byte != 0x7F else b"%%%02X" % byte for byte in raw)


def _text(value: bytes) -> str | None:
    if not 1 <= len(value) <= _MAX_BYTES:
        return None
    # What is no UTF-8 is escaped: no store and no log could hold it as it is.
    return value.decode("utf-8", "backslashreplace")


def _address(value: bytes) -> str | None:
    try:
        return str(address_of(value.decode("ascii", "replace").strip()))
    except ValueError:
        return None


def _number(value: bytes) -> float | None:
    text = value.strip()
    return float(text) if text.isdigit() and len(text) <= 9 else None


def _known(value: Any) -> str | None:
    if not isinstance(value, str) or not 1 <= len(value.encode("utf-8", "replace")) <= _MAX_BYTES:
        return None
    return value
