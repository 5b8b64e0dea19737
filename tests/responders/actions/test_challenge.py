"""Tickets, proofs and signed returns."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import altcha
import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from velvetrope_client.keys import Keyring
from velvetrope_client.proof import solve

from responders.actions.challenge import (
    COST,
    PAGE_PURPOSE,
    RETURN_AUDIENCE,
    Asked,
    Challenges,
    Passed,
    Refused,
    challenge_params,
    difficulty_of,
    lifts,
)
from responders.settings import ChallengeSettings
from tests.responders.making import NOW, decision

KEYRING = Keyring.new("2026-11")
# What is signed while tests are collected must not expire before they run.
SETTINGS = ChallengeSettings(tries=2, answer_within_s=86_400.0)
ASKED = Asked(account="acct-1", decision="d-1", difficulty=1)
CHALLENGES = Challenges(KEYRING, SETTINGS)


def signed_return(keyring: Keyring = KEYRING, **changes: Any) -> str:
    """What the operator's page sends back for a ticket, as docs/challenge.md has it."""
    key = keyring.current.derive(PAGE_PURPOSE)
    ticket = Challenges(keyring, SETTINGS).ticket(ASKED)
    claims = jwt.decode(ticket, key, ["HS256"], audience="challenge-page")
    claims |= {"iss": "challenge-page", "aud": RETURN_AUDIENCE} | changes
    return jwt.encode(claims, key, "HS256", headers={"kid": keyring.current.id})


PROOF = solve(CHALLENGES.issue(ASKED))
RETURN = signed_return()


def outcome(read: Callable[[str], object], token: str) -> str:
    with pytest.raises(Refused) as refused:
        read(token)
    return refused.value.outcome


@pytest.mark.parametrize("answer", [PROOF, RETURN], ids=["proof", "return"])
def test_an_answer_tells_what_was_asked_of_whom(answer: str) -> None:
    assert CHALLENGES.read(answer).asked == ASKED


def test_a_ticket_tells_what_was_asked_of_whom() -> None:
    assert CHALLENGES.open_ticket(CHALLENGES.ticket(ASKED)) == ASKED


def test_any_account_name_survives() -> None:
    asked = Asked(account='Zoë\udcff"\n', decision="d-1", difficulty=1)
    assert CHALLENGES.open_ticket(CHALLENGES.ticket(asked)) == asked
    assert CHALLENGES.read(solve(CHALLENGES.issue(asked))).asked == asked


