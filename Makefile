# Seven words; each is one command and sets up what it needs. Only python3 and make are presumed.
.PHONY: run test check bench stress fuzz clean

PYTHON ?= python3
export PYTHON

# `make test TWIN=plain` passes over the compiled modules, if there are any.
TWIN ?= compiled
ifeq ($(TWIN),plain)
# A real Windows Python runs the plain twin anyway.
PYTEST_ARGUMENTS := --ignore=tests/windows
test: export MINI_AGENT_PLAIN = 1
endif

# How long `make fuzz` takes, all targets together.
FUZZ_SECONDS ?= 600

# What is compiled where there is a compiler; see setup.py.
COMPILED := $(shell find src -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi')
COMPILED += $(patsubst %.pxd,%.py,$(filter %.pxd,$(COMPILED)))

run: .venv/.run-stamp
	.venv/bin/mini-agent run

test: .venv/.built-stamp
	.venv/bin/pytest $(PYTEST_ARGUMENTS)

check: .venv/.dev-stamp
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/mypy --platform win32
	.venv/bin/mypy --platform darwin

stress: .venv/.built-stamp
	.venv/bin/python tests/stress/run.py

fuzz: .venv/.fuzz-stamp .venv/.built-stamp
	.venv/bin/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

bench: .venv/.built-stamp
	.venv/bin/python bench/run.py

clean:
	rm -rf .venv build dist src/*.egg-info tests/kit/node*/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src -name '*.so' -delete

.venv/.run-stamp: pyproject.toml setup.py scripts/make-venv $(wildcard $(COMPILED))
	scripts/make-venv
	@touch $@

.venv/.dev-stamp: pyproject.toml scripts/make-venv
	MINI_AGENT_EXTENSIONS=disable scripts/make-venv dev
	@touch $@

.venv/.fuzz-stamp: pyproject.toml scripts/make-venv
	MINI_AGENT_EXTENSIONS=disable scripts/make-venv dev,fuzz
	@touch $@ .venv/.dev-stamp

.venv/.built-stamp: .venv/.dev-stamp setup.py $(wildcard $(COMPILED))
	.venv/bin/python setup.py -q build_ext --inplace
	@touch $@ .venv/.run-stamp
