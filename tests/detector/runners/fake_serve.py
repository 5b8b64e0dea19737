"""`serve` with a pipeline that decides by counting, as a process that tests can kill.

Usage: python -m tests.detector.runners.fake_serve STATE LOG… [--once]
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from detector.runners.serve import CannotServe, Service
from detector.settings import ServeSettings, Settings
from responders.settings import ApiSettings
from tests.detector.runners.fakes import FakePipeline


def main(state: str, *arguments: str) -> None:
    logging.basicConfig(level=logging.INFO)
    settings = Settings(
        serve=ServeSettings(state=Path(state), checkpoint_every_s=0.05, poll_every_s=0.02),
        api=ApiSettings(port=0),
    )
    service = Service(
        settings,
        FakePipeline,  # type: ignore[arg-type]
        files=[Path(argument) for argument in arguments if argument != "--once"],
        once="--once" in arguments,
    )
    try:
        service.run(lambda url: print(url, flush=True))  # noqa: T201
    except CannotServe as error:
        sys.exit(f"velvetrope: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
