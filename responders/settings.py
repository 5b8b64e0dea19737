"""The responders' part of the settings: the ladder, the stores, the verdict API, the alerts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

__all__ = [
    "AlertSettings",
    "ApiSettings",
    "PolicySettings",
    "RedisSettings",
    "RespondersSettings",
    "RungSettings",
    "ThrottleSettings",
]

Action = Literal["observe", "throttle", "challenge", "poison", "block"]
Positive = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RungSettings(_Part):
    """One rung of the ladder."""

    action: Action
    level: int = Field(1, ge=1, description="strength within the action")
    false_per_1000_week: Positive = Field(
        description="customers of 1,000 whom the rung may wrongly reach in a week"
    )
    ttl_s: Positive = Field(3600.0, description="seconds of event time that a decision lives")


class ThrottleSettings(_Part):
    """What a throttled account may still send, at level 1; each level halves it."""

    rate_per_min: Positive = Field(6.0, description="requests a minute")
    burst: int = Field(3, ge=1, description="requests at once")


class PolicySettings(_Part):
    """From evidence to decisions."""

    mode: Literal["shadow", "enforce"] = Field(
        "shadow", description="shadow writes decisions that no gateway reads"
    )
    ladder: tuple[RungSettings, ...] = (
        RungSettings(action="observe", false_per_1000_week=10.0, ttl_s=86_400.0),
        RungSettings(action="throttle", level=1, false_per_1000_week=1.0, ttl_s=3_600.0),
        RungSettings(action="throttle", level=2, false_per_1000_week=0.5, ttl_s=3_600.0),
        RungSettings(action="challenge", false_per_1000_week=0.3, ttl_s=3_600.0),
        RungSettings(action="poison", false_per_1000_week=0.1, ttl_s=21_600.0),
        RungSettings(action="block", false_per_1000_week=0.03, ttl_s=86_400.0),
    )
    ceiling: Action = Field("block", description="the strongest action ever decided")
    throttle: ThrottleSettings = ThrottleSettings()
    grace_after_clear_s: float = Field(
        604_800.0, ge=0, description="seconds for which an analyst's clear protects"
    )
    id_key: SecretStr = Field(
        SecretStr("velvetrope"), description="HMAC key of decision and campaign ids"
    )


class RedisSettings(_Part):
    """Where gateways read decisions."""

    url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="redis:// or rediss://"
    )
    prefix: str = Field("velvetrope:", description="of every key; '{velvetrope}:' on a cluster")
    changes_kept: int = Field(100_000, ge=100, description="entries kept in the change stream")


class ApiSettings(_Part):
    """The verdict API."""

    host: str = "127.0.0.1"
    port: int = Field(8470, ge=0, le=65535, description="0 picks a free port")
    secret: SecretStr | None = Field(
        None,
        description="shared secret, for /authorize/*, needed off loopback",
    )
    key_header: str = Field("Authorization", description="header with the caller's bearer key")
    account_header: str = Field("X-Account", description="header that the gateway sets itself")
    max_body_bytes: int = Field(16 << 20, ge=1024)
    status_block: int = Field(403, description="what a blocked client is answered")
    challenge_url: str | None = Field(None, description="where one re-authenticates")


class AlertSettings(_Part):
    """Where alerts go besides the store or topic that keeps them."""

    file: Path | None = Field(None, description="append OCSF findings to this file, one a line")
    webhook: SecretStr | None = Field(None, description="POST each finding to this URL")


class RespondersSettings(_Part):
    """Everything the responders are set by."""

    policy: PolicySettings = PolicySettings()
    redis: RedisSettings = RedisSettings()
    api: ApiSettings = ApiSettings()
    alerts: AlertSettings = AlertSettings()
