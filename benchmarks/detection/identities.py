"""Who an account says it is. Nothing here depends on what the account does.

Customers share payers and networks too: agencies, offices, one cloud's addresses. What a campaign
shares is drawn by the campaign, in part or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

__all__ = ["Account", "Registry"]

Rng = np.random.Generator
_SDKS: Final = (
    "OpenAI/Python 1.65.1",
    "OpenAI/JS 4.86.1",
    "python-requests/2.32.3",
    "python-httpx/0.28.1",
    "axios/1.7.9",
    "okhttp/4.12.0",
    "curl/8.5.0",
    "Go-http-client/2.0",
    "node-fetch/1.0",
    "aiohttp/3.11.12",
    "Java/17.0.9",
    "reqwest/0.12.9",
    "PostmanRuntime/7.43.0",
    "",
)
_PLANS: Final = ("free", "pro", "team", "enterprise")
_ENDPOINTS: Final = (
    "/v1/chat/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/completions",
)
_MODELS: Final = ("large-1", "large-1", "small-2", "chat-latest")


@dataclass(slots=True)
class Account:
    """The constant part of an account's events."""

    name: str
    keys: list[str]
    org: str | None
    plan: str
    addresses: list[str]
    user_agent: str | None
    links: dict[str, str]
    endpoint: str
    model: str
    params: list[dict[str, Any] | None]
    error_rate: float
    seconds_a_token: float
    answer_tokens: float


class Registry:
    """Makes accounts, and makes some of them share what identifies them."""

    def __init__(self, rng: Rng, user_agents: Sequence[tuple[str, int]]) -> None:
        self._rng = rng
        agents = [(ua, 1.0 + np.log(n)) for ua, n in user_agents]
        whole = sum(weight for _, weight in agents) or 1.0
        agents += [(ua, whole / len(_SDKS)) for ua in _SDKS]  # half are programs
        self._agents = [ua for ua, _ in agents]
        weight = np.array([w for _, w in agents])
        self._agent_p = weight / weight.sum()
        self._seen: set[str] = set()

    def account(self) -> Account:
        rng = self._rng
        name = f"acct-{self._token(5)}"
        network = self.network()
        return Account(
            name=name,
            keys=[self._key() for _ in range(int(rng.choice([1, 1, 1, 1, 2, 3])))],
            org=f"org-{self._token(4)}" if rng.random() < 0.6 else None,
            plan=_PLANS[int(rng.integers(4))],
            addresses=[
                f"{network}.{int(h)}"
                for h in rng.integers(1, 255, int(rng.choice([1, 1, 1, 2, 4])))
            ],
            user_agent=self.client(),
            links={"payment": self.payment()}
            | ({"device": self._token(8)} if rng.random() < 0.3 else {}),
            endpoint=_ENDPOINTS[int(rng.integers(4))],
            model=_MODELS[int(rng.integers(4))],
            params=self._params(),
            error_rate=float(np.clip(rng.lognormal(np.log(0.004), 1.2), 0, 0.12)),
            seconds_a_token=float(rng.lognormal(np.log(0.015), 0.4)),
            answer_tokens=float(rng.lognormal(np.log(180.0), 0.9)),
        )

    def network(self) -> str:
        a, b, c = self._rng.integers((11, 0, 0), (224, 256, 256)).tolist()
        return f"{a}.{b}.{c}"

    def payment(self) -> str:
        return f"pay-{self._token(6)}"

    def client(self) -> str | None:
        return self._agents[int(self._rng.choice(len(self._agents), p=self._agent_p))] or None

    def share(self, members: Sequence[Account], hint: str) -> None:
        """Make accounts share a "payment" (and sometimes an org), "network" (/24) or "client"."""
        rng = self._rng
        if hint == "payment":
            payment = self.payment()
            org = f"org-{self._token(4)}" if rng.random() < 0.5 else None
            for member in members:
                member.links = member.links | {"payment": payment}
                member.org = org or member.org
        elif hint == "network":
            network = self.network()
            for member in members:
                hosts = rng.integers(1, 255, len(member.addresses)).tolist()
                member.addresses = [f"{network}.{h}" for h in hosts]
        else:
            agent = self.client()
            for member in members:
                member.user_agent = agent

    def imitate(self, member: Account, model: Account) -> None:
        """Give an account the client, the network (/24) and the requests' form of another one.

        A payer, a device and an organisation cannot be copied from outside.
        """
        network = model.addresses[0].rpartition(".")[0]
        hosts = self._rng.integers(1, 255, len(member.addresses)).tolist()
        member.addresses = [f"{network}.{host}" for host in hosts]
        member.user_agent, member.params = model.user_agent, model.params
        member.endpoint, member.model = model.endpoint, model.model

    def pool(self, members: Sequence[Account], share: float, hint: str, largest: int) -> None:
        """Make `share` of the accounts share a hint, in groups of 2 to `largest`."""
        rng = self._rng
        chosen = rng.permutation(len(members))[: int(share * len(members))].tolist()
        while len(chosen) > 1:
            size = min(int(rng.integers(2, largest + 1)), len(chosen))
            self.share([members[i] for i in chosen[:size]], hint)
            del chosen[:size]

    def _params(self) -> list[dict[str, Any] | None]:
        rng = self._rng
        if rng.random() < 0.15:
            return [None]
        sets: list[dict[str, Any] | None] = []
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            params: dict[str, Any] = {}
            if rng.random() < 0.7:
                params["temperature"] = float(rng.choice([0.0, 0.2, 0.3, 0.7, 0.7, 1.0]))
            if rng.random() < 0.6:
                params["max_tokens"] = int(rng.choice([16, 64, 256, 512, 1024, 1024, 2048, 4096]))
            if rng.random() < 0.1:
                params["top_p"] = float(rng.choice([0.9, 0.95]))
            if rng.random() < 0.06:
                params |= {"logprobs": True, "top_logprobs": int(rng.integers(1, 6))}
            if rng.random() < 0.04:
                params["n"] = int(rng.integers(2, 6))
            sets.append(params)
        return sets

    def _key(self) -> str:
        return f"sha256:{hashlib.sha256(self._rng.bytes(16)).hexdigest()}"

    def _token(self, size: int) -> str:
        while (token := self._rng.bytes(size).hex()) in self._seen:
            pass
        self._seen.add(token)
        return token
