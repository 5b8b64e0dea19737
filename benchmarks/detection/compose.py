"""Composes a labelled week of traffic.

    python -m benchmarks.detection.compose [--data DIR] --split train --seed 1 --out DIR

writes `events.jsonl.gz` (native events, sorted by arrival), `labels.json` and `composition.json`
(what each account is made of).
"""

from __future__ import annotations

import gzip
import math
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.detection import adversaries, customers, harvesters, vectors
from benchmarks.detection.adversaries import Rotation, Wrapper
from benchmarks.detection.arrivals import WEEK
from benchmarks.detection.built_in import built_in
from benchmarks.detection.customers import SHARES
from benchmarks.detection.event_log import WEEK_START, EventLog, Label
from benchmarks.detection.identities import Account, Registry
from benchmarks.detection.material import Material, Traffic
from benchmarks.detection.sources import SPLITS, Sources, Split, load
from benchmarks.detection.wordings import composed
from detector.events import Event

__all__ = ["WEEK_START", "Label", "Settings", "compose", "compose_from", "sources_of", "write"]

Rng = np.random.Generator
_FRAMEWORK_USERS: Final = ("app", "batch", "long_prompt", "writer", "reseller")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a week. `thieves` is their share of all accounts.

    Campaigns take their form from `forms` in turn; adversaries.FORMS says what each means, and the
    label's group ends with the form. `warmed` and `poisoner` take several weeks. In `weeks` all
    customers are there each week; thieves of other forms come in the last.

    Events of vectors take 2 KB of memory: 1,300 customers make about 500,000 of them.
    """

    thieves: float = 0.09
    customers: int = 2600
    max_events: int = 800_000
    most_cover: float = 0.9
    families: tuple[str, ...] = tuple(harvesters.FAMILIES)
    sizes: tuple[int, ...] = harvesters.SIZES  # nominal accounts of a campaign
    traffic: str = "text"  # or "vectors", or "both"
    vector_share: float = 0.2  # of the accounts, in "both"
    invented_models: int = 2  # vectors: models beside those of the sources
    forms: tuple[str, ...] = ("plain",)
    weeks: int = 1
    rotation: Rotation = Rotation()
    poison_a_day: float = 0.01
    inputs: bool = True  # False: a log of metadata only
    composed_wordings: bool = False  # templates and phrases drawn anew, not those of the split
    # Of the customers' accounts, by kind.
    shares: Mapping[str, float] = msgspec.field(default_factory=lambda: SHARES)

    @property
    def thief_accounts(self) -> int:
        return round(self.customers * self.thieves / (1 - self.thieves))


def compose(
    split: Split, seed: int, data: Path | None, settings: Settings | None = None
) -> tuple[list[Event], dict[str, Label]]:
    """One week: its events, sorted by `ts`, and a label for every account in them.

    Its sources are under the folder `data`, or without one those that the project makes itself.
    """
    settings = settings or Settings()
    return compose_from(sources_of(split, data, settings.traffic != "text"), seed, settings)


def sources_of(split: Split, data: Path | None, tables: bool) -> Sources:
    """Those under the folder `data`, or without one those that the project makes itself, which
    have vectors only with `tables`."""
    return built_in(split, tables) if data is None else load(data, split)


def compose_from(
    sources: Sources, seed: int, settings: Settings | None = None
) -> tuple[list[Event], dict[str, Label]]:
    """The same from sources at hand."""
    settings = settings or Settings()
    _check(settings)
    rng = np.random.default_rng([seed, SPLITS.index(sources.split), 0x7E1])
    registry = Registry(rng, sources.user_agents)
    log = EventLog(registry, rng, settings.weeks, settings.inputs)
    share = {"text": 0.0, "both": settings.vector_share, "vectors": 1.0}[settings.traffic]
    customers_of_vectors = round(settings.customers * share)
    thieves_of_vectors = round(settings.thief_accounts * share)
    if settings.traffic != "vectors":
        _compose_text(
            log,
            Material(sources, rng, composed(rng) if settings.composed_wordings else None),
            rng,
            msgspec.structs.replace(settings, customers=settings.customers - customers_of_vectors),
            settings.thief_accounts - thieves_of_vectors,
        )
    if settings.traffic != "text":
        for part in vectors.week(
            sources, rng, customers_of_vectors, thieves_of_vectors, settings.invented_models
        ):
            members = [registry.account() for _ in part.traffic]
            log.add_vectors(members, part)
    return log.finish()


def _check(settings: Settings) -> None:
    for form in settings.forms:
        if form not in adversaries.FORMS:
            raise ValueError(f"no such form: {form!r}")
        if form in ("warmed", "poisoner") and settings.weeks < 2:
            raise ValueError(f"{form} accounts need two weeks or more")
    if settings.traffic not in ("text", "vectors", "both"):
        raise ValueError(f"no such traffic: {settings.traffic!r}")
    if settings.traffic != "text" and (settings.weeks > 1 or settings.forms != ("plain",)):
        raise ValueError("weeks of vectors have plain campaigns only, one week at a time")


@dataclass(slots=True)
class _Seen:
    """What thieves may see of a week's customers: how long texts are, and what wraps them."""

    lengths: list[NDArray[np.int64]]
    templates: list[tuple[Account, Wrapper]]


