"""Alerts as OCSF Detection Findings (contract 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any, Final, Literal

import msgspec

from responders.decisions import Decision

__all__ = ["Activity", "Alert", "cap_finding", "detection_finding"]

Activity = Literal["create", "update", "close"]

_OCSF: Final = "1.4.0"
_CLASS: Final = 2004
_ACTIVITY: Final[dict[str, int]] = {"create": 1, "update": 2, "close": 3}
_STATUS: Final[dict[str, tuple[int, str]]] = {
    "create": (1, "New"),
    "update": (2, "In Progress"),
    "close": (4, "Resolved"),
}
_SEVERITY: Final[dict[str, tuple[int, str]]] = {
    "throttle": (3, "Medium"),
    "challenge": (3, "Medium"),
    "poison": (4, "High"),
    "block": (4, "High"),
}
# (action_id, disposition_id) of the security_control profile; in shadow nothing is done.
_CONTROL: Final[dict[str, tuple[int, int]]] = {
    "throttle": (4, 14),  # modified, delayed
    "challenge": (2, 23),  # denied, challenge
    "poison": (4, 7),  # modified, custom action
    "block": (2, 2),  # denied, blocked
}
_SHADOW: Final = (3, 17)  # observed, logged
# MITRE ATLAS: technique → name, tactic, the tactic's name.
_ATLAS: Final[dict[str, tuple[str, str, str]]] = {
    "AML.T0024.002": ("Extract AI Model", "AML.TA0010", "Exfiltration"),
    "AML.T0005.001": ("Train Proxy via Replication", "AML.TA0001", "AI Attack Staging"),
    "AML.T0008.005": ("AI Service Proxies", "AML.TA0003", "Resource Development"),
}
_REPLICATES: Final = "AML.T0005.001"
_PROXIES: Final = "AML.T0008.005"
_NAMED: Final = 100  # members named in a document; their number is always there


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One OCSF finding to deliver.

    `uid` is the finding's, stable for a campaign or account; `id` is this message's: sinks drop
    one whose id they have delivered. `version` is that of the decision that caused it, and orders
    the messages of a finding; `time` is event time in seconds. `finding` is the OCSF document.
    """

    id: str
    uid: str
    version: int
    activity: Activity
    time: float
    finding: dict[str, Any]


def detection_finding(
    *,
    alert_id: str,
    uid: str,
    activity: Activity,
    now: float,
    created_at: float,
    strongest: Decision,
    newest: Decision,
    members: Sequence[tuple[str, str]],
    why: str = "",
) -> dict[str, Any]:
    """The document of one message of a finding; no prompt is ever in it.

    `strongest` and `newest` are decisions of the finding, `members` the (scope, value) it is
    about, `why` says what closed it. Times are Unix seconds of event time.
    """
    severity_id, severity = _SEVERITY[strongest.action]
    action_id, disposition_id = (
        _SHADOW if strongest.mode == "shadow" else _CONTROL[strongest.action]
    )
    attacks = _attacks(strongest)
    info: dict[str, Any] = {
        "uid": uid,
        "title": _title(strongest, len(members)),
        "desc": strongest.reason.text,
        "types": ["Model extraction", "OWASP LLM10:2025 Unbounded Consumption"],
        "created_time": _ms(created_at),
        "modified_time": _ms(now),
        "last_seen_time": _ms(newest.issued_at),
        "analytic": {
            "uid": newest.scorer or "velvetrope",
            "name": strongest.reason.code,
            "type": "Learning (ML/DL)",
            "type_id": 4,
        },
        "attacks": attacks,
    }
    document: dict[str, Any] = {
        **_document(alert_id, activity, now, severity_id, severity, info, why),
        "action_id": action_id,
        "disposition_id": disposition_id,
        "attacks": attacks,
        "resources": [{"type": scope, "uid": value} for scope, value in members[:_NAMED]],
        "unmapped": {
            "mode": strongest.mode,
            "action": strongest.action,
            "level": strongest.level,
            "campaign": strongest.campaign,
            "members": len(members),
            "n_events": newest.n_events,
            "decision": newest.id,
            "expires_at": newest.expires_at,
            "baseline": newest.baseline,
        },
    }
    if newest.evidence is not None:
        document["unmapped"]["e_value"] = newest.evidence.e_value
        document["evidences"] = [
            {"data": msgspec.to_builtins(signal)} for signal in newest.evidence.signals
        ]
    return document


