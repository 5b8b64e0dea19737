"""Judge: blocks of all partitions to decisions, in ticks of event time. Pure: no I/O, no clock.

A tick is judged once every partition's watermark has passed its end; its blocks are taken in the
order of (time, id), commands first. So the decisions depend on the log and on the commands, and
not on how either arrived.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final

import msgspec

from detector.baseline import Baseline, KindBaseline, Missing, Reference, e_value
from detector.blocks import Block, Identity
from detector.campaigns import Campaigns, Change, client_keys
from detector.evidence import MIN_EVENTS, TextEvidence, link_keys
from detector.explanation import Explanation, explain_blocks, explain_text
from detector.false_share import FalseShare
from detector.refresh import Refresh
from detector.score import TextModels, shipped
from detector.settings import JudgeSettings, Settings
from detector.state import StateMismatch, pack, unpack
from detector.vector_evidence import VectorEvidence
from detector.vector_model import VectorModel
from responders.alerts.findings import Findings
from responders.alerts.ocsf import Alert
from responders.decisions import Decision, Reason, Signal, Tie, is_enforcement
from responders.feedback import Feedback, SetBaseline, with_tick
from responders.policy import Policy
from responders.verdict import Verdict

__all__ = ["AccountSummary", "Judge", "Judged", "Judgement", "Models", "versions_in"]

_VERSION: Final = 2
_POPULATION: Final = 1  # version of a baseline's populations
_WATCH_RATE: Final = 1e-2  # evidence that 1 % of customers reach: linked into campaigns from here
_SUSPECT_RATE: Final = 1e-3  # from here an account is nobody to compare customers with
_TRIM_RATE: Final = 1e-2  # from here an account teaches no vector population
_ALIKE_COSINE: Final = 0.5
_ALIKE_MOST: Final = 8
_BAR_ACCOUNTS: Final = 100  # customers from which their own 95 % quantile is trusted
# Commands whose ids are remembered: what is given back after a restart is far less.
_COMMANDS_KNOWN: Final = 10_000
_KINDS: Final = ("text", "vector")
_CLEAN_SKETCHES: Final = 4000  # customers whose sketches a baseline keeps


@dataclass(frozen=True)
class Models:
    """The learned models."""

    text: TextModels
    vector: VectorModel

    @classmethod
    def shipped(cls) -> Models:
        """Load them.

        Raises:
            BadModel, ModelError: a file is damaged or of another version.
        """
        with resources.as_file(resources.files("detector") / "models" / "vector.npz") as path:
            vector = VectorModel.load(path)
        return cls(shipped(), vector)

    @classmethod
    def of(cls, settings: JudgeSettings) -> Models:
        """The shipped ones, or those for text that the operator trained.

        Raises:
            BadModel, ModelError: a file is damaged or of another version.
        """
        models = cls.shipped()
        if settings.models is None:
            return models
        return cls(TextModels.load(settings.models), models.vector)

    @property
    def name(self) -> str:
        """Stamped on decisions as `scorer`."""
        return self.text.name


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict, the tick's end at which it was, and what each rung asked for then (or None)."""

    at: float
    limits: tuple[float, ...] | None
    verdict: Verdict


@dataclass(slots=True)
class Judgement:
    """What the ticks judged by one call brought, in order."""

    decisions: list[Decision] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    campaigns: list[Change] = field(default_factory=list)
    verdicts: list[Judged] = field(default_factory=list)

    def extend(self, other: Judgement) -> None:
        """Append a later one."""
        self.decisions += other.decisions
        self.alerts += other.alerts
        self.campaigns += other.campaigns
        self.verdicts += other.verdicts


class AccountSummary(msgspec.Struct):
    """What the judge knows of one account."""

    blocks: int = 0
    score: float | None = None  # log-odds of its last scored block
    e_value: float = 0.0  # highest so far
    rates: dict[str, float] = {}  # population → false-alarm rate of its evidence, where below 1
    rated: dict[str, float] = {}  # population → time of the block that gave the rate
    events: dict[str, int] = {}  # population → served events
    day: int = -1  # of its last judged block, since 1970

    @property
    def rate(self) -> float:
        """False-alarm rate of its rarest evidence; 1 without.

        Each population is one more chance to be wrong about the account: Bonferroni.
        """
        return min(1.0, min(self.rates.values()) * len(self.rates)) if self.rates else 1.0