def _compose_text(
    log: EventLog, material: Material, rng: Rng, settings: Settings, thieves: int
) -> None:
    seen = _customers(log, material, rng, settings)
    drawn = harvesters.campaigns(
        rng,
        thieves,
        settings.families,
        settings.most_cover,
        settings.sizes,
        settings.forms,
        settings.rotation,
    )
    for number, campaign in enumerate(drawn):
        _campaign(log, material, rng, settings, campaign, f"campaign-{number}", seen)


def _customers(log: EventLog, material: Material, rng: Rng, settings: Settings) -> _Seen:
    registry = log.registry
    honest: list[Account] = []
    seen = _Seen([], [])
    for name, requests, accounts in _planned(rng, settings):
        kind = customers.KINDS[name]
        traffic = customers.over(kind, material, rng, requests, accounts, settings.weeks)
        members = [registry.account() for _ in traffic]
        honest += members
        for account, one in zip(members, traffic, strict=True):
            log.add(account, one, Label(False, name))
            if len(seen.lengths) < 300 and len(one.texts) >= 20:
                seen.lengths.append(np.array([len(t) for t in one.texts[:2000]]))
            if "framing" in settings.forms and len(one.texts) >= 40:
                wrapper = Wrapper.of(one.texts[:500])
                seen.templates += [(account, wrapper)] if wrapper else []
        if len(members) > 1 and rng.random() < kind.close:
            for hint in ("payment", "network", "client"):
                if rng.random() < 0.7:
                    registry.share(members, hint)
    registry.pool(honest, 0.2, "payment", 8)
    registry.pool(honest, 0.2, "network", 15)
    registry.pool(honest, 0.1, "client", 15)
    seen.templates = [seen.templates[i] for i in rng.permutation(len(seen.templates)).tolist()]
    return seen


