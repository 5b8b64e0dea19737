"""Decisions for tests."""

from __future__ import annotations

from typing import Any

from responders.decisions import Decision, Evidence, Reason, Signal

__all__ = ["NOW", "decision"]

NOW = 1_781_000_000.0


def decision(version: int = 1, **changes: Any) -> Decision:
    """An enforced throttle of acct-1 that lives for an hour from NOW, unless told otherwise."""
    signal = Signal(
        name="coverage.self_similarity", value=0.03, typical=(0.11, 0.42), weight=0.37, text="broad"
    )
    fields: dict[str, Any] = {
        "id": f"d-{version}",
        "version": version,
        "scope": "account",
        "value": "acct-1",
        "action": "throttle",
        "level": 1,
        "mode": "enforce",
        "params": {"rate_per_min": 6.0, "burst": 3, "bucket": "account:acct-1"},
        "reason": Reason(code="extraction", text="asks too broadly", technique="AML.T0024.002"),
        "evidence": Evidence(e_value=2310.0, signals=(signal,)),
        "n_events": 640,
        "issued_at": NOW,
        "expires_at": NOW + 3600.0,
    }
    return Decision(**(fields | changes))
