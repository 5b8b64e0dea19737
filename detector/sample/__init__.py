"""A made-up but lifelike API: its customers, its days, and a campaign that harvests its models.

Everything follows from a seed. Words and grammars are the project's own, in `text/`.
"""

from __future__ import annotations

from detector.sample.day import FIRST_DAY, Sample

__all__ = ["FIRST_DAY", "Sample"]