def test_a_ticket_is_no_answer() -> None:
    assert outcome(CHALLENGES.read, CHALLENGES.ticket(ASKED)) == "forged"


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_return_with_any_bit_flipped_is_refused(data: st.DataObject) -> None:
    flipped = bytearray(RETURN.encode())
    bit = data.draw(st.integers(0, 8 * len(flipped) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    assert outcome(CHALLENGES.read, flipped.decode("latin-1")) in ("forged", "malformed")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_proof_with_any_bit_of_its_base64_flipped_gives_nothing_else(
    data: st.DataObject,
) -> None:
    """The counter and the time taken are the client's own, and nothing rests on them."""
    flipped = bytearray(PROOF.encode())
    bit = data.draw(st.integers(0, 8 * len(flipped) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    text = flipped.decode("latin-1")
    try:
        answered = CHALLENGES.read(text)
    except Refused:
        return
    changed, original = (json.loads(base64.b64decode(t)) for t in (text, PROOF))
    for payload in (changed, original):
        del payload["solution"]["counter"], payload["solution"]["time"]
    assert changed == original
    assert answered == CHALLENGES.read(PROOF)


SIGNED = ("algorithm", "nonce", "salt", "cost", "keyLength", "keyPrefix", "keySignature")


@given(st.sampled_from([*SIGNED, "expiresAt", "data", "signature", "derivedKey"]), st.data())
@settings(max_examples=200, deadline=None)
def test_a_proof_with_any_bit_of_what_is_signed_flipped_is_refused(
    name: str, data: st.DataObject
) -> None:
    payload = json.loads(base64.b64decode(PROOF))
    challenge = payload["challenge"]
    holder = {"signature": challenge, "derivedKey": payload["solution"]}.get(
        name, challenge["parameters"]
    )
    if name == "data":
        holder = holder["data"]
        name = data.draw(st.sampled_from(sorted(holder)))
    value = holder[name]
    if isinstance(value, int):
        holder[name] = value ^ 1 << data.draw(st.integers(0, 40))
    else:
        place = data.draw(st.integers(0, len(value) - 1))
        character = chr(ord(value[place]) ^ 1 << data.draw(st.integers(0, 6)))
        holder[name] = value[:place] + character + value[place + 1 :]
    text = base64.b64encode(json.dumps(payload).encode()).decode()
    assert outcome(CHALLENGES.read, text) in ("forged", "malformed", "expired")


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "a.b.c", "é.é.é", "====", "e30=", "x" * 8193, '{"challenge":{}}', "bnVsbA=="],
)
def test_what_is_no_token_is_malformed(token: str) -> None:
    assert outcome(CHALLENGES.read, token) == "malformed"


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_text_is_refused_and_raises_nothing_else(text: str) -> None:
    outcome(CHALLENGES.read, text)
    outcome(CHALLENGES.open_ticket, text)


def test_tokens_expire() -> None:
    past = Challenges(KEYRING, SETTINGS, wall=lambda: time.time() - 86_401)
    assert outcome(CHALLENGES.open_ticket, past.ticket(ASKED)) == "expired"
    assert outcome(CHALLENGES.read, solve(past.issue(ASKED))) == "expired"
    assert outcome(CHALLENGES.read, signed_return(exp=int(time.time()) - 1)) == "expired"


def test_keys_of_others_sign_nothing() -> None:
    other = Keyring.new("2026-11")
    assert outcome(CHALLENGES.read, solve(Challenges(other, SETTINGS).issue(ASKED))) == "forged"
    assert outcome(CHALLENGES.read, signed_return(other)) == "forged"
    unknown = Keyring.new("2020-01")
    assert outcome(CHALLENGES.read, solve(Challenges(unknown, SETTINGS).issue(ASKED))) == "forged"
    assert outcome(CHALLENGES.read, signed_return(unknown)) == "forged"


def test_a_return_without_a_signature_is_refused() -> None:
    claims = jwt.decode(RETURN, options={"verify_signature": False})
    unsigned = jwt.encode(claims, None, "none", headers={"kid": KEYRING.current.id})
    assert outcome(CHALLENGES.read, unsigned) == "forged"


def test_a_page_that_leaves_something_out_is_told_so() -> None:
    assert outcome(CHALLENGES.read, signed_return(difficulty=None)) == "malformed"
    assert outcome(CHALLENGES.read, signed_return(jti="1")) == "malformed"


def test_after_a_rotation_old_tokens_still_count() -> None:
    assert Challenges(KEYRING.rotated("2026-12"), SETTINGS).read(PROOF).asked == ASKED


def test_each_step_of_difficulty_doubles_the_tries() -> None:
    challenges = Challenges(KEYRING, ChallengeSettings(tries=4))

    def counters(difficulty: int) -> list[int]:
        asked = Asked(account="a", decision="d", difficulty=difficulty)
        issued = (challenges.issue(asked) for _ in range(60))
        solved = (altcha.solve_challenge(altcha.Challenge.from_dict(c)) for c in issued)
        return [s.counter for s in solved if s is not None]

    # Uniform below twice the tries: of 60 draws from 8 (16), the largest is over 3 (7) but for
    # one time in 10^18.
    assert 3 < max(counters(1)) < 8
    assert 7 < max(counters(2)) < 16


def test_a_search_has_no_head_start() -> None:
    challenges = Challenges(KEYRING, ChallengeSettings(tries=1))
    solved = [
        altcha.solve_challenge(altcha.Challenge.from_dict(challenges.issue(ASKED)))
        for _ in range(40)
    ]
    assert {s.counter for s in solved if s is not None} == {0, 1}


def test_a_challenge_tells_no_more_than_its_difficulty() -> None:
    parameters = CHALLENGES.issue(ASKED)["parameters"]
    assert set(parameters) == {*SIGNED, "expiresAt", "data"}
    assert parameters["cost"] == COST
    assert set(parameters["data"]) == {"key", "account", "decision", "difficulty"}


@pytest.mark.parametrize(
    ("false_per_1000", "difficulty"),
    [(0.3, 1), (0.16, 1), (0.15, 2), (0.075, 3), (0.0094, 5), (0.0093, 6), (1e-9, 6), (0.0, 6)],
)
def test_difficulty_follows_the_evidence_to_the_sixth_step(
    false_per_1000: float, difficulty: int
) -> None:
    assert challenge_params(1, 0.3, false_per_1000) == {"difficulty": difficulty}


def test_a_decision_without_a_difficulty_goes_by_its_level() -> None:
    assert difficulty_of(decision(action="challenge", level=2, params={})) == 2
    assert difficulty_of(decision(action="challenge", params={"difficulty": 4})) == 4
    assert difficulty_of(decision(action="challenge", params={"difficulty": 99})) == 6
    assert difficulty_of(decision(action="challenge", params={"difficulty": "x"})) == 1


def passed(**changes: Any) -> Passed:
    return Passed(**({"decision": "d-1", "difficulty": 2, "how": "proof", "until": NOW} | changes))


@pytest.mark.parametrize(
    ("difficulty", "until", "lifted"),
    [(2, NOW + 1, True), (1, NOW + 1, True), (3, NOW + 1, False), (2, NOW, False)],
)
def test_what_was_passed_lifts_a_newer_decision_no_stronger_for_its_life(
    difficulty: int, until: float, lifted: bool
) -> None:
    newer = decision(2, action="challenge", params={"difficulty": difficulty})
    assert lifts(passed(until=until), newer, NOW) is lifted


def test_nothing_passed_lifts_nothing() -> None:
    assert not lifts(None, decision(action="challenge"), NOW)