def _campaign(
    log: EventLog,
    material: Material,
    rng: Rng,
    settings: Settings,
    campaign: harvesters.Campaign,
    name: str,
    seen: _Seen,
) -> None:
    registry = log.registry
    victims: list[tuple[Account, Wrapper]] = []
    if campaign.form == "framing":  # each by ten accounts, or by what there is
        count = max(campaign.accounts // 10, 1)
        victims, seen.templates = seen.templates[:count], seen.templates[count:]
        if not victims:
            raise ValueError("too few customers have a template that a thief could copy")
    wrappers = [wrapper for _, wrapper in victims]
    if campaign.form == "look_alikes":
        wrappers = [Wrapper(material.head(rng))]
    last = settings.weeks - 1
    if campaign.form == "poisoner":
        traffic = harvesters.poison(material, rng, campaign, settings.weeks, settings.poison_a_day)
    else:
        traffic = harvesters.harvest(material, rng, campaign, seen.lengths, wrappers)
        if campaign.form == "warmed":
            traffic = adversaries.warmed(material, rng, traffic, last)
        else:
            traffic = [one.later(last * WEEK) for one in traffic]
    members = [registry.account() for _ in traffic]
    for hint, share in campaign.shared.items():
        chosen = rng.permutation(len(members))[: math.ceil(share * len(members))].tolist()
        groups = int(rng.integers(1, 4)) if len(chosen) > 8 else 1
        for part in range(groups):
            registry.share([members[i] for i in chosen[part::groups]], hint)
    label = Label(True, campaign.group, name, _traits(campaign))
    for account, one in zip(members, traffic, strict=True):
        log.add(account, one, label)
    for i, (victim, _) in enumerate(victims):
        for member in members[i :: len(victims)]:
            registry.imitate(member, victim)
        log.relabel(victim, "framed", name)
    if campaign.form == "look_alikes":
        innocent = _look_alikes(material, rng, len(members), wrappers[0], settings)
        beside = [registry.account() for _ in innocent]
        registry.share(members + beside, "client")
        for account, one in zip(beside, innocent, strict=True):
            log.add(account, one, Label(False, "look_alike", traits={"beside": name}))


def _look_alikes(
    material: Material, rng: Rng, thieves: int, wrapper: Wrapper, settings: Settings
) -> list[Traffic]:
    """Customers of the campaign's framework: 10 to 30 % of all who use it."""
    share = rng.uniform(0.1, 0.3)
    made: list[Traffic] = []
    for _ in range(max(round(thieves * share / (1 - share)), 1)):
        kind = customers.KINDS[_FRAMEWORK_USERS[int(rng.integers(len(_FRAMEWORK_USERS)))]]
        n = min(customers.volume(rng, kind), 600)
        made += [
            Traffic(one.times, wrapper.around(one.texts))
            for one in customers.over(kind, material, rng, n, 1, settings.weeks)
        ]
    return made


def _traits(campaign: harvesters.Campaign) -> dict[str, str | float]:
    traits: dict[str, str | float] = {
        "family": campaign.family,
        "size": campaign.size,
        "requests": campaign.requests,
        "assignment": campaign.assignment,
        "timing": campaign.timing,
        "joining": campaign.joining,
        "duration": round(campaign.duration),
        "cover": round(campaign.cover, 3),
        "length_matched": int(campaign.length_matched),
        "low_and_slow": int(campaign.low_and_slow),
        "form": campaign.form,
    }
    if campaign.form == "rotated":
        traits |= {"after": campaign.after, "lives": campaign.lives}
    return traits | {f"shared_{hint}": round(s, 3) for hint, s in campaign.shared.items()}


def _planned(rng: Rng, settings: Settings) -> list[tuple[str, int, int]]:
    """(kind, requests an account, accounts) of every customer, within the week's events."""
    plan: list[tuple[str, int, int]] = []
    for name, share in settings.shares.items():
        kind = customers.KINDS[name]
        left = round(share * settings.customers)
        while left > 0:
            accounts = min(int(rng.integers(kind.accounts[0], kind.accounts[1] + 1)), left)
            plan.append((name, customers.volume(rng, kind), accounts))
            left -= accounts
    requests = np.array([n for _, n, _ in plan], dtype=np.float64)
    # A handful stays as large as it was drawn: weeks have giants.
    giants = rng.permutation(len(plan))[: len(plan) // 50].tolist()
    accounts_of = np.array([a for _, _, a in plan], dtype=np.float64)
    low, high = 1.0, float(requests.max())
    for _ in range(40):  # the cap on one account that leaves the whole within the limit
        middle = (low + high) / 2
        fits = float((np.minimum(requests, middle) * accounts_of).sum()) <= settings.max_events
        low, high = (middle, high) if fits else (low, middle)
    capped = np.maximum(np.minimum(requests, high), 8).astype(int)
    capped[giants] = requests[giants]
    return [
        (name, n, accounts) for (name, _, accounts), n in zip(plan, capped.tolist(), strict=True)
    ]


def write(
    events: Sequence[Event], labels: dict[str, Label], out: Path, *, compress: bool = True
) -> None:
    """Write a week as files into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    encoder = msgspec.json.Encoder()
    name = "events.jsonl.gz" if compress else "events.jsonl"
    # Without a name and a time in its header, the same week is the same file.
    with (
        (out / name).open("wb") as raw,
        gzip.GzipFile("", "wb", 3, raw, mtime=0) if compress else raw as file,
    ):
        for start in range(0, len(events), 5000):
            file.write(encoder.encode_lines(list(map(_compact, events[start : start + 5000]))))
    brief = {
        name: {"harvesting": label.harvesting, "group": label.group}
        for name, label in labels.items()
    }
    (out / "labels.json").write_bytes(msgspec.json.format(encoder.encode(brief), indent=0))
    (out / "composition.json").write_bytes(msgspec.json.format(encoder.encode(labels), indent=0))


def _compact(event: Event) -> dict[str, object]:
    fields = ((name, getattr(event, name)) for name in Event.__struct_fields__)
    return {name: value for name, value in fields if value is not None}


def main() -> None:
    """The command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.detection.compose", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", type=Path, help="folder with the sources; default: built in")
    parser.add_argument("--split", choices=SPLITS, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--thieves", type=float, default=0.09, help="share of all accounts")
    parser.add_argument("--customers", type=int, help="default 2600, with --vectors 1300")
    parser.add_argument("--max-events", type=int, default=800_000, help="of customers, about")
    parser.add_argument(
        "--most-cover", type=float, default=0.9, help="largest share of cover traffic"
    )
    parser.add_argument(
        "--families",
        nargs="+",
        choices=tuple(harvesters.FAMILIES),
        default=tuple(harvesters.FAMILIES),
        help="what campaigns ask (text)",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        choices=harvesters.SIZES,
        default=harvesters.SIZES,
        help="nominal accounts of a campaign (text)",
    )
    parser.add_argument(
        "--forms",
        nargs="+",
        choices=adversaries.FORMS,
        default=("plain",),
        help="forms of campaigns, in turn (text)",
    )
    parser.add_argument("--weeks", type=int, default=1, help="2 or more for warmed and poisoner")
    parser.add_argument(
        "--rotate",
        nargs=2,
        type=int,
        metavar=("LEAST", "MOST"),
        default=(8, 200),
        help="rotated: requests after which an account is left",
    )
    parser.add_argument(
        "--poison-a-day", type=float, default=0.01, help="poisoner: growth of what harvests"
    )
    parser.add_argument("--metadata-only", action="store_true", help="leave the inputs out")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--text-only", dest="traffic", action="store_const", const="text")
    kind.add_argument("--vectors", dest="traffic", action="store_const", const="vectors")
    kind.add_argument("--both", dest="traffic", action="store_const", const="both")
    parser.add_argument("--plain", action="store_true", help="write events.jsonl, not compressed")
    parser.set_defaults(traffic="text")
    options = parser.parse_args()
    began = time.perf_counter()
    events, labels = compose(
        options.split,
        options.seed,
        options.data,
        Settings(
            thieves=options.thieves,
            customers=options.customers or (1300 if options.traffic == "vectors" else 2600),
            max_events=options.max_events,
            most_cover=options.most_cover,
            families=tuple(options.families),
            sizes=tuple(options.sizes),
            traffic=options.traffic,
            forms=tuple(options.forms),
            weeks=options.weeks,
            rotation=Rotation(*options.rotate),
            poison_a_day=options.poison_a_day,
            inputs=not options.metadata_only,
        ),
    )
    composed = time.perf_counter()
    write(events, labels, options.out, compress=not options.plain)
    thieves = sum(label.harvesting for label in labels.values())
    print(
        f"{len(events):,} events of {len(labels):,} accounts, {thieves} of them thieves: "
        f"{composed - began:.0f} s to compose, {time.perf_counter() - composed:.0f} s to write"
    )


if __name__ == "__main__":
    main()
