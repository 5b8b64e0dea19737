"""Why: an account's evidence as a sum, of what a customer starts with and of named signals.

The evidence is the mean log-odds of the account models that have a say in it. Each is a sum over
the columns it sees: along a tree's path, the change of a node's mean goes to the column of its
split (Saabas 2014); a network's gradient is integrated from a customer's middle (Sundararajan et
al. 2017). What the columns of block scores add is handed on to the signals of the account's most
suspicious block, as far as they speak for the same side, by their shares in that block's score.
Nothing is lost on the way: base and signals add up to the evidence.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.score import ACCOUNT_COLUMNS, TextModels
from features import NAMES, TEXTS
from responders.decisions import Signal

__all__ = ["Explanation", "Like", "explain_blocks", "explain_text"]

_MOST: Final = 8  # signals of a block that are named; the rest is one
_LEAST_ALIKE: Final = 8  # customers of whom a range is taken
_ROUNDING: Final = 1e-9  # of sums of log-odds
_SCORES: Final = ("mean", "max", "min", "deviation")
# Which of an account's columns make a signal, the first of them its value, and what it says.
_BESIDE: Final = {
    "history.requests": (("log2_events",), "how many requests there are to go by"),
    "history.constancy": (("constancy",), "how alike its blocks of requests are to one another"),
    "links.identity": (
        ("linked_mean", "log_linked"),
        "how suspicious accounts on the same payment, device or network are",
    ),
    "links.template": (
        ("template_mean",),
        "how suspicious accounts that use the same templates are",
    ),
    "links.alike": (
        ("sketch_mean", "sketch_cosine"),
        "how suspicious the accounts that send the most alike inputs are",
    ),
    "links.company": (
        (
            *("company_mean", "company_deviation", "company_cosine"),
            *("company_farthest", "company_linked"),
        ),
        "how suspicious the accounts are that send alike inputs in the same way",
    ),
    "links.together": (
        (
            *("company_start", "company_volume", "company_end"),
            *("company_crowd", "company_strangers"),
        ),
        "how closely and how many such accounts begin, end and send together (days apart)",
    ),
}
_OTHER: Final = "what all other signals of its requests add together; how many they are"
_HABIT: Final = "habit."


class Explanation(NamedTuple):
    """`base` and the signals' `log_odds` add up to the evidence."""

    base: float
    signals: tuple[Signal, ...]


class Like(NamedTuple):
    """Customers like the account: unsuspected ones whose inputs are most like its own."""

    features: NDArray[np.float32]  # (N, len(NAMES)), each one's most suspicious block
    scores: NDArray[np.float64]  # (N,), mean block score
    requests: NDArray[np.float64]  # (N,), in the week


def explain_text(
    models: TextModels, seen: NDArray[np.float64], best: NDArray[np.float32], like: Like
) -> Explanation:
    """Of an account that sends text.

    Args:
        models: that judged it.
        seen: what they saw when the evidence reached its maximum, ACCOUNT_COLUMNS.
        best: features of its block with the best score, (len(NAMES),).
        like: customers to compare with.
    """
    base, shares = models.shares(seen)
    share_of = dict(zip(ACCOUNT_COLUMNS, shares.tolist(), strict=True))
    value_of = dict(zip(ACCOUNT_COLUMNS, seen.tolist(), strict=True))
    features = best[models.used].astype(np.float64)
    ranges = models.typical
    if len(like.features) >= _LEAST_ALIKE:
        near = like.features[:, models.used].astype(np.float64)
        ranges = np.quantile(near, (0.05, 0.95), axis=0).T
    blocks = math.fsum(share_of[column] for column in _SCORES)
    added = dict.fromkeys(NAMES, 0.0)
    for name in NAMES:
        added[name] += share_of[_HABIT + name]
    for i, part in zip(models.used, _handed_on(blocks, models.block.shares(features)), strict=True):
        added[NAMES[i]] += part
    named = [
        Signal(
            name=NAMES[i],
            value=float(features[column]),
            typical=(float(ranges[column, 0]), float(ranges[column, 1])),
            weight=0.0,
            text=TEXTS[NAMES[i]],
            log_odds=added[NAMES[i]],
        )
        for column, i in enumerate(models.used)
    ]
    kept = _strongest(named, math.fsum([blocks, *(share_of[_HABIT + n] for n in NAMES)]))
    scores, counts = _range(like.scores), _range(like.requests)
    for name, (columns, text) in _BESIDE.items():
        value = value_of[columns[0]]
        around = scores if columns[0].endswith("_mean") else (value, value)
        if columns[0] == "log2_events":
            value, around = float(round(2.0**value)), counts
        log_odds = math.fsum(share_of[column] for column in columns)
        kept.append(
            Signal(name=name, value=value, typical=around, weight=0.0, text=text, log_odds=log_odds)
        )
    return _weighed(base, kept)


def explain_blocks(evidence: float, base: float, signals: list[Signal]) -> Explanation:
    """Of evidence that is known only as a sum: all of it goes to the worst block's signals.

    Args:
        evidence: log-odds.
        base: of the customer in the middle of the reference.
        signals: of that block; `weight` is the share in its score.
    """
    parts = _handed_on(evidence - base, np.array([signal.weight for signal in signals]))
    named = [
        Signal(
            name=s.name, value=s.value, typical=s.typical, weight=0.0, text=s.text, log_odds=part
        )
        for s, part in zip(signals, parts, strict=True)
    ]
    return _weighed(base, _strongest(named, evidence - base))


def _handed_on(total: float, shares: NDArray[np.float64]) -> list[float]:
    """The total, by the shares that speak for the same side; zeros when none does."""
    same = np.maximum(math.copysign(1.0, total) * shares, 0.0)
    whole = float(same.sum())
    return [float(part) for part in total * same / whole] if whole > 0.0 else [0.0] * len(shares)


def _strongest(named: list[Signal], total: float) -> list[Signal]:
    """The signals that add most, and one for what they leave of the total."""
    kept = sorted((s for s in named if s.log_odds), key=lambda s: -abs(s.log_odds))
    rest = kept[_MOST:]
    kept = kept[:_MOST]
    left = total - math.fsum(signal.log_odds for signal in kept)
    # Also what no signal of the worst block speaks for, while habits of the account are named.
    if rest or not kept or abs(left) > _ROUNDING:
        count = float(len(rest) or len(named))
        kept.append(
            Signal(
                name="requests.other",
                value=count,
                typical=(count, count),
                weight=0.0,
                text=_OTHER,
                log_odds=left,
            )
        )
    return kept


def _weighed(base: float, signals: list[Signal]) -> Explanation:
    """With each signal's share in what all of them add, the strongest first."""
    total = math.fsum(signal.log_odds for signal in signals)
    weighed = [
        Signal(
            name=s.name,
            value=s.value,
            typical=s.typical,
            weight=s.log_odds / total if total else 0.0,
            text=s.text,
            log_odds=s.log_odds,
        )
        for s in signals
    ]
    weighed.sort(key=lambda s: (-s.log_odds, s.name))
    return Explanation(base, tuple(weighed))


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    if not len(values):
        return 0.0, 0.0
    low, high = np.quantile(values, (0.05, 0.95))
    return float(low), float(high)
