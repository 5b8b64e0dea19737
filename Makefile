# make run              a campaign caught on a made-up API (the first run installs and compiles)
# make run LOGS=my.jsonl FORMAT=nginx
#                       the same on your own log (native, nginx, litellm or envoy)
# make test             everything CI runs; installs what it needs
# make check            the linters and type checker alone

UV := deploy/uv.sh
RUN := $(UV) run --frozen
LOGS ?=
FORMAT ?= native

.PHONY: run test check setup

run:
	@$(UV) sync --frozen --no-dev --inexact
	@$(UV) run --frozen --no-sync velvetrope demo $(if $(LOGS),$(LOGS) --format $(FORMAT))

test: setup check
	$(RUN) pytest

check:
	@$(UV) sync --frozen --quiet
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

setup:
	@$(UV) sync --frozen --quiet
	@tests/setup.sh
