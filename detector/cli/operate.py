"""Commands for a running deployment: explain, decisions, allow, mode."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from typer.core import TyperGroup

from detector.cli.deployment import (
    ByOption,
    KafkaOption,
    RedisOption,
    StateOption,
    deployment,
    feedback_id,
    seconds,
    tell,
    whoami,
)
from detector.cli.explaining import action, fields, moment, print_account, print_campaign
from detector.cli.options import (
    USAGE,
    ConfigOption,
    JsonOption,
    examples,
    fail,
    plain,
    print_table,
)

if TYPE_CHECKING:
    from responders.decisions import Decision
    from responders.feedback import RunMode

__all__ = ["register"]

_KEY: Final = re.compile("sha256:[0-9a-f]{64}")
_ADDRESSES: Final[tuple[Literal["ip", "cidr"], ...]] = ("ip", "cidr")

_decisions = typer.Typer(help="Decisions: list, show, clear.", no_args_is_help=True)
_allow = typer.Typer(help="Who is never decided against.", no_args_is_help=True)


class _Modes(TyperGroup):
    """`velvetrope mode …`: a word that is no mode is answered with those that are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            fail(f"there is no mode {args[0]!r}: enforce, shadow or off (or show)", USAGE)
        return super().resolve_command(ctx, args)


_mode = typer.Typer(
    cls=_Modes, help="Enforce, shadow, or off (the kill switch).", no_args_is_help=True
)

ScopeOption = Annotated[
    str,
    typer.Option("--scope", metavar="SCOPE", help="account, api_key, ip, cidr or org."),
]
AllowScopeOption = Annotated[
    str | None,
    typer.Option(
        "--scope",
        metavar="SCOPE",
        help="account, api_key, ip, cidr or org. Unless given, an address, a network and a key "
        "(sha256:…) count as what they are, and everything else as an account.",
    ),
]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="For the record.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command(
        epilog=examples(
            "velvetrope explain acct-1",
            "velvetrope explain acct-1 --state /var/lib/velvetrope/velvetrope.db",
            "velvetrope explain acct-1 --replay out --json",
            "velvetrope explain c-0123456789abcdef01234567",
            "velvetrope explain acct-1 --redis redis://10.0.0.5:6379/0 --kafka 10.0.0.6:9092",
        )
    )(explain)
    app.add_typer(_decisions, name="decisions")
    app.add_typer(_allow, name="allow")
    app.add_typer(_mode, name="mode")


def explain(
    name: Annotated[str, typer.Argument(metavar="ACCOUNT|CAMPAIGN")],
    scope: ScopeOption = "account",
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="DIR", help="Read a replay's results instead."),
    ] = None,
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why an account or a campaign (c-…) was decided against, and what that rests on."""
    mode: str | None = None
    as_campaign = scope == "account" and name.startswith("c-")
    value = _canonical(scope, name)
    history: list[Decision] = []
    if replay is not None:
        decisions = _replayed(replay)
        history = [d for d in decisions if (d.scope, d.value) == (scope, value)]
        members = [d for d in decisions if d.campaign == name] if as_campaign else []
    else:
        with deployment(config, state, redis, kafka) as running:
            history = running.history(scope, value)
            members = running.campaign(name) if as_campaign and not history else []
            mode = running.store.mode()
    if not history and members:
        history = _latest(members)
        if not as_json:
            print_campaign(name, history)
            return
    if as_json:
        for decision in history:
            _write_json(decision)
        return
    if not history:
        what = "campaign" if as_campaign else scope
        typer.echo(plain(f"No decision was ever made about {what} {value}."))
        return
    print_account(history, mode)


@_decisions.command(
    "list",
    epilog=examples(
        "velvetrope decisions list",
        "velvetrope decisions list --all --json | jq -r .value",
    ),
)
def list_decisions(
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that have ended, as far as they are kept.")
    ] = False,
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what is in force, the strongest first."""
    from responders.decisions import ACTIONS

    with deployment(config, state, redis, kafka) as running:
        found = running.store.live(float("-inf") if everything else time.time())
        mode = running.store.mode()
    found.sort(key=lambda d: (-ACTIONS.index(d.action), -d.level, d.scope, d.value))
    if as_json:
        for decision in found:
            _write_json(decision)
        return
    if not found:
        typer.echo(f"No decision is in force (mode {mode}).")
        return
    print_table(
        ("scope", "value", "action", "mode", "campaign", "since", "until", "why"),
        [
            (
                decision.scope,
                decision.value,
                action(decision),
                decision.mode,
                decision.campaign or "",
                moment(decision.issued_at),
                moment(decision.expires_at),
                decision.reason.text,
            )
            for decision in found
        ],
    )
    typer.echo(f"{len(found)} decisions, mode {mode}")


