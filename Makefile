# `make train` and `make test` need nothing but Python, make, git and a package index.
PYTHON ?= python3
EXTRAS ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
empty :=
comma := ,
WANTED := dev$(if $(EXTRAS),$(comma)$(EXTRAS))
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(WANTED))

.PHONY: train test test-faults check format ui clean

train: $(STAMP)
	$(BIN)/python -m recipe_exp $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses logical $(ARGS)

test-faults: $(STAMP)
	$(BIN)/python -m pytest --numprocesses logical -m "" tests/faults $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses logical -m "not long and not faults_full" $(ARGS)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ui: $(STAMP)
	$(BIN)/python -m recipe_exp task=ui $(ARGS)

clean:
	rm -rf $(VENV)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one with PYTHON=..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(WANTED)]'
	touch $@
