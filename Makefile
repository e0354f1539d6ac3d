# `make` lists the targets. Everything happens inside .venv; pip's own environment variables apply.

PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= 2
RANDOM_CASES ?= 100000

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
CPP := $(wildcard setup.py src/batchnorm/kernels/cpu/*.cpp src/batchnorm/kernels/cpu/*.h)

.DEFAULT_GOAL := help
.PHONY: help setup study test test-all test-asan fuzz bench lint docs

help:       ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup:      ## make .venv with torch, the tools and this package (kernels built, if there is a C++ compiler)
setup: .venv/installed

.venv/torch:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing: the first time takes some minutes"
	$(BIN)/python -m pip install -qq "setuptools>=77" wheel "$(TORCH)"
	@touch $@

.venv/installed: .venv/torch pyproject.toml $(CPP)
	$(BIN)/python -m pip install -qq --no-build-isolation --editable ".[dev]"
	@touch $@

study:      ## train with and without batch normalization on real images; writes batchnorm-study/report.html
study: setup
	$(BIN)/batchnorm study

test:       ## run the tests (under 15 minutes on 2 cores)
test: setup browser
	$(PYTEST)

test-all:   ## run everything: the full product of cases, the sanitizers, a longer random search
test-all: RANDOM_CASES = 5000
test-all: setup browser test-asan fuzz
	$(PYTEST) --all

test-asan:  ## run the kernels' tests on a build with the address and undefined-behaviour sanitizers
test-asan: setup
	$(BIN)/python tools/asan.py

fuzz:       ## compare the kernels with the float64 reference on RANDOM_CASES random configurations
fuzz: setup
	$(BIN)/python tools/fuzz.py $(RANDOM_CASES)

bench:      ## time the layers against torch's; prints the table and draws the plot
bench: setup
	$(BIN)/python -m benchmarks

lint:       ## format check, linter, type checker, import contract
lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	PATH="$(CURDIR)/$(BIN):$$PATH" pyright --verifytypes batchnorm --ignoreexternal
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(filter-out setup.py,$(CPP))

docs:       ## build the documentation into site/, strictly
docs: setup
	$(BIN)/mkdocs build --strict

# The report is tested in a real browser. As root on a Debian machine it is installed; elsewhere that test is skipped.
.PHONY: browser
browser:
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium || true; fi >/dev/null 2>&1
