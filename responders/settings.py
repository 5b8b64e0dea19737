"""The responders' part of the settings: the ladder, the stores, the verdict API, the alerts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from responders.decisions import ACTIONS

__all__ = [
    "AlertSettings",
    "ApiSettings",
    "ChallengeSettings",
    "FollowSettings",
    "PolicySettings",
    "RedisSettings",
    "RespondersSettings",
    "RungSettings",
    "StageSettings",
    "StaticLimitSettings",
    "ThrottleSettings",
]

Action = Literal["observe", "throttle", "challenge", "poison", "block"]
Positive = Annotated[float, Field(gt=0)]
# A path or URL that may stand in a header field and in JSON as it is.
_FIELD: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # the name of a header field (RFC 9110)
_URL: Final = r"^(https?:/)?/[!#-\[\]-~]*$"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RungSettings(_Part):
    """One rung of the ladder."""

    action: Action
    level: int = Field(1, ge=1, description="strength within the action")
    false_per_1000_week: Positive = Field(
        description="customers of 1,000 whom the rung may wrongly reach in a week, where "
        "`policy.false_per_1000_week` is 1; it grows and shrinks with that"
    )
    ttl_s: Positive = Field(3600.0, description="seconds of event time that a decision lives")


class ThrottleSettings(_Part):
    """What a throttled account may still send, at level 1; each level halves it."""

    rate_per_min: Positive = Field(6.0, description="requests a minute")
    burst: int = Field(3, ge=1, description="requests at once")
    tokens_per_min: Positive | None = Field(
        None, description="tokens a minute, where the gateway tells how many a request takes"
    )
    tokens_burst: int = Field(10_000, ge=1, description="tokens at once")
    requests_per_day: int | None = Field(None, ge=1, description="requests a day of UTC")
    tokens_per_day: int | None = Field(None, ge=1, description="tokens a day of UTC")


class StaticLimitSettings(_Part):
    """A limit that holds without any decision, for each account by itself."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,39}$",
        description="of the policy in RateLimit fields; of limits of one name the first that "
        "matches a request holds, those of different names hold together",
    )
    plans: tuple[str, ...] = Field(("*",), description="as patterns; unknown plans match * only")
    endpoints: tuple[str, ...] = Field(("*",), description="paths, as patterns")
    models: tuple[str, ...] = Field(("*",), description="as patterns")
    rate_per_min: Positive | None = Field(None, description="requests a minute")
    burst: int = Field(1, ge=1, description="requests at once")
    tokens_per_min: Positive | None = Field(None, description="tokens a minute")
    tokens_burst: int = Field(1, ge=1, description="tokens at once")
    requests_per_day: int | None = Field(None, ge=1, description="requests a day of UTC")
    tokens_per_day: int | None = Field(None, ge=1, description="tokens a day of UTC")

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        quotas = ("rate_per_min", "tokens_per_min", "requests_per_day", "tokens_per_day")
        if all(getattr(self, quota) is None for quota in quotas):
            raise ValueError(f"limit {self.name!r} limits nothing: set one of {', '.join(quotas)}")
        return self


class StageSettings(_Part):
    """Whom decisions are enforced against in `enforce` mode; for the rest they are in shadow."""

    share: float = Field(
        1.0, ge=0, le=1, description="of accounts, chosen by a keyed hash; growing it drops nobody"
    )
    plans: tuple[str, ...] = Field(("*",), description="of the log's `plan`, as patterns")
    endpoints: tuple[str, ...] = Field(("*",), description="that decisions apply to, as patterns")
    models: tuple[str, ...] = Field(("*",), description="that decisions apply to, as patterns")


