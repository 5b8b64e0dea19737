"""Every metric of the responders, with what it means."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from responders.decisions import Decision

__all__ = ["Metrics"]


class Metrics:
    """The responders' metrics in a registry of their own, which others may add theirs to."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._decisions = Counter(
            "velvetrope_decisions",
            "Decisions issued or applied by this process",
            ["action", "mode"],
            registry=self.registry,
        )
        self._verdicts = Counter(
            "velvetrope_verdicts",
            "Answers to gateways: outcome is allow, throttled (allowed within the rate), refused, "
            "guarded (a request that probes), bad_secret or unavailable",
            ["gateway", "outcome"],
            registry=self.registry,
        )
        self._challenges = Counter(
            "velvetrope_challenges",
            "Challenges issued, and answers by what became of them: passed, or refused as expired, "
            "forged, malformed, other_account, replayed",
            ["outcome"],
            registry=self.registry,
        )
        self._live = Gauge(
            "velvetrope_enforced_decisions",
            "Decisions in the local copy that the verdict API enforces",
            registry=self.registry,
        )
        self._age = Gauge(
            "velvetrope_view_age_seconds",
            "Age of the local copy of decisions",
            registry=self.registry,
        )
        self._mode = Gauge(
            "velvetrope_mode",
            "1 for the mode in force",
            ["mode"],
            registry=self.registry,
        )

    def decisions(self, decisions: Iterable[Decision]) -> None:
        """Count decisions by action and mode."""
        for decision in decisions:
            self._decisions.labels(decision.action, decision.mode).inc()

    def verdict(self, gateway: str, outcome: str) -> None:
        """Count one answer to a gateway."""
        self._verdicts.labels(gateway, outcome).inc()

    def challenge(self, outcome: str) -> None:
        """Count a challenge issued, or an answer."""
        self._challenges.labels(outcome).inc()

    def view(self, enforced: int, age_s: float, mode: str) -> None:
        """State of the local copy."""
        self._live.set(enforced)
        self._age.set(age_s)
        for name in ("enforce", "shadow", "off"):
            self._mode.labels(name).set(name == mode)

    def text(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
