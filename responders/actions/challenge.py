"""The challenge: what a caller must show before it may go on, as signed, expiring tokens.

Two ways through. The operator's own page (a login, a captcha) vouches for the caller with a signed
return; or the caller pays with a proof of work in ALTCHA's format (version 2, deterministic mode):
it searches for the counter whose PBKDF2 key begins with a given prefix. A thief can buy work, so
what was passed is lifted for a while only, and at a rate.

Nothing is kept of a challenge until it is answered: account, decision and difficulty are in the
token, under an HMAC. The store then keeps that the answer was used, and what the account passed.
"""

from __future__ import annotations

import base64
import binascii
import math
import secrets
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import altcha
import jwt
import msgspec
from velvetrope_client.keys import Key, Keyring

from responders.decisions import Decision
from responders.settings import ChallengeSettings

__all__ = [
    "ALGORITHM",
    "COST",
    "HARDEST",
    "Answered",
    "Asked",
    "Challenges",
    "Passed",
    "Refused",
    "challenge_params",
    "difficulty_of",
    "lifts",
    "page_keys",
]

Outcome = Literal["expired", "forged", "malformed", "other_account", "replayed"]
How = Literal["proof", "return"]

ALGORITHM: Final = "PBKDF2/SHA-256"
# Iterations of one try. Few enough that issuing costs little, and enough that a browser's
# overhead for each call of WebCrypto is small beside them.
COST: Final = 5000
# Six steps, each twice the work of the last: nobody honest should have to wait longer.
HARDEST: Final = 6
PAGE_AUDIENCE: Final = "challenge-page"
RETURN_AUDIENCE: Final = "velvetrope"
PAGE_PURPOSE: Final = "challenge page"
_PROOF_PURPOSE: Final = "challenge proof"
_SOLVED_PURPOSE: Final = "challenge proof solved"
_MOST_BYTES: Final = 8192


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of whom: a decision's challenge, at a difficulty from 1 to HARDEST."""

    account: str
    decision: str
    difficulty: int


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that holds good, if it was not used before. `expires_at` is Unix seconds."""

    asked: Asked
    id: str
    expires_at: float
    how: How


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    """That an account passed a challenge, until a time of the event clock."""

    decision: str
    difficulty: int
    how: How
    until: float


class Refused(Exception):
    """An answer that does not count, and why: for the metrics, and in a word for the client."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def challenge_params(level: int, limit: float, false_per_1000: float) -> dict[str, Any]:
    """`params` of a challenge decision: its difficulty follows the evidence.

    One step for each time that the evidence is twice as strong as the rung asks for: `limit` and
    `false_per_1000` are the rung's and the account's nominal false alarms per 1,000 a week.

    >>> challenge_params(1, 0.3, 0.07)
    {'difficulty': 3}
    """
    beyond = math.log2(limit / false_per_1000) if false_per_1000 > 0 else HARDEST
    difficulty = level + max(0, math.floor(min(beyond, HARDEST)))
    return {"difficulty": min(HARDEST, difficulty)}


def difficulty_of(decision: Decision) -> int:
    """1 to HARDEST. A decision without one, as a person may write it, goes by its level."""
    stated = decision.params.get("difficulty")
    return max(1, min(HARDEST, stated if type(stated) is int else decision.level))


def lifts(passed: Passed | None, decision: Decision, now: float) -> bool:
    """Whether what was passed answers the decision: one no stronger, and within its life."""
    if passed is None or passed.until <= now:
        return False
    return passed.decision == decision.id or difficulty_of(decision) <= passed.difficulty


