# Every target does its own set-up, once. A machine needs Python 3.11 or newer, make and a C library.
#
#   make demo    from nothing to a finished training job on loopback
#   make test    from nothing to green tests
#   make check   what CI runs: lint, tests, published interfaces
#   make tck     the Dataspace Protocol's conformance kit, on both databases (needs Java 17 or newer, and Maven)
#   make bench   printed tables of what things cost
#   make sim-failures   rounds while nodes die, beside published strategies (six minutes; ARGS=--quick: one)
#   make bench-secagg   secure sums beside Flower's SecAgg+ (eight minutes; ARGS=--quick: two)
#
# PYTHON=python3.12       another interpreter          TORCH_INDEX=URL   a package index with a smaller build of torch
# EXTRAS=pg,test          fewer parts (no learning)    ARGS="-k consent" passed on to pytest, demo, tck or bench
# KIT_LIB=folder          jars of another kit version  DB=sqlite         the kit on this database only

SHELL := /bin/sh
PYTHON ?= python3
EXTRAS ?= learning,pg,demo,test
TORCH_INDEX ?=
ARGS ?=
DB ?=

comma := ,
VENV := .venv
BIN := $(VENV)/bin
KEY := $(shell cat constraints.txt pyproject.toml | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.orchard-$(KEY)-$(subst $(comma),-,$(EXTRAS))

# The kit's jars, resolved once per version of its pom.
KIT_POM := tests/conformance/dsp/pom.xml
KIT_CACHE := .cache/dsp-kit-$(shell cksum < $(KIT_POM) | cut -d' ' -f1)
KIT_LIB ?= $(KIT_CACHE)

# Flower, to compare with, in an environment of its own.
FLOWER := flwr==1.41.*
FLOWER_VENV := .cache/flower-venv

TORCH := $(shell sed -n 's/.*"\(torch==[0-9.]*\)".*/\1/p' pyproject.toml)

export OMP_NUM_THREADS := 1

.PHONY: help setup system java demo test lint check openapi tck bench bench-secagg sim-failures clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -13

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Orchard needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "Python has no venv module; on Debian: apt-get install -y python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV), once: about 140 packages from your package index, 0.3 GB."
ifneq (,$(findstring learning,$(EXTRAS)))
ifeq (,$(TORCH_INDEX))
	@echo "Training needs $(TORCH); the default build brings GPU libraries, 2.7 GB more."
	@echo "Without a GPU, name an index with a CPU build: make TORCH_INDEX=URL $(MAKECMDGOALS)"
else
	$(BIN)/python -m pip install --quiet --no-deps --index-url $(TORCH_INDEX) $(TORCH)
endif
endif
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@rm -f $(VENV)/.orchard-*
	@touch $@

# Debian's packages that the tests run against: PostgreSQL, and what shuts in a training step.
system:
	@missing=; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 || missing="postgresql"; \
	ls /usr/lib/*/libseccomp.so.2 /lib/*/libseccomp.so.2 >/dev/null 2>&1 || missing="$$missing libseccomp2"; \
	command -v bwrap >/dev/null 2>&1 || missing="$$missing bubblewrap"; \
	test -z "$$missing" && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "Installing for the tests:$$missing"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	else \
	  echo "The tests need more; run as root: apt-get install -y --no-install-recommends $$missing" >&2; \
	fi

demo: setup
	$(BIN)/orchard demo $(ARGS)

# Two processes side by side; then, one after the other, what fills the machine by itself (the marker ``alone``).
test: setup system
ifeq (,$(ARGS))
	$(BIN)/pytest -n 2 --dist worksteal -m "not alone"
	$(BIN)/pytest -m alone tests/e2e
else
	$(BIN)/pytest $(ARGS)
endif

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test
	$(BIN)/orchard openapi --check

openapi: setup
	$(BIN)/orchard openapi

# What the kit runs on. Maven is only asked for where its jars must still be resolved.
java:
	@missing=; \
	java --list-modules 2>/dev/null | grep -q '^jdk.compiler' || missing="default-jdk-headless"; \
	test -n "$(wildcard $(KIT_LIB)/*.jar)" || command -v mvn >/dev/null 2>&1 || missing="$$missing maven"; \
	test -z "$$missing" && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "Installing for the kit: $$missing"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	else \
	  echo "The kit needs more; run as root: apt-get install -y --no-install-recommends $$missing" >&2; exit 1; \
	fi

# Moved into place when complete: an interrupted download must not pass for the kit.
$(KIT_CACHE): | java
	@echo "Resolving the kit from Maven Central, once: 50 jars, 21 MB."
	@rm -rf $@ $@.part
	mvn -B -q -f $(KIT_POM) dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$@.part
	@mv $@.part $@

tck: setup system java $(filter $(KIT_CACHE),$(KIT_LIB))
	$(BIN)/python -m tests.conformance.dsp --kit $(KIT_LIB) $(if $(DB),--db $(DB)) $(ARGS)

bench: setup system
	$(BIN)/python -m tests.benchmarks $(ARGS)

$(FLOWER_VENV)/.ready:
	@echo "Installing $(FLOWER) in $(FLOWER_VENV), once: about 50 packages from your package index, 0.3 GB; no torch."
	@rm -rf $(FLOWER_VENV)
	@$(PYTHON) -m venv $(FLOWER_VENV)
	$(FLOWER_VENV)/bin/python -m pip install --quiet '$(FLOWER)' numpy
	@touch $@

bench-secagg: setup $(FLOWER_VENV)/.ready
	$(BIN)/python -m tests.benchmarks.bench_secagg $(ARGS)

sim-failures: setup
	$(BIN)/python -m tests.benchmarks.sim_failures $(ARGS)

clean:
	rm -rf $(VENV) build dist demo-out test-artefacts .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
