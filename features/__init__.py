"""Feature families: numbers of a block, one file a family. They know nothing of the rest."""

from __future__ import annotations

from typing import Final

from features.base import Family
from features.clustering import Clustering
from features.coverage import Coverage
from features.drift import Drift
from features.elicitation import Elicitation
from features.entropy import Entropy
from features.timing import Timing

__all__ = ["FAMILIES", "NAMES", "TEXTS"]

FAMILIES: Final[tuple[Family, ...]] = (
    Timing(),
    Entropy(),
    Coverage(),
    Drift(),
    Elicitation(),
    Clustering(),
)
# Column names of `Block.features`, in order, and what each says.
NAMES: Final[tuple[str, ...]] = tuple(
    f"{family.name}.{feature.name}" for family in FAMILIES for feature in family.features
)
TEXTS: Final[dict[str, str]] = {
    f"{family.name}.{feature.name}": feature.text
    for family in FAMILIES
    for feature in family.features
}
