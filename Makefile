# Everything happens in .venv; delete it to start over. For a second interpreter beside it:
#     make test PYTHON=python3.13 VENV=.venv313
VENV ?= .venv
PYTHON ?= python3
# What is installed besides kdbench: names of extras in setup.cfg. Tests of a browser, of a notebook
# and of a Ray cluster are skipped without test-browser, test-notebook and ray.
EXTRAS ?= test
# The order of the tests. make prints it; the same number gives the same order.
SEED ?= $(shell date +%s)
STAMP := $(VENV)/.installed
VERSION = -c 'import sys; print(sys.version.split()[0])'

.PHONY: install interpreter demo test soak bench lint fix clean

install: $(STAMP)

# An interpreter that is asked for is the one that is used, or an error says why not.
interpreter:
ifneq ($(origin PYTHON),file)
	@asked=$$($(PYTHON) $(VERSION)) || exit 1; \
	there=$$($(VENV)/bin/python $(VERSION) 2>/dev/null || true); \
	if test -n "$$there" && test "$$there" != "$$asked"; then \
	    echo "$(VENV) has Python $$there, and PYTHON is $$asked." \
	        "Say VENV=another-folder too, or make clean first." >&2; exit 1; \
	fi
endif

$(STAMP): setup.cfg pyproject.toml constraints.txt | interpreter
	test -x $(VENV)/bin/pip || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "kdbench needs Python 3.11 or newer; name one: make PYTHON=..." >&2; exit 1; }
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

# A small pair first, for a verdict within minutes. Then the same at full size. Two workers of one
# thread take less time than one of two, and the number of cores changes no digit.
SMALL_DEMO := --attack lba --defense robustkd --pair wrn16_2-wrn16_1 --threads 1 --jobs 2
DEEP_DEMO := --attack lba --defense robustkd --pair pyramid200-pyramid110 --threads 1 --jobs 2

demo: install
	$(VENV)/bin/kdbench run $(SMALL_DEMO)
	@echo
	@echo "That was a small pair. Now comes the same with deep networks:"
	@echo "    $(VENV)/bin/kdbench run $(DEEP_DEMO)"
	@echo "Ctrl-C is safe: what is computed is kept, and the same command goes on from there."
	@$(VENV)/bin/kdbench plan $(DEEP_DEMO) | grep -E '^(estimate|no estimate|[0-9]+ in the store)' || true
	@echo
	$(VENV)/bin/kdbench run $(DEEP_DEMO)

test: install lint
	$(VENV)/bin/python -m pytest -q -n auto --dist worksteal --randomly-seed=$(SEED)

# The reliability tests in full: 50 kills, 300 damaged files, 10,000 cells, 215 hostile files, and
# ten machines of a cluster. About 50 minutes.
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
