"""Alerts as OCSF Detection Findings (contract 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from responders.decisions import Decision

__all__ = ["OCSF_VERSION", "Alert", "detection_finding"]

OCSF_VERSION: Final = "1.5.0"


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One OCSF finding to deliver.

    `uid` is the finding's, stable for a campaign or account; `id` is this message's: sinks drop
    one whose id they have delivered. `version` orders the messages of a finding; `time` is event
    time in seconds. `finding` is the OCSF document.
    """

    id: str
    uid: str
    version: int
    activity: Literal["create", "update", "close"]
    time: float
    finding: dict[str, Any]


_ACTIVITY: Final = {"create": 1, "update": 2, "close": 3}
_STATUS: Final = {"create": (1, "New"), "update": (2, "In Progress"), "close": (4, "Resolved")}
# OCSF severities: 2 low, 3 medium, 4 high.
_SEVERITY: Final = {"throttle": (2, "Low"), "challenge": (3, "Medium"), "poison": (3, "Medium")}


def detection_finding(
    *,
    uid: str,
    activity: Literal["create", "update", "close"],
    time: float,
    first_seen: float,
    campaign: str | None,
    members: Sequence[str],
    member_count: int,
    live_count: int,
    strongest: tuple[str, int],
    decision: Decision | None,
) -> dict[str, Any]:
    """The OCSF document (class 2004) of one message of a finding; without any prompt.

    Args:
        members: `scope:value` of those enforced so far, perhaps cut; `member_count` of them all.
        live_count: decisions in force.
        strongest: action and level of the strongest decision so far.
        decision: the newest live decision; None once all have ended.
    """
    action, level = strongest
    severity_id, severity = _SEVERITY.get(action, (4, "High"))
    status_id, status = _STATUS[activity]
    who = f"campaign {campaign}" if campaign else (members[0] if members else "an account")
    evidence = decision.evidence if decision is not None else None
    reason = decision.reason if decision is not None else None
    technique = (reason.technique if reason else None) or "AML.T0024.002"
    return {
        "category_uid": 2,
        "category_name": "Findings",
        "class_uid": 2004,
        "class_name": "Detection Finding",
        "type_uid": 200400 + _ACTIVITY[activity],
        "activity_id": _ACTIVITY[activity],
        "activity_name": activity.capitalize(),
        "time": round(time * 1000),
        "severity_id": severity_id,
        "severity": severity,
        "status_id": status_id,
        "status": status,
        "message": f"Model extraction suspected: {who}, {member_count} enforced, {live_count} now",
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": "velvetrope", "vendor_name": "velvetrope"},
            "uid": uid,
        },
        "finding_info": {
            "uid": uid,
            "title": "Model extraction suspected",
            "desc": reason.text if reason else "all decisions of this finding have ended",
            "first_seen_time": round(first_seen * 1000),
            "last_seen_time": round(time * 1000),
            "types": ["extraction"],
            "analytic": {
                "type_id": 4,
                "type": "Learning (ML/DL)",
                "name": decision.scorer if decision is not None else "",
            },
            "attacks": [
                {
                    "technique": {"uid": technique, "name": "Extract AI Model"},
                    "version": "MITRE ATLAS",
                }
            ],
        },
        "evidences": [
            {
                "data": {
                    "e_value": evidence.e_value,
                    "signals": [msgspec.to_builtins(signal) for signal in evidence.signals],
                }
            }
        ]
        if evidence is not None
        else [],
        "resources": [
            {"type": name.partition(":")[0], "name": name.partition(":")[2]} for name in members
        ],
        "unmapped": {
            "campaign": campaign,
            "accounts": member_count,
            "live_decisions": live_count,
            "action": action,
            "level": level,
            "mode": decision.mode if decision is not None else None,
            "owasp": "LLM10:2025",
        },
    }