class PolicySettings(_Part):
    """From evidence to decisions."""

    mode: Literal["shadow", "enforce"] = Field(
        "shadow", description="shadow writes decisions that no gateway reads"
    )
    false_per_1000_week: Positive = Field(
        1.0,
        description="customers of 1,000 who may wrongly be enforced against in a week; "
        "the numbers of all rungs are multiplied by it",
    )
    false_per_1000_week_of: dict[Action, Positive] = Field(
        {},
        description="the same for one action, as it is, in place of the ladder's numbers; "
        "levels above the action's first keep their proportion to it",
    )
    max_false_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="of the accounts enforced against in a week, the share that may be false; "
        "thresholds tighten until it holds; 1 tightens nothing",
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
    limits: tuple[StaticLimitSettings, ...] = Field(
        (), description="by plan, endpoint and model, that hold in `enforce` without a decision"
    )
    fail_closed: tuple[Literal["throttle", "challenge", "poison", "block"], ...] = Field(
        (),
        description="actions that the verdict API holds on to from its last copy while the store "
        "is out of reach; all others fail open",
    )
    stage: StageSettings = StageSettings()
    new_enforcements_per_min: int | None = Field(
        60,
        ge=1,
        description="campaigns (or accounts in none) newly enforced against a minute at most; the "
        "strongest evidence goes first, the rest wait, and an alert says so",
    )
    delay_s: float = Field(
        0.0, ge=0, description="seconds that a stronger decision about a campaign waits at least"
    )
    jitter_s: float = Field(
        0.0, ge=0, description="seconds more that it waits at most, drawn for campaign and rung"
    )
    longest_ttl_s: Positive = Field(
        604_800.0, description="seconds that a decision lives at most, doubled by each offence"
    )
    new_evidence_events: int = Field(
        32, ge=1, description="events since the last decision that count as new evidence"
    )
    grace_after_clear_s: float = Field(
        604_800.0, ge=0, description="seconds for which an analyst's clear protects"
    )
    id_key: SecretStr = Field(
        SecretStr("velvetrope"), description="HMAC key of decision and campaign ids"
    )

    @model_validator(mode="after")
    def _ladder_climbs(self) -> Self:
        """Each rung must be stronger than the one below, and asks for stronger evidence."""
        if not self.ladder:
            raise ValueError("`ladder` has no rung")
        for below, above in zip(self.ladder, self.ladder[1:], strict=False):
            weaker = (ACTIONS.index(below.action), below.level)
            if (ACTIONS.index(above.action), above.level) <= weaker:
                raise ValueError(
                    f"`ladder`: {above.action} {above.level} is not stronger than "
                    f"{below.action} {below.level}, the rung below it"
                )
        rungs = self.rungs()
        for below, above in pairwise(rungs):
            if above.false_per_1000_week >= below.false_per_1000_week:
                raise ValueError(
                    f"`ladder`: {above.action} {above.level} must have a smaller "
                    "`false_per_1000_week` than the rung below it"
                )
        return self

    @model_validator(mode="after")
    def _waits_are_short(self) -> Self:
        """What is in force must not expire while the step above it waits."""
        lives = [rung.ttl_s for rung in self.ladder if rung.action != "observe"]
        if lives and self.delay_s + self.jitter_s > min(lives) / 2:
            raise ValueError(
                f"`delay_s` and `jitter_s` are {self.delay_s + self.jitter_s:g} s together: more "
                f"than half the shortest life of a decision that enforces, {min(lives):g} s"
            )
        return self

    def rungs(self) -> tuple[RungSettings, ...]:
        """The ladder as it holds, after the settings that scale it."""
        first: dict[str, float] = {}
        rungs = []
        for rung in self.ladder:
            first.setdefault(rung.action, rung.false_per_1000_week)
            own = self.false_per_1000_week_of.get(rung.action)
            if own is None:
                rate = rung.false_per_1000_week * self.false_per_1000_week
            else:
                rate = own * (rung.false_per_1000_week / first[rung.action])
            rungs.append(rung.model_copy(update={"false_per_1000_week": rate}))
        return tuple(rungs)


class RedisSettings(_Part):
    """Where gateways read decisions."""

    url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="redis:// or rediss://"
    )
    prefix: str = Field("velvetrope:", description="of every key; '{velvetrope}:' on a cluster")
    changes_kept: int = Field(100_000, ge=100, description="entries kept in the change stream")
    timeout_s: Positive = Field(0.5, description="for a connection, and for an answer")


class ChallengeSettings(_Part):
    """How a challenged caller may go on: vouched for by the operator's page, or by paying."""

    keys: Path | None = Field(
        None,
        description="keyring that signs challenges (`velvetrope keys new`); none: a challenge ends "
        "with its decision alone",
    )
    proof: bool | None = Field(
        None,
        description="offer a proof of work; unset, only where `api.challenge_url` is not set",
    )
    place: str = Field(
        "/challenge",
        pattern=_URL,
        description="path or URL at which clients reach GET and POST /challenge of this API",
    )
    answer_within_s: Positive = Field(600.0, description="life of a ticket and of a challenge")
    tries: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="key derivations that a proof takes on average at difficulty 1 (1.2 ms each "
        "on one core); each of the five steps above doubles them",
    )
    proof_lifts_s: Positive = Field(600.0, description="seconds for which a proof lifts")
    return_lifts_s: Positive = Field(3600.0, description="seconds for which a page's word lifts")
    rate_per_min: Positive = Field(
        30.0, description="requests a minute of a caller that passed; a campaign shares them"
    )
    burst: int = Field(10, ge=1, description="requests of a caller that passed, at once")
    asks_per_min: Positive = Field(
        12.0, description="challenges and answers that an account may ask for or send in a minute"
    )


