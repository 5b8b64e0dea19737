"""The settings on docs/policy.md are settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detector.configuration import load

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["stages", "limits"])
def test_an_example_is_read_without_a_complaint(example: str, tmp_path: Path) -> None:
    file = tmp_path / "velvetrope.toml"
    file.write_text(example)
    policy = load(file).settings.policy
    assert policy.stage.share == 0.1 or [limit.name for limit in policy.limits] == [
        "plan",
        "plan",
        "logprobs",
    ]
