"""Alerts as OCSF Detection Findings (contract 6)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["Alert"]


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