class ApiSettings(_Part):
    """The verdict API."""

    host: str = "127.0.0.1"
    port: int = Field(8470, ge=0, le=65535, description="0 picks a free port")
    secret: SecretStr | None = Field(
        None,
        description="shared secret, for /authorize/*, needed off loopback",
    )
    key_header: str = Field(
        "Authorization", pattern=_FIELD, description="header with the caller's bearer key"
    )
    account_header: str = Field(
        "X-Account", pattern=_FIELD, description="header that the gateway sets itself"
    )
    plan_header: str | None = Field(
        None,
        pattern=_FIELD,
        description="header in which the gateway puts the account's plan, if its key has none",
    )
    tokens_header: str | None = Field(
        None,
        pattern=_FIELD,
        description="header in which the gateway puts how many tokens the request may take",
    )
    ip_header: str | None = Field(
        None,
        pattern=_FIELD,
        description="header in which the gateway puts the client's address; none: no ip scope",
    )
    litellm_account: Literal["user", "team", "org", "end_user", "key"] = Field(
        "user", description="as `formats.litellm_account`: which LiteLLM identity is billed"
    )
    max_body_bytes: int = Field(
        16 << 20, ge=1024, description="of a posted body; a larger one is answered 413"
    )
    max_connections: int = Field(
        4096, ge=16, description="held at a time, idle ones too; more are answered 503"
    )
    status_block: int = Field(403, ge=400, le=499, description="what a blocked client is answered")
    challenge_url: str | None = Field(
        None, pattern=_URL, description="where one re-authenticates: the operator's page"
    )
    challenge: ChallengeSettings = ChallengeSettings()
    poison: Path | None = Field(
        None,
        description="TOML file of what poison does to answers, and the guard to requests, at "
        "gateways that show them here (LiteLLM); without one answers are shaped",
    )
    refresh_s: float = Field(
        0.25, gt=0, le=0.5, description="age at which the local copy of decisions is refreshed"
    )
    stale_after_s: Positive = Field(
        5.0, description="age of the local copy, its store away, past which the API is not ready"
    )
    identity_kept_s: Positive = Field(60.0, description="for which a key's account is remembered")
    jitter_key: SecretStr = Field(
        SecretStr("velvetrope"), description="HMAC key of the jitter in Retry-After"
    )

    @field_validator("secret")
    @classmethod
    def _not_empty(cls, secret: SecretStr | None) -> SecretStr | None:
        """An empty one, as of a variable that is not set, is none: everybody would have it."""
        return secret if secret is not None and secret.get_secret_value().strip() else None


class FollowSettings(_Part):
    """Followers, which keep a gateway's own copy of what is enforced."""

    every_s: float = Field(0.25, gt=0, le=0.5, description="seconds from one look to the next")
    stale_after_s: float = Field(
        10.0, ge=2, description="for which a gateway believes its copy when nobody keeps it"
    )
    haproxy_maps: Path = Field(
        Path("/var/lib/velvetrope/haproxy"), description="folder of HAProxy's map files"
    )
    haproxy_socket: Path = Field(
        Path("/run/haproxy/admin.sock"), description="HAProxy's stats socket, of level admin"
    )


class AlertSettings(_Part):
    """Where alerts go besides the store or topic that keeps them."""

    file: Path | None = Field(None, description="append OCSF findings to this file, one a line")
    webhook: SecretStr | None = Field(None, description="POST each finding to this URL")
    webhook_tries: int = Field(8, ge=1, description="before a finding is given up, with a warning")
    webhook_queue: int = Field(10_000, ge=1, description="findings waiting for the webhook")
    log: bool = Field(True, description="write each finding's title to the log")


class RespondersSettings(_Part):
    """Everything the responders are set by."""

    policy: PolicySettings = PolicySettings()
    redis: RedisSettings = RedisSettings()
    api: ApiSettings = ApiSettings()
    alerts: AlertSettings = AlertSettings()
    follow: FollowSettings = FollowSettings()
