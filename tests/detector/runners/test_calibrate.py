"""What `calibrate` says of the baseline that it made."""

from __future__ import annotations

import numpy as np

from detector.baseline import Baseline, KindBaseline
from detector.runners.calibrate import quality
from detector.settings import JudgeSettings

DAY = 86_400.0


def baseline(evidence: list[float], accounts: int, days: float) -> Baseline:
    return Baseline(
        name="own", scorer="s", events=9, first_ts=DAY, last_ts=DAY * (1.0 + days),
        kinds={"text": KindBaseline(accounts=accounts, evidence=evidence)},
    )  # fmt: skip


def test_a_large_one_decides_and_says_how_far_it_was_counted() -> None:
    evidence = np.random.default_rng(0).exponential(size=500).tolist()
    said = dict(quality(baseline(evidence, 10_999, 8.0), JudgeSettings()))
    assert said["history"] == "8.0 days"
    assert said["text: customers"] == "10,999, 500 with evidence"
    assert said["text: counted"] == "down to 1 of 1,000 customers a week"
    assert said["text: beyond"].startswith("a generalized Pareto tail of 50 customers (Anderson")
    assert said["text: decides"] == "yes, with the shipped one"


def test_a_small_one_says_what_it_needs() -> None:
    said = dict(quality(baseline([1.0, 2.0], 300, 1.5), JudgeSettings()))
    assert said["text: decides"] == (
        "not yet (shadow): it needs 700 more customers and 5.5 more days"
    )
    assert said["text: beyond"].endswith("no tail model fits")


def test_one_without_a_scored_customer_says_that_it_does_not_decide() -> None:
    nobody = Baseline(name="own", scorer="s", events=3, first_ts=DAY, last_ts=DAY, kinds={})
    assert dict(quality(nobody, JudgeSettings())) == {
        "history": "0.0 days",
        "decides": "not yet (shadow): no customer sent enough requests with inputs to be scored",
    }


def test_one_of_other_models_is_missing_a_calibration_for_text_alone() -> None:
    own = baseline([1.0], 2000, 9.0)
    assert not own.missing("text", 1000, 7.0, "s")
    assert str(own.missing("text", 1000, 7.0, "s2")) == "to be calibrated anew (it is of s)"
    vectors = own.missing("vector", 0, 7.0, "s2")
    assert not vectors