@_decisions.command(
    epilog=examples(
        "velvetrope decisions show acct-1",
        "velvetrope decisions show 203.0.113.0/24 --scope cidr --json",
    )
)
def show(
    value: str,
    scope: ScopeOption = "account",
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the decision that is kept about one account, key, address or organisation."""
    value = _canonical(scope, value)
    with deployment(config, state, redis, kafka) as running:
        decision = running.store.get(scope, value)
    if decision is None:
        fail(f"no decision is kept about {scope} {value}")
    if as_json:
        _write_json(decision)
        return
    for name, shown in fields(decision):
        typer.echo(f"{name:<12}{plain(shown)}")


@_decisions.command(
    epilog=examples(
        'velvetrope decisions clear acct-1 --reason "known research partner"',
        'velvetrope decisions clear acct-1 --reason "false alarm" --grace 30d',
    )
)
def clear(
    value: str,
    reason: ReasonOption,
    scope: ScopeOption = "account",
    grace: Annotated[
        str | None,
        typer.Option("--grace", metavar="TIME", help="Left in peace for, such as 7d."),
    ] = None,
    by: ByOption = None,
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
) -> None:
    """End a decision that was wrong, and leave the account in peace for a while."""
    from responders.feedback import Clear

    command = Clear(
        id=feedback_id(),
        by=by or whoami(),
        scope=_scope(scope),
        value=_canonical(scope, value),
        reason=reason,
        grace_s=None if grace is None else seconds(grace),
    )
    with deployment(config, state, redis, kafka) as running:
        typer.echo(tell(running, command, f"{scope} {command.value} is cleared."))


@_allow.command(
    epilog=examples(
        'velvetrope allow add acct-1 --reason "load test, ticket 512" --for 7d',
        'velvetrope allow add 203.0.113.0/24 --scope cidr --reason "our own monitors"',
    )
)
def add(
    value: str,
    reason: ReasonOption,
    scope: AllowScopeOption = None,
    lasting: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", help="Such as 12h or 7d; for good if not given."),
    ] = None,
    by: ByOption = None,
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
) -> None:
    """Allow an account, key, address, network or organisation, whatever the evidence."""
    from responders.feedback import Allow

    scope = scope or _likely_scope(value)
    command = Allow(
        id=feedback_id(),
        by=by or whoami(),
        scope=_scope(scope),
        value=_canonical(scope, value),
        reason=reason,
        expires_at=None if lasting is None else time.time() + seconds(lasting),
    )
    with deployment(config, state, redis, kafka) as running:
        typer.echo(tell(running, command, f"{scope} {command.value} is allowed."))


@_allow.command(epilog=examples("velvetrope allow remove acct-1"))
def remove(
    value: str,
    scope: AllowScopeOption = None,
    by: ByOption = None,
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
) -> None:
    """Take an entry off the allowlist."""
    from responders.feedback import Disallow

    scope = scope or _likely_scope(value)
    value = _canonical(scope, value)
    command = Disallow(id=feedback_id(), by=by or whoami(), scope=_scope(scope), value=value)
    with deployment(config, state, redis, kafka) as running:
        entries = running.store.allowed(time.time())
        if not any((entry.scope, entry.value) == (scope, value) for entry in entries):
            fail(f"{scope} {value} is not on the allowlist")
        typer.echo(tell(running, command, f"{scope} {value} is off the allowlist."))


@_allow.command("list", epilog=examples("velvetrope allow list", "velvetrope allow list --json"))
def list_allowed(
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the allowlist."""
    with deployment(config, state, redis, kafka) as running:
        entries = running.store.allowed(time.time())
    if as_json:
        for entry in entries:
            _write_json(entry)
        return
    if not entries:
        typer.echo("Nobody is on the allowlist.")
        return
    print_table(
        ("scope", "value", "until", "by", "reason"),
        [
            (
                entry.scope,
                entry.value,
                "for good" if entry.expires_at is None else moment(entry.expires_at),
                entry.by,
                entry.reason,
            )
            for entry in entries
        ],
    )


@_allow.command(
    epilog=examples(
        "velvetrope allow check acct-1",
        "velvetrope allow check 203.0.113.9 --json",
        "velvetrope allow check org-7 --scope org",
    )
)
def check(
    value: str,
    scope: Annotated[
        str | None,
        typer.Option("--scope", metavar="SCOPE", help="What VALUE is; else whatever it may be."),
    ] = None,
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which entries cover an account, key (sha256:…), address, network or org, and why.

    Exit code 1 when none does.
    """
    from responders.allowlist import BadEntry, canonical_value, covering
    from responders.decisions import SCOPES

    taken_as = []
    if scope is not None:
        taken_as.append((_scope(scope), _canonical(scope, value)))
    else:
        for one in SCOPES:
            with contextlib.suppress(BadEntry):
                taken_as.append((one, canonical_value(one, value)))
    with deployment(config, state, redis, kafka) as running:
        entries = running.store.allowed(time.time())
        owners = [
            (f"sha256:{key}", identity.account, identity.org)
            for key, identity in running.store.identities().items()
        ]
    # A lone address is a network of one too: the same entry would be named twice.
    found = [
        covered
        for as_scope, as_value in taken_as
        if not (as_scope == "cidr" and "ip" in dict(taken_as))
        for covered in covering(entries, as_scope, as_value, owners)
    ]
    if as_json:
        for covered in found:
            _write_json(covered)
    if not found:
        names = scope or " or ".join(dict(taken_as))
        fail(f"no entry covers {value} as {names}")
    if as_json:
        return
    for covered in found:
        entry = covered.entry
        until = "for good" if entry.expires_at is None else f"until {moment(entry.expires_at)}"
        by = f" by {entry.by}" if entry.by else ""
        reason = f": {entry.reason}" if entry.reason else ""
        typer.echo(
            plain(
                f"{covered.scope} {covered.value} is covered by {entry.scope} {entry.value} "
                f"({covered.why}), {until}{by}{reason}"
            )
        )


@_mode.command("show", epilog=examples("velvetrope mode show"))
def show_mode(
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
) -> None:
    """Say which mode is in force."""
    with deployment(config, state, redis, kafka) as running:
        typer.echo(running.store.mode())


@_mode.command(epilog=examples("velvetrope mode enforce"))
def enforce(
    by: ByOption = None,
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
) -> None:
    """Let gateways enforce decisions from now on."""
    _set_mode("enforce", by, state, redis, kafka, config)


@_mode.command(epilog=examples("velvetrope mode shadow"))
def shadow(
    by: ByOption = None,
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
) -> None:
    """Go on deciding and telling, and let every request pass."""
    _set_mode("shadow", by, state, redis, kafka, config)


@_mode.command(epilog=examples("velvetrope mode off"))
def off(
    by: ByOption = None,
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
) -> None:
    """The kill switch: every gateway lets everything pass, within a second."""
    _set_mode("off", by, state, redis, kafka, config)


def _set_mode(
    mode: RunMode,
    by: str | None,
    state: Path | None,
    redis: str | None,
    kafka: str | None,
    config: Path | None,
) -> None:
    from responders.feedback import SetMode

    command = SetMode(id=feedback_id(), by=by or whoami(), mode=mode)
    with deployment(config, state, redis, kafka) as running:
        typer.echo(tell(running, command, f"The mode is {mode}."))


def _canonical(scope: str, value: str) -> str:
    from responders.allowlist import BadEntry, canonical_value

    try:
        return canonical_value(scope, value)
    except BadEntry as error:
        fail(str(error), USAGE)


def _likely_scope(value: str) -> Literal["account", "api_key", "ip", "cidr"]:
    # An entry for an account named like a network would allow nobody, and look as if it did.
    from responders.allowlist import BadEntry, canonical_value

    if _KEY.fullmatch(value):
        return "api_key"
    for scope in _ADDRESSES:
        with contextlib.suppress(BadEntry):
            canonical_value(scope, value)
            return scope
    return "account"


def _scope(scope: str) -> Any:
    return scope  # `_canonical` has refused what is none


def _replayed(folder: Path) -> list[Decision]:
    from responders.stores.base import decode_decision

    try:
        with (folder / "decisions.jsonl").open("rb") as lines:
            return [decode_decision(line) for line in lines]
    except OSError as error:
        fail(f"{folder / 'decisions.jsonl'}: {error.strerror}")
    except ValueError as error:
        fail(f"{folder / 'decisions.jsonl'}: {error}")


def _latest(decisions: list[Decision]) -> list[Decision]:
    """The last decision with evidence about each member, in the order of names."""
    last = {d.value: d for d in decisions if d.evidence is not None}
    return [last[value] for value in sorted(last)]


def _write_json(item: Any) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.encode(item).decode() + "\n")
