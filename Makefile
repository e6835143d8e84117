# Seven words; each is one command and sets up what it needs. Only python3 and make are presumed.
.PHONY: run test check bench stress fuzz clean

PYTHON ?= python3
export PYTHON

# How long `make fuzz` takes, all targets together.
FUZZ_SECONDS ?= 600

run: .venv/.run-stamp
	.venv/bin/mini-agent run

test: .venv/.dev-stamp
	.venv/bin/pytest

check: .venv/.dev-stamp
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/mypy --platform win32
	.venv/bin/mypy --platform darwin

stress: .venv/.dev-stamp
	.venv/bin/python tests/stress/run.py

fuzz: .venv/.fuzz-stamp
	.venv/bin/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

bench: .venv/.dev-stamp
	.venv/bin/python bench/run.py

clean:
	rm -rf .venv build dist src/*.egg-info tests/kit/node*/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/.run-stamp: pyproject.toml scripts/make-venv
	scripts/make-venv
	@touch $@

.venv/.dev-stamp: pyproject.toml scripts/make-venv
	scripts/make-venv dev
	@touch $@ .venv/.run-stamp

.venv/.fuzz-stamp: pyproject.toml scripts/make-venv
	scripts/make-venv dev,fuzz
	@touch $@ .venv/.dev-stamp .venv/.run-stamp