def page_keys(keyring: Keyring) -> dict[str, Any]:
    """The page's keys as a JWK set (RFC 7517), newest first: they open tickets, sign returns."""
    return {
        "keys": [
            {
                "kty": "oct",
                "alg": "HS256",
                "kid": key.id,
                "k": base64.urlsafe_b64encode(key.derive(PAGE_PURPOSE)).rstrip(b"=").decode(),
            }
            for key in keyring
        ]
    }


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a proof is bound to, in the signed parameters. `account` is base64url of its bytes."""

    key: str
    account: str
    decision: str
    difficulty: int


class _Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    algorithm: str
    nonce: str
    salt: str
    cost: int
    key_length: int
    key_prefix: str
    key_signature: str
    expires_at: int
    data: _Data


class _Challenge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    parameters: _Parameters
    signature: str


class _Solution(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    counter: int
    derived_key: str
    time: float | None = None  # milliseconds, as ALTCHA's own solvers add


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    challenge: _Challenge
    solution: _Solution


_payloads: Final = msgspec.json.Decoder(_Payload)


class Challenges:
    """Makes and reads tokens under a keyring: the newest key signs, older ones still verify.

    `wall` is the clock on which tokens expire: clients and pages hold them, so it is not the log's.
    """

    def __init__(
        self, keyring: Keyring, settings: ChallengeSettings, wall: Callable[[], float] = time.time
    ) -> None:
        self._keyring = keyring
        self._settings = settings
        self._wall = wall

    def ticket(self, asked: Asked) -> str:
        """A JWT (HS256) that tells the operator's page, and GET /challenge, who was asked what."""
        key = self._keyring.current
        claims = {
            "iss": "velvetrope",
            "aud": PAGE_AUDIENCE,
            "sub": asked.account,
            "jti": secrets.token_hex(16),
            "exp": math.ceil(self._wall() + self._settings.answer_within_s),
            "decision": asked.decision,
            "difficulty": asked.difficulty,
        }
        return jwt.encode(claims, key.derive(PAGE_PURPOSE), "HS256", headers={"kid": key.id})

    def open_ticket(self, token: str) -> Asked:
        """Raises Refused."""
        return _asked(self._claims(token, PAGE_AUDIENCE))

    def issue(self, asked: Asked) -> dict[str, Any]:
        """An ALTCHA challenge; takes one derivation of COST iterations, some 1.2 ms."""
        key = self._keyring.current
        tries = self._settings.tries * 2 ** (asked.difficulty - 1)
        challenge = altcha.create_challenge(
            ALGORITHM,
            COST,
            # Uniform from zero on: a search has no head start, and takes `tries` on average.
            counter=secrets.randbelow(2 * tries),
            expires_at=math.ceil(self._wall() + self._settings.answer_within_s),
            data={
                "key": key.id,
                "account": _text_of(asked.account),
                "decision": asked.decision,
                "difficulty": asked.difficulty,
            },
            hmac_secret=key.derive(_PROOF_PURPOSE),
            hmac_key_secret=key.derive(_SOLVED_PURPOSE),
        )
        document: dict[str, Any] = challenge.to_dict()
        return document

    def read(self, answer: str) -> Answered:
        """A proof (base64 of an ALTCHA payload) or a signed return (JWT). Raises Refused."""
        if len(answer) > _MOST_BYTES:
            raise Refused("malformed")
        return self._return(answer) if "." in answer else self._proof(answer)

    def _return(self, token: str) -> Answered:
        claims = self._claims(token, RETURN_AUDIENCE)
        return Answered(
            asked=_asked(claims), id=claims["jti"], expires_at=claims["exp"], how="return"
        )

    def _claims(self, token: str, audience: str) -> dict[str, Any]:
        """The claims of a JWT of ours or of the page's. Raises Refused."""
        try:
            name = jwt.get_unverified_header(token).get("kid")
            if not _is_canonical(token) or not isinstance(name, str):
                raise Refused("malformed")
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key(name).derive(PAGE_PURPOSE),
                ["HS256"],
                audience=audience,
                options={
                    "require": ["exp", "sub", "jti", "aud"],
                    "strict_aud": True,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.DecodeError as error:
            # A signature that is wrong is a DecodeError too.
            wrong = isinstance(error, jwt.InvalidSignatureError)
            raise Refused("forged" if wrong else "malformed") from None
        except (jwt.InvalidTokenError, ValueError):
            raise Refused("forged") from None
        if not isinstance(claims["exp"], int) or not _is_token_id(claims["jti"]):
            raise Refused("malformed")
        # On our clock; PyJWT knows the machine's alone.
        if claims["exp"] < self._wall():
            raise Refused("expired")
        return claims

    def _proof(self, answer: str) -> Answered:
        try:
            payload = _payloads.decode(base64.b64decode(answer, validate=True))
        except (binascii.Error, msgspec.DecodeError, ValueError):
            raise Refused("malformed") from None
        parameters, solution = payload.challenge.parameters, payload.solution
        if not _is_lower_hex(solution.derived_key):
            raise Refused("malformed")
        key = self._key(parameters.data.key)
        result = altcha.verify_solution(
            altcha.Payload(
                altcha.Challenge(
                    altcha.ChallengeParameters.from_dict(msgspec.to_builtins(parameters)),
                    payload.challenge.signature,
                ),
                altcha.Solution(solution.counter, solution.derived_key),
            ),
            key.derive(_PROOF_PURPOSE),
            hmac_key_secret=key.derive(_SOLVED_PURPOSE),
        )
        if not result.verified:
            raise Refused("expired" if result.expired else "forged")
        return Answered(
            asked=Asked(
                account=_account_of(parameters.data.account),
                decision=parameters.data.decision,
                difficulty=parameters.data.difficulty,
            ),
            id=parameters.nonce,
            expires_at=parameters.expires_at,
            how="proof",
        )

    def _key(self, name: str) -> Key:
        try:
            return self._keyring.get(name)
        except KeyError:
            raise Refused("forged") from None


def _asked(claims: dict[str, Any]) -> Asked:
    """Of claims whose signature holds; a page may still have left something out."""
    account, decision = claims["sub"], claims.get("decision")
    difficulty = claims.get("difficulty")
    if not isinstance(decision, str) or type(difficulty) is not int:
        raise Refused("malformed")
    return Asked(account=account, decision=decision, difficulty=difficulty)


def _is_canonical(token: str) -> bool:
    """Whether no other text decodes to the same token: the last character has spare bits."""
    for part in token.split("."):
        padded = part + "=" * (-len(part) % 4)
        try:
            decoded = base64.b64decode(padded, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return False
        if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() != part:
            return False
    return True


def _is_token_id(value: Any) -> bool:
    return isinstance(value, str) and 16 <= len(value) <= 64 and value.isascii()


def _is_lower_hex(text: str) -> bool:
    return bool(text) and not set(text) - set("0123456789abcdef")


def _text_of(account: str) -> str:
    """Account names may hold any bytes, JSON and a client's parser may not."""
    raw = account.encode("utf-8", "surrogateescape")
    return base64.urlsafe_b64encode(raw).decode()


def _account_of(text: str) -> str:
    return base64.urlsafe_b64decode(text).decode("utf-8", "surrogateescape")