def cap_finding(
    *,
    alert_id: str,
    uid: str,
    activity: Activity,
    now: float,
    created_at: float,
    waiting: int,
    per_min: int,
) -> dict[str, Any]:
    """The document that says that new enforcements wait for the cap, or (close) no longer do.

    `waiting` are campaigns and accounts in none; `per_min` is the cap.
    """
    why = "none waits any more" if activity == "close" else ""
    info: dict[str, Any] = {
        "uid": uid,
        "title": f"New enforcements are held back: {waiting} wait, {per_min} a minute may begin",
        "desc": "More campaigns than policy.new_enforcements_per_min would newly be enforced "
        "against: a large attack, or a log or baseline that has gone wrong",
        "types": ["Enforcement cap"],
        "created_time": _ms(created_at),
        "modified_time": _ms(now),
        "analytic": {
            "uid": "velvetrope",
            "name": "enforcement_cap",
            "type": "Rule",
            "type_id": 1,
        },
    }
    return {
        **_document(alert_id, activity, now, 4, "High", info, why),
        "unmapped": {"waiting": waiting, "per_minute": per_min},
    }


def _document(
    alert_id: str,
    activity: Activity,
    now: float,
    severity_id: int,
    severity: str,
    info: dict[str, Any],
    why: str,
) -> dict[str, Any]:
    """What every finding has."""
    status_id, status = _STATUS[activity]
    document: dict[str, Any] = {
        "activity_id": _ACTIVITY[activity],
        "activity_name": activity.capitalize(),
        "category_uid": 2,
        "category_name": "Findings",
        "class_uid": _CLASS,
        "class_name": "Detection Finding",
        "type_uid": _CLASS * 100 + _ACTIVITY[activity],
        "time": _ms(now),
        "is_alert": True,
        "message": info["title"] + (f": {why}" if why else ""),
        "metadata": {
            "uid": alert_id,
            "version": _OCSF,
            "profiles": ["security_control"],
            "product": {"name": "velvetrope", "vendor_name": "velvetrope", "version": _version()},
        },
        "severity_id": severity_id,
        "severity": severity,
        "status_id": status_id,
        "status": status,
        "finding_info": info,
    }
    if activity == "close":
        document["status_detail"] = why
    return document


def _title(strongest: Decision, members: int) -> str:
    who = f"{strongest.scope} {strongest.value}"
    if strongest.campaign:
        plural = "" if members == 1 else "s"
        who = f"campaign {strongest.campaign} ({members} account{plural})"
    shadow = " (shadow: not enforced)" if strongest.mode == "shadow" else ""
    return f"Model extraction suspected: {who}, {strongest.action}{shadow}"


def _attacks(decision: Decision) -> list[Mapping[str, Any]]:
    technique = decision.reason.technique
    if technique is None:
        return []
    uids = [technique]
    if technique == "AML.T0024.002":
        uids.append(_REPLICATES)
    if decision.campaign:
        uids.append(_PROXIES)
    return [_attack(uid) for uid in uids]


def _attack(uid: str) -> Mapping[str, Any]:
    if uid not in _ATLAS:
        return {"technique": {"uid": uid}}
    name, tactic, tactic_name = _ATLAS[uid]
    return {
        "technique": {"uid": uid, "name": name},
        "tactic": {"uid": tactic, "name": tactic_name},
    }


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


@cache
def _version() -> str:
    try:
        return metadata.version("velvetrope")
    except metadata.PackageNotFoundError:
        return "unknown"
