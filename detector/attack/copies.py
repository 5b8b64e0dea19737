"""The copy that a thief trains on what he was answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["agreement", "copy_of_rows"]

Matrix = NDArray[np.float64]


def copy_of_rows(x: Matrix, labels: Sequence[str]) -> Any:
    """A classifier of rows, trained on answers; one that always says the same for one label."""
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import ExtraTreesClassifier

    known = np.array(labels)
    if len(np.unique(known)) < 2:
        return DummyClassifier().fit(x, known)
    return ExtraTreesClassifier(100, random_state=0).fit(x, known)


def _copy_of_texts(texts: Sequence[str], labels: Sequence[str]) -> Any:
    from sklearn.dummy import DummyClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    known = np.array(labels)
    if len(np.unique(known)) < 2:
        return make_pipeline(TfidfVectorizer(), DummyClassifier()).fit(texts, known)
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=30.0, max_iter=200),
    )
    return model.fit(texts, known)


def agreement(
    inputs: Sequence[Any], labels: Sequence[str], held_out: Sequence[Any], expected: Sequence[str]
) -> float | None:
    """Share of held-out inputs on which a copy of the answers says what the victim says.

    Args:
        inputs: what was asked, all texts or all rows of one width.
        labels: what was answered.
        held_out: inputs that were not asked.
        expected: the victim's own answers to them.

    Returns:
        None without an answer: then there is no copy.
    """
    if not labels:
        return None
    if isinstance(held_out[0], str):
        said = _copy_of_texts(inputs, labels).predict(held_out)
    else:
        said = copy_of_rows(np.array(inputs, np.float64), labels).predict(
            np.array(held_out, np.float64)
        )
    return float(np.mean(said == np.array(expected)))
