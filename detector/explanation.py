"""Why: an account's evidence as a sum, of what a customer starts with and of named signals.

The evidence is the mean log-odds of the account models that had something to see. Each of them is
a sum over the columns it sees: along a tree's path, the change of a node's mean goes to the column
of its split (Saabas 2014). What the columns of block scores add is handed on to the signals of the
account's most suspicious block, as far as they speak for the same side, by their shares in that
block's score. Nothing is lost on the way: base and signals add up to the evidence.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.score import ACCOUNT_FEATURES, TextModels, account_row
from detector.trees import Trees
from features import NAMES, TEXTS
from responders.decisions import Signal

__all__ = ["Explanation", "Like", "explain_blocks", "explain_text"]

_MOST: Final = 8  # signals of a block that are named; the rest is one
_LEAST_ALIKE: Final = 8  # customers of whom a range is taken
_SCORES: Final = ("mean", "max", "min")

_WORDS: Final = {
    "history.requests": "how many requests there are to go by",
    "links.identity": "how suspicious accounts on the same payment, device or network are",
    "links.template": "how suspicious accounts that use the same templates are",
    "links.alike": "how suspicious the accounts that send the most alike inputs are",
    "requests.other": "what all other signals of its requests add together; how many they are",
}


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
        seen: what they saw when the evidence reached its maximum: `detector.evidence.SEEN`.
        best: features of its block with the best score, (len(NAMES),).
        like: customers to compare with.
    """
    mean, highest, lowest, events, linked, template, alike, cosine = (float(v) for v in seen)
    requests = round(events)
    judged: list[tuple[Trees, tuple[str, ...], NDArray[np.float64]]] = [
        (models.account, ACCOUNT_FEATURES, account_row(mean, highest, lowest, requests))
    ]
    if not math.isnan(linked):
        columns = (*ACCOUNT_FEATURES, "links.identity")
        row = account_row(mean, highest, lowest, requests, (linked,))
        judged.append((models.linked, columns, row))
    if not math.isnan(alike):
        # Without a template the model is shown the account's own mean in its place.
        shared = "mean" if math.isnan(template) else "links.template"
        others = (mean if math.isnan(template) else template, alike, cosine)
        seven = (*ACCOUNT_FEATURES, shared, "links.alike", "links.alike")
        row = account_row(mean, highest, lowest, requests, others)
        judged.append((models.alike, seven, row))
    base, added = 0.0, dict.fromkeys(("blocks", "log2_events"), 0.0)
    for trees, names, row in judged:
        shares = trees.shares(row)
        base += (trees.log_odds(row) - float(shares.sum())) / len(judged)
        for column, share in zip(names, shares.tolist(), strict=True):
            part = "blocks" if column in _SCORES else column
            added[part] = added.get(part, 0.0) + share / len(judged)
    features = best[models.used].astype(np.float64)
    ranges = models.typical
    if len(like.features) >= _LEAST_ALIKE:
        near = like.features[:, models.used].astype(np.float64)
        ranges = np.quantile(near, (0.05, 0.95), axis=0).T
    named = [
        Signal(
            name=NAMES[models.used[i]],
            value=float(features[i]),
            typical=(float(ranges[i, 0]), float(ranges[i, 1])),
            weight=0.0,
            text=TEXTS[NAMES[models.used[i]]],
            log_odds=log_odds,
        )
        for i, log_odds in enumerate(_handed_on(added["blocks"], models.block.shares(features)))
    ]
    scores, counts = _range(like.scores), _range(like.requests)
    beside = [
        ("history.requests", events, counts, added["log2_events"]),
        ("links.identity", linked, scores, added.get("links.identity")),
        ("links.template", template, scores, added.get("links.template")),
        ("links.alike", alike, scores, added.get("links.alike")),
    ]
    kept = _strongest(named, added["blocks"])
    kept += [
        Signal(name=name, value=v, typical=around, weight=0.0, text=_WORDS[name], log_odds=log_odds)
        for name, v, around, log_odds in beside
        if log_odds is not None
    ]
    return _weighed(base, kept)


def explain_blocks(evidence: float, base: float, signals: list[Signal]) -> Explanation:
    """Of evidence that is known only as a sum: all of it goes to the worst block's signals.

    Args:
        evidence: log-odds.
        base: of an account without any block.
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
    if rest or not kept:
        count = float(len(rest) or len(named))
        kept.append(
            Signal(
                name="requests.other",
                value=count,
                typical=(count, count),
                weight=0.0,
                text=_WORDS["requests.other"],
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
