"""All settings, in one typed model. Where they come from is read in `detector.configuration`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from responders.settings import (
    AlertSettings,
    ApiSettings,
    FollowSettings,
    PolicySettings,
    RedisSettings,
)

__all__ = [
    "FormatSettings",
    "JudgeSettings",
    "KafkaSettings",
    "MeasureSettings",
    "PopulationRule",
    "ServeSettings",
    "Settings",
]

Seconds = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PopulationRule(_Part):
    """Texts whose model and endpoint match share the baseline of this name.

    Vectors, and requests without an input, share NAME:vector and NAME:metadata.
    """

    name: str
    models: tuple[str, ...] = ("*",)
    endpoints: tuple[str, ...] = ("*",)

    @field_validator("name")
    @classmethod
    def _distinct(cls, name: str) -> str:
        if not name or ":" in name or name == "metadata":
            raise ValueError(
                f"{name!r} would mix texts with vectors or with requests without input"
            )
        return name


class FormatSettings(_Part):
    """How log records become events."""

    anonymous_by_ip: bool = Field(
        False, description="account requests without an account to `ip:<address>`"
    )
    litellm_account: Literal["user", "team", "org", "end_user", "key"] = Field(
        "user", description="which LiteLLM identity is billed; the key's hash where it is missing"
    )


class MeasureSettings(_Part):
    """Events to blocks."""

    partitions: int = Field(8, ge=1, le=1024, description="fixed for the life of a deployment")
    account_idle_after: Seconds = Field(
        21_600.0, description="s without a request after which a short block closes"
    )
    account_forget_after: Seconds = Field(
        1_209_600.0, description="s without a request after which an account's past is dropped"
    )
    far_stamp_s: Seconds = Field(
        60.0, description="a stamp this far past the watermark moves it only when a second agrees"
    )
    populations: tuple[PopulationRule, ...] = Field(
        (), description="first match names the population; none: 'text', or 'vector:<model>'"
    )


class JudgeSettings(_Part):
    """Blocks to verdicts."""

    tick_s: Seconds = Field(0.2, description="s of event time between judgements")
    evidence_restart_s: Seconds = Field(
        604_800.0, description="s after an account's first event at which its evidence restarts"
    )
    baseline: Path | None = Field(None, description="made by `calibrate`; none: the shipped one")
    models: Path | None = Field(
        None, description="models for text made by `train`; none: the shipped ones"
    )
    baseline_customers: int = Field(
        1000, ge=1, description="below which a baseline is in shadow: the shipped one decides"
    )
    baseline_days: float = Field(
        7.0, ge=0, description="of history in a baseline, likewise; evidence of a day is lower"
    )


class KafkaSettings(_Part):
    """The stream."""

    bootstrap: str = "127.0.0.1:9092"
    prefix: str = Field("", description="put before every topic's name")
    replication: int = Field(1, ge=1)
    checkpoint_every_s: Seconds = 5.0
    heartbeat_after_s: Seconds = Field(
        1.0, description="s read to its end after which a partition is declared silent"
    )
    session_timeout_s: Seconds = Field(
        10.0, description="s without a sign of life after which a worker's partitions move on"
    )
    owner_missing_after_s: Seconds = Field(
        60.0, description="s without news of a partition's owner after which it is alerted on"
    )
    stuck_after_s: Seconds = Field(
        120.0, description="s without progress, with records waiting, after which a worker exits"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: Path | None = None


class ServeSettings(_Part):
    """The one-process service."""

    files: tuple[Path, ...] = Field((), description="logs to follow, when no argument names any")
    format: str = Field("native", description="of those logs: native, nginx, litellm or envoy")
    state: Path = Field(Path("velvetrope.db"), description="SQLite file (WAL) that holds all state")
    checkpoint_every_s: Seconds = Field(2.0, description="s between checkpoints of the state")
    poll_every_s: Seconds = Field(0.2, description="s between looks at a log that has no news")
    silence_after_s: Seconds = Field(
        1.0,
        description="s without an event, all sources read, after which a partition holds no tick",
    )
    dead_letters_kept: int = Field(10_000, ge=1, description="the newest refused records")
    inbox_max_events: int = Field(
        200_000, ge=1, description="posted events waiting; above it ingest answers 503"
    )


class Settings(_Part):
    """Everything an operator can set."""

    secrets_dir: Path | None = Field(
        None, description="folder of files named like settings (api__secret), one secret each"
    )
    formats: FormatSettings = FormatSettings()
    measure: MeasureSettings = MeasureSettings()
    judge: JudgeSettings = JudgeSettings()
    kafka: KafkaSettings = KafkaSettings()
    serve: ServeSettings = ServeSettings()
    policy: PolicySettings = PolicySettings()
    redis: RedisSettings = RedisSettings()
    api: ApiSettings = ApiSettings()
    alerts: AlertSettings = AlertSettings()
    follow: FollowSettings = FollowSettings()

    @model_validator(mode="after")
    def _one_account(self) -> Self:
        # Decisions name the account that the log's format saw: the guardrail must see the same.
        if self.api.litellm_account != self.formats.litellm_account:
            raise ValueError(
                f"api.litellm_account is {self.api.litellm_account!r}, but "
                f"formats.litellm_account is {self.formats.litellm_account!r}: they must be equal"
            )
        return self
