"""`python -m detector.cli`: the same as `velvetrope`."""

from detector.cli import main

main()
