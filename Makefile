# Everything happens in .venv; delete it to start over.
VENV := .venv
PYTHON ?= python3
STAMP := $(VENV)/.installed

.PHONY: install demo test soak bench lint fix clean

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

demo: install
	$(VENV)/bin/kdbench run --attack lba --defense robustkd --pair pyramid200-pyramid110

test: install lint
	$(VENV)/bin/python -m pytest -q -n auto --dist loadfile

# The reliability tests in full: 50 kills, 300 damaged files, 10,000 cells, 215 hostile files.
# About 35 minutes.
soak: install
	KDBENCH_SOAK=1 $(VENV)/bin/python -m pytest -q -s --durations=30 tests/bench tests/untrusted tests/hostile tests/fuzz

# Images a second, against the loop that the field's scripts have. About 10 minutes on two cores.
bench: install
	$(VENV)/bin/python benchmarks/speed.py

lint: install
	$(VENV)/bin/ruff check kdbench plugins tests benchmarks docs
	$(VENV)/bin/ruff format --check kdbench plugins tests benchmarks docs
	$(VENV)/bin/mypy

fix: install
	$(VENV)/bin/ruff check --fix kdbench plugins tests benchmarks docs
	$(VENV)/bin/ruff format kdbench plugins tests benchmarks docs

clean:
	rm -rf $(VENV) build *.egg-info