@dataclass(slots=True)
class _Partition:
    watermark: float = -1.0
    next_seq: int = 0
    silent: bool = False
    ended: bool = False


class Judge:
    """The judge of a deployment.

    Args:
        settings: of the whole program; `judge`, `policy` and the number of partitions count.
        baseline: the operator's own, or None for the shipped reference alone.
        generation: grows by one each time another judge takes over; versions begin with it.
        models: the learned models; None for the shipped ones.
        calibrating: the log is history that becomes a baseline: everybody's evidence is looked
            at, not only that of accounts past the shipped bar.
    """

    def __init__(
        self,
        settings: Settings,
        baseline: Baseline | None = None,
        *,
        generation: int = 0,
        models: Models | None = None,
        calibrating: bool = False,
    ) -> None:
        self.settings = settings
        self._calibrating = calibrating
        self.tick = -1
        self._tick_s = settings.judge.tick_s
        self._models = models or Models.of(settings.judge)
        self._baseline = baseline
        self._generation = generation
        self.policy = Policy(settings.policy, generation=generation)
        key = settings.policy.id_key.get_secret_value().encode()
        self._findings = Findings(key)
        self.campaigns = Campaigns(key)
        self._partitions = [_Partition() for _ in range(settings.measure.partitions)]
        self._pending: list[tuple[int, float, tuple[str, str, int, int], int, Block]] = []
        self._arrivals = 0  # breaks ties of equal blocks, which only a repeat could make
        self._commands: list[tuple[int, str, Feedback]] = []
        self._commanded: dict[str, None] = {}  # ids of the last, in the order they came
        self._texts: dict[str, TextEvidence] = {}
        self._vectors: dict[str, VectorEvidence] = {}
        self._accounts: dict[str, AccountSummary] = {}
        self._rungs = [rung.false_per_1000_week / 1000.0 for rung in self.policy.rungs]
        self._enforcing = next(
            (i for i, rung in enumerate(self.policy.rungs) if is_enforcement(rung.action)),
            len(self._rungs) - 1,
        )
        self._false_share = FalseShare(
            settings.policy.max_false_share, self._rungs[self._enforcing]
        )
        # Accounts that `max_false_share` held back, and whom their last block said they are.
        self._waiting: dict[str, Identity] = {}
        self._changed: set[str] = set()
        self._text_reference = self._reference("text", self._models.text.reference)
        self._vector_reference = self._reference("vector", self._models.vector.reference)
        self._unsuspected = self._text_reference.threshold(_SUSPECT_RATE)
        own = self._own("text")
        bar = own.bar if own is not None and not self._missing("text") else None
        self.refresh = Refresh(
            self._baseline_name(), self._models.text.own_bar if bar is None else bar
        )

    # -- what runners feed -------------------------------------------------------------------

    def blocks(self, partition: int, blocks: Sequence[Block], watermark: float) -> None:
        """Take a partition's blocks in their order, and how far its time has come.

        Blocks that were taken before (after a restart of measure) are dropped by their number.

        Raises:
            ValueError: a block is missing between these and the ones before.
        """
        state = self._partitions[partition]
        state.silent = False
        if blocks:
            state.ended = False
        for block in blocks:
            if block.seq < state.next_seq:
                continue
            if block.seq > state.next_seq:
                raise ValueError(
                    f"partition {partition}: block {block.seq} came where "
                    f"{state.next_seq} was due; blocks were lost"
                )
            state.next_seq += 1
            # A block whose tick was judged (its partition had been declared silent) joins the next.
            tick = max(self._tick_of(block.time), self.tick + 1)
            self._arrivals += 1
            heapq.heappush(self._pending, (tick, block.time, block.id, self._arrivals, block))
        if watermark > state.watermark:
            state.watermark = watermark
            state.ended = False

    def silence(self, partition: int) -> None:
        """Its live owner read it to its end: it holds no tick back until it speaks again."""
        self._partitions[partition].silent = True

    def end(self, partition: int) -> None:
        """An `end` record was read: nothing more comes from this partition for now."""
        self._partitions[partition].ended = True

    def command(self, feedback: Feedback) -> Feedback:
        """Take a command in, once; returned with the tick at which it takes effect.

        Journal what is returned before the next `advance`, and give it back after a restart.
        """
        tick = feedback.tick
        if tick is None:
            due = 0 if feedback.at is None else math.ceil(feedback.at / self._tick_s)
            tick = max(self.tick + 1, due)
            feedback = with_tick(feedback, tick)
        if feedback.id not in self._commanded:
            self._commanded[feedback.id] = None
            if len(self._commanded) > _COMMANDS_KNOWN:
                del self._commanded[next(iter(self._commanded))]
            heapq.heappush(self._commands, (max(tick, self.tick + 1), feedback.id, feedback))
        return feedback

    def advance(self) -> Judgement:
        """Judge every tick that all partitions have passed."""
        judgement = Judgement()
        horizon = self._horizon()
        while True:
            tick = self._next_tick()
            if tick > horizon and not (self._at_the_end and self.policy.waits):
                return judgement
            self.tick = tick
            judgement.extend(self._judge(tick))

    # -- what people ask ---------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Event time of the last judged tick's end, Unix seconds."""
        return self.tick * self._tick_s

    def accounts(self) -> Iterator[tuple[str, AccountSummary]]:
        """Every account with a block, in the order of its first."""
        yield from self._accounts.items()

    def promise(self) -> dict[str, Any]:
        """What the false-alarm promise rests on."""
        return {
            "nominal_false_per_1000_week": {
                f"{rung.action} {rung.level}": rung.false_per_1000_week
                for rung in self.policy.rungs
            },
            "max_false_share": {
                "nominal": self.settings.policy.max_false_share,
                "accounts_of_the_week": self._false_share.accounts,
                "false_per_1000_week_at_the_end": {
                    f"{rung.action} {rung.level}": limit
                    for rung, limit in zip(self.policy.rungs, self._limits(), strict=True)
                },
                "held_back": len(self._waiting),
            },
            "baseline": self.refresh.active.name,
            "refreshed": self.refresh.describe(),
            "text": self._rests_on("text", self._text_reference),
            "vector": self._rests_on("vector", self._vector_reference),
        }

    def calibrated(self, name: str, events: int, first_ts: float, last_ts: float) -> Baseline:
        """A baseline of all that was judged so far, believed clean."""
        kinds: dict[str, KindBaseline] = {}
        centre: list[float] = []
        if "text" in self._texts:
            kinds["text"], centre = self._texts["text"].clean(_CLEAN_SKETCHES)
        found = [e for vectors in self._vectors.values() for e in vectors.evidence]
        if found:
            kinds["vector"] = KindBaseline(accounts=len(found), evidence=sorted(found))
        return Baseline(
            name=name,
            scorer=self._models.name,
            events=events,
            first_ts=first_ts,
            last_ts=last_ts,
            kinds=kinds,
            centre=centre,
            vectors={
                population: pack("population", _POPULATION, evidence.population.export())
                for population, evidence in self._vectors.items()
            },
        )

    # -- checkpoints -------------------------------------------------------------------------

    def export(self) -> bytes:
        """The whole state, packed. Changes are counted from here."""
        self._changed = set()
        return self._pack(changes=False)

    def export_changes(self) -> bytes:
        """What has changed since the last `export`, packed."""
        return self._pack(changes=True)

    @classmethod
    def restore(
        cls,
        settings: Settings,
        baseline: Baseline | None,
        full: bytes,
        changes: bytes | None = None,
        *,
        generation: int = 0,
        models: Models | None = None,
    ) -> Judge:
        """A judge that goes on where `export`, and after it `export_changes`, left off.

        Raises:
            StateMismatch: the state is damaged, of another version, or of other settings.
        """
        judge = cls(settings, baseline, generation=generation, models=models)
        for packed in (full, changes):
            if packed is not None:
                judge._unpack(packed)
        return judge

    # -- inside ------------------------------------------------------------------------------

    def _reference(self, kind: str, values: Any) -> Reference:
        shipped = Reference(values, len(values))
        own = self._own(kind)
        if own is None or self._missing(kind):
            return shipped
        shift = 0.0
        if kind == "text" and own.bar is not None and own.accounts >= _BAR_ACCOUNTS:
            shift = own.bar - self._models.text.own_bar
        return Reference(own.evidence, own.accounts, shipped, shift)

    def _own(self, kind: str) -> KindBaseline | None:
        own = self._baseline.kinds.get(kind) if self._baseline else None
        return own if own is not None and own.accounts else None

    def _missing(self, kind: str) -> Missing:
        """What keeps the operator's own baseline in shadow."""
        if self._baseline is None:
            return Missing(0, 0.0)
        judge = self.settings.judge
        return self._baseline.missing(
            kind, judge.baseline_customers, judge.baseline_days, self._models.name
        )

    def _rests_on(self, kind: str, reference: Reference) -> dict[str, Any]:
        about = reference.describe()
        own = self._own(kind)
        missing = self._missing(kind)
        if own is not None and self._baseline is not None and missing:
            about["own_in_shadow"] = {
                "baseline": self._baseline.name,
                "customers": own.accounts,
                "days": self._baseline.days,
                "needs": str(missing),
                "needs_customers": missing.customers,
                "needs_days": missing.days,
            }
        return about

    def _baseline_name(self) -> str:
        """Of what decisions rest on: the operator's own, once it decides about any kind."""
        if self._baseline is None:
            return "shipped"
        deciding = any(self._own(kind) and not self._missing(kind) for kind in _KINDS)
        return self._baseline.name if deciding else "shipped"

    def _tick_of(self, time: float) -> int:
        # Tick k ends at k·tick_s, and holds what came before its end.
        return math.floor(time / self._tick_s) + 1

    def _horizon(self) -> int:
        """The last tick that every partition has passed."""
        holding = [p.watermark for p in self._partitions if not p.silent and not p.ended]
        if holding:
            return math.floor(min(holding) / self._tick_s)
        # All have ended or are silent: everything that came is judged.
        return self._tick_of(max(p.watermark for p in self._partitions))

    @property
    def _at_the_end(self) -> bool:
        """Nothing more comes for now, so time may pass until nothing waits in the policy."""
        return all(partition.ended for partition in self._partitions)

    def _next_tick(self) -> int:
        tick = self._pending[0][0] if self._pending else None
        if self._commands and (tick is None or self._commands[0][0] < tick):
            tick = self._commands[0][0]
        expiry = self.policy.next_due()
        if not math.isinf(expiry):
            due = max(math.ceil(expiry / self._tick_s), self.tick + 1)
            if tick is None or due < tick:
                tick = due
        return tick if tick is not None else 1 << 62

    def _judge(self, tick: int) -> Judgement:
        now = tick * self._tick_s
        judgement = Judgement()
        judgement.alerts += self._findings.ended(self.policy.expire(now), now)
        while self._commands and self._commands[0][0] <= tick:
            feedback = heapq.heappop(self._commands)[2]
            if isinstance(feedback, SetBaseline):
                self.refresh.ask(feedback.version, tick, now)
            judgement.decisions += self.policy.feedback(feedback, now)
        self.refresh.turn(FalseShare.day(now), tick, now)
        touched: dict[str, Identity] = {}
        while self._pending and self._pending[0][0] <= tick:
            block = heapq.heappop(self._pending)[4]
            if self._take(block):
                touched[block.account] = block.identity
        judgement.campaigns += self.campaigns.advance(now)
        limits = self._limits() if touched else None
        verdicts = []
        asked = None if limits is None else tuple(limits)
        for account, identity in self._due(touched, limits):
            verdict = self._verdict(account, identity)
            if verdict is None:
                continue
            judgement.verdicts.append(Judged(at=now, limits=asked, verdict=verdict))
            if self.policy.would_issue(verdict, now, limits):
                verdicts.append(self._explained(verdict))
        judgement.decisions += self.policy.decide(
            verdicts,
            now,
            scorer=self._models.name,
            baseline=self.refresh.active.name,
            limits=limits,
        )
        judgement.alerts += self._findings.decided(judgement.decisions, now)
        judgement.alerts += self._findings.held_back(
            self.policy.held_back, self.settings.policy.new_enforcements_per_min or 0, now
        )
        return judgement

    def _limits(self) -> list[float]:
        """False alarms per 1,000 at which each rung is reached at the tick."""
        limits = self._false_share.limits(self._rungs, FalseShare.day(self.now))
        # Watching harms nobody: below enforcement the ladder's own numbers hold.
        limits[: self._enforcing] = self._rungs[: self._enforcing]
        return [1000.0 * limit for limit in limits]

    def _due(
        self, touched: dict[str, Identity], limits: list[float] | None
    ) -> list[tuple[str, Identity]]:
        """Whom to decide about: accounts with a new block, then those whose waiting is over."""
        if limits is None:
            return []
        limit, nominal = limits[self._enforcing] / 1000.0, self._rungs[self._enforcing]
        due = list(touched.items())
        for account, identity in touched.items():
            if limit < self._accounts[account].rate <= nominal:
                self._waiting[account] = identity
            else:
                self._waiting.pop(account, None)
        for name in list(self._waiting):
            if self._false_share.forgot(name):
                del self._waiting[name]
            elif self._accounts[name].rate <= limit:
                due.append((name, self._waiting.pop(name)))
        return due

    def _take(self, block: Block) -> bool:
        """Let a block move the evidence; whether it could say anything."""
        account = self._accounts.get(block.account)
        met: list[str] = []
        if account is None:
            account = self._accounts[block.account] = AccountSummary()
            met = client_keys(block.identity)
            if block.kind == "vector":
                met += link_keys(block.identity)
        before = account.events.get(block.population, 0)
        # Measure counts from nothing again when it has forgotten the account.
        served = block.events - (before if before <= block.events else 0)
        self.campaigns.passed(block.time, served, met)
        self._changed.add(block.account)
        over = block.time - self.settings.judge.evidence_restart_s
        for population in [p for p, time in account.rated.items() if time <= over]:
            # The week of its last block there has ended: its evidence speaks no longer.
            del account.rated[population]
            account.rates.pop(population, None)
        if block.index > 0 or block.revision == 0:
            account.blocks += 1
        account.events[block.population] = block.events
        if block.kind == "text":
            rate = self._take_text(block, account, served)
        elif block.kind == "vector":
            rate = self._take_vector(block, account, served)
        else:
            return False  # without inputs there is nothing that separates thieves from customers
        if rate is None:
            return False
        if rate < 1.0:
            account.rates[block.population] = rate
            account.rated[block.population] = block.time
        else:
            account.rates.pop(block.population, None)
            account.rated.pop(block.population, None)
        account.e_value = max(account.e_value, e_value(account.rate))
        account.day = FalseShare.day(self.now)
        self._false_share.seen(block.account, account.rate, account.day)
        return True

    def _take_text(self, block: Block, account: AccountSummary, served: int) -> float | None:
        if block.n < MIN_EVENTS:
            return None
        models = self._models.text
        evidence = self._texts.get(block.population)
        if evidence is None:
            evidence = self._text_evidence(block.population)
        account.score = models.block.log_odds(models.row(block))
        row = evidence.add(block, account.score)
        found = evidence.judge(row)
        self.refresh.take(own for own, top in evidence.ended if top < self._unsuspected)
        evidence.ended.clear()
        rate = self._text_reference.rate(found - self.refresh.active.shift)
        if rate <= _WATCH_RATE:
            alike = evidence.watch(row, _ALIKE_COSINE, _ALIKE_MOST)
            links = {**evidence.holders(row), **dict.fromkeys(client_keys(block.identity))}
            self.campaigns.watch(block.account, links, alike, time=block.time, events=served)
        return rate

    def _text_evidence(self, population: str) -> TextEvidence:
        clean = self._baseline.kinds.get("text") if self._baseline else None
        if self._missing("text").models:
            clean = None  # mean scores of other models
        bar = None
        if self._calibrating:
            bar = -math.inf
        elif clean is not None and clean.accounts >= _BAR_ACCOUNTS and not self._missing("text"):
            bar = clean.bar
        restart_s = self.settings.judge.evidence_restart_s
        evidence = TextEvidence(
            self._models.text, restart_s, clean, bar=bar, whole_weeks=self._calibrating
        )
        if self._baseline and self._baseline.centre:
            evidence.start_centre(self._baseline.centre)
        self._texts[population] = evidence
        return evidence

    def _take_vector(self, block: Block, account: AccountSummary, served: int) -> float | None:
        evidence = self._vectors.get(block.population)
        if evidence is None:
            evidence = self._vector_evidence(block.population, block.dims)
        score = evidence.take(block)
        rate = None
        if evidence.of(block.account) == -math.inf:
            account.rates.pop(block.population, None)  # of a week that is over
        if score is not None:
            account.score = score
            rate = self._vector_reference.rate(evidence.of(block.account))
            if rate <= _WATCH_RATE:
                links = dict.fromkeys([*link_keys(block.identity), *client_keys(block.identity)])
                self.campaigns.watch(block.account, links, time=block.time, events=served)
            if rate <= _TRIM_RATE:
                evidence.suspect(block.account)
        evidence.learn(block)
        return rate

    def _vector_evidence(self, population: str, dims: int) -> VectorEvidence:
        restart_s = self.settings.judge.evidence_restart_s
        evidence = VectorEvidence(
            dims, self._models.vector, restart_s, whole_weeks=self._calibrating
        )
        known = self._baseline.vectors.get(population) if self._baseline else None
        if known is not None:
            evidence.start_population(unpack("population", _POPULATION, known))
        self._vectors[population] = evidence
        return evidence

    def _verdict(self, account: str, identity: Identity) -> Verdict | None:
        summary = self._accounts[account]
        if not summary.rates:
            return None
        population, rate = self._strongest(account), summary.rate
        if rate > self._rungs[0] or rate >= 1.0:  # 1: no evidence, of which nothing could be said
            return None
        scopes = {"api_key": identity.api_key, "org": identity.org, "ip": identity.ip}
        return Verdict(
            scope="account",
            value=account,
            false_per_1000=1000.0 * rate,
            e_value=e_value(rate),
            evidence=self._evidence(account, population),
            n_events=sum(summary.events.values()),
            campaign=self.campaigns.of(account),
            reason=Reason(
                code="extraction",
                text="requests look like harvesting of the model",
                technique="AML.T0024.002",
            ),
            identity={scope: value for scope, value in scopes.items() if value},
            plan=identity.plan,
        )

    def _strongest(self, account: str) -> str:
        """The population in which the account's evidence is rarest among customers."""
        rates = self._accounts[account].rates
        return min(rates, key=lambda name: (rates[name], name))

    def _evidence(self, account: str, population: str) -> float:
        if population in self._vectors:
            return self._vectors[population].of(account)
        texts = self._texts[population]
        return float(texts["evidence"][texts.accounts[account]])

    def _explained(self, verdict: Verdict) -> Verdict:
        """The same with what its evidence is made of, and what ties it to its campaign."""
        population = self._strongest(verdict.value)
        base, signals = self._explain(verdict.value, population)
        reason = verdict.reason
        strongest = [signal.text for signal in signals if signal.log_odds > 0.0][:2]
        if strongest:
            reason = msgspec.structs.replace(reason, text=f"{reason.text}: {', '.join(strongest)}")
        ties = tuple(
            Tie(plane=link.plane, weight=link.weight, members=link.members)
            for link in self.campaigns.links(verdict.value)
        )
        seen = verdict.evidence
        if population in self._vectors:
            counted = self._vector_reference.counted(seen)
        else:
            counted = self._text_reference.counted(seen - self.refresh.active.shift)
        return msgspec.structs.replace(
            verdict,
            reason=reason,
            signals=signals,
            base=base,
            counted=counted,
            ties=ties,
        )

    def _explain(self, account: str, population: str) -> Explanation:
        if population in self._vectors:
            evidence = self._vectors[population]
            signals = [
                Signal(name=name, value=value, typical=(low, high), weight=weight, text=text)
                for name, value, low, high, weight, text in evidence.signals(account)
            ]
            base = self._models.vector.quantile(0.5)
            return explain_blocks(evidence.of(account), base, signals)
        texts = self._texts[population]
        row = texts.accounts[account]
        like = texts.like(row, self._unsuspected)
        return explain_text(self._models.text, texts.seen(row), texts["best"][row], like)

    def _pack(self, *, changes: bool) -> bytes:
        names = sorted(self._changed) if changes else list(self._accounts)
        return pack(
            "judge",
            _VERSION,
            {
                "scorer": self._models.name,
                "baseline": self._baseline_name(),
                "tick_s": self._tick_s,
                "tick": self.tick,
                "partitions": [
                    (p.watermark, p.next_seq, p.silent, p.ended) for p in self._partitions
                ],
                "pending": [
                    (tick, msgspec.to_builtins(block, builtin_types=(bytes,)))
                    for tick, _, _, _, block in sorted(self._pending, key=lambda item: item[:4])
                ],
                "commands": [
                    (tick, msgspec.to_builtins(feedback))
                    for tick, _, feedback in sorted(self._commands, key=lambda item: item[:2])
                ],
                "commanded": list(self._commanded),
                "policy": self.policy.export(),
                "findings": self._findings.export(),
                "campaigns": self.campaigns.export(changes),
                "refresh": self.refresh.export(),
                "waiting": [
                    (name, msgspec.to_builtins(identity))
                    for name, identity in self._waiting.items()
                ],
                "accounts": [(name, msgspec.to_builtins(self._accounts[name])) for name in names],
                "texts": {name: texts.export(changes) for name, texts in self._texts.items()},
                "vectors": {
                    name: (vectors.population.dims, vectors.export())
                    for name, vectors in self._vectors.items()
                },
            },
        )

    def _unpack(self, packed: bytes) -> None:
        state = unpack("judge", _VERSION, packed)
        made = (state["tick_s"], len(state["partitions"]))
        own = (self._tick_s, len(self._partitions))
        if made != own:
            raise StateMismatch(
                f"stored judge is of (tick_s, partitions) {made}; this one is of {own}"
            )
        # What other models for text found says nothing in these ones' terms: it begins anew.
        rescored = state["scorer"] != self._models.name
        self.tick = state["tick"]
        self._partitions = [_Partition(*values) for values in state["partitions"]]
        self._pending = []
        for tick, raw in state["pending"]:
            block = msgspec.convert(raw, Block, builtin_types=(bytes,))
            self._arrivals += 1
            self._pending.append((tick, block.time, block.id, self._arrivals, block))
        self._commands = []
        for tick, raw in state["commands"]:
            feedback = msgspec.convert(raw, Feedback)
            self._commands.append((tick, feedback.id, feedback))
        heapq.heapify(self._pending)
        heapq.heapify(self._commands)
        self._commanded = dict.fromkeys(state["commanded"])
        self.policy = Policy.restore(
            self.settings.policy, state["policy"], generation=self._generation
        )
        self._findings.restore(state["findings"])
        self.campaigns.restore(state["campaigns"])
        for name, raw in state["accounts"]:
            account = self._accounts[name] = msgspec.convert(raw, AccountSummary)
            if rescored:
                account.rates = {
                    population: rate
                    for population, rate in account.rates.items()
                    if population in state["vectors"]
                }
            if account.day >= 0:
                self._false_share.seen(name, account.rate, account.day)
        self.refresh.restore(state["refresh"], anew=rescored)
        self._waiting = {
            name: msgspec.convert(identity, Identity) for name, identity in state["waiting"]
        }
        for name, texts in {} if rescored else state["texts"].items():
            if name not in self._texts:
                self._text_evidence(name)
            self._texts[name].restore(texts)
        for name, (dims, vectors) in state["vectors"].items():
            if name not in self._vectors:
                self._vector_evidence(name, dims)
            self._vectors[name].restore(vectors)


def versions_in(packed: bytes) -> dict[str, Any]:
    """The baseline's versions in what `Judge.export` or `export_changes` gave.

    Raises:
        StateMismatch: the state is damaged, or of another version.
    """
    refresh = unpack("judge", _VERSION, packed)["refresh"]
    versions: list[dict[str, Any]] = refresh["versions"]
    held = refresh["held"] is not None
    return {"active": versions[-1]["name"], "held": held, "versions": versions}
