# Two commands matter: `make book` and `make test`. Both make .venv on their first run.
PYTHON ?= python3
VENV   ?= .venv
EXTRAS := book,lab,monitor,export,test,dev
# `make CONSTRAINTS=` installs the newest versions instead of the tested ones.
CONSTRAINTS ?= constraints.txt
BIN    := $(VENV)/bin
# Written last, so an interrupted install leaves none; older than pyproject.toml or the constraints means "install again".
STAMP  := $(VENV)/.installed
SITE   := book/_build/html/index.html
PROCESSES := -n auto --maxprocesses 4

# PyTorch's threads sleep while they wait for each other: a third of the time or less on a busy machine, a fifth more on a quiet one.
export OMP_WAIT_POLICY ?= passive

.PHONY: help install book test test-all lab publish-config accessibility pdf clean distclean
.DELETE_ON_ERROR:

help:
	@echo "make book       build the book: executes every notebook, fails on any warning"
	@echo "make test       lint, types, unit tests, then every notebook as a test"
	@echo "make test-all   the same, and the tests that take minutes; goes on where it was stopped"
	@echo "make lab        open a copy of the chapters, yours to change, in JupyterLab"
	@echo "make pdf        print the built book into book/_build/book.pdf (needs Chromium)"
	@echo "make publish-config REPOSITORY=https://github.com/owner/name [BRANCH=main]"
	@echo "                write the repository's address into the book; commit what changed"
	@echo "make accessibility AXE=package/axe.min.js"
	@echo "                look for barriers in the built book (npm pack axe-core; needs Chromium)"
	@echo "make install    only make the environment, in $(VENV)"
	@echo "make clean      remove what was built"
	@echo "make distclean  remove what was built, and $(VENV)"
	@echo
	@echo "PYTHON=python3.12 make book   picks the Python that the environment is made with."

install: $(STAMP)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "$(PYTHON) is Python %d.%d; this project needs 3.11 or newer. Name one: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(addprefix -c ,$(CONSTRAINTS)) -e '.[$(EXTRAS)]'
	@touch $@

# --all: Sphinx would otherwise keep the output of unchanged notebooks after the package was edited.
book: $(STAMP)
	$(BIN)/jupyter-book build --all -W -n --keep-going book
	@echo
	@echo "The book is built. Open it in a browser:"
	@echo "  $(CURDIR)/$(SITE)"

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests -m 'not slow' $(PROCESSES) --dist loadfile
	OMP_NUM_THREADS=1 $(BIN)/pytest --nbmake book $(PROCESSES)

# What takes longer: each chapter alone beside the wheel, chapters in JupyterLab, complete runs of commands, kills.
# One file after the other; those that passed with the same sources and versions are left out when started again.
# -rP shows what they measured.
SLOW = $(shell grep -rl --include='test_*.py' 'mark[.]slow' tests | sort)
test-all: test
	@state=$$({ git rev-parse HEAD; git diff HEAD; git ls-files -zo --exclude-standard | xargs -0 cat; \
	  $(BIN)/python -m pip freeze --all; } 2>&1 | git hash-object --stdin) && \
	mkdir -p build/passed && for file in $(SLOW); do \
	  stamp=build/passed/$$state-$$(echo $$file | tr / -); \
	  if [ -e $$stamp ]; then echo "$$file passed before"; continue; fi; \
	  $(BIN)/pytest $$file -m slow -rP && touch $$stamp || exit 1; \
	done

# A copy in lab/, which git ignores: whatever is tried there, the book stays as it is.
lab: $(STAMP)
	@$(BIN)/python book/_ext/plain_edition.py lab --working-copy
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/jupyter lab --notebook-dir=lab

# Any Python will do. An empty address takes it out again, but only if it was meant.
publish-config:
	@$(if $(filter undefined,$(origin REPOSITORY)),echo "Give the address: make $@ REPOSITORY=https://github.com/owner/name" >&2; exit 2)
	@$(PYTHON) tools/publish_config.py '$(REPOSITORY)' --branch '$(or $(BRANCH),main)'

accessibility: $(STAMP)
	@$(BIN)/python tools/check_accessibility.py --axe '$(AXE)'

pdf: $(STAMP)
	@$(BIN)/python tools/make_pdf.py

clean:
	rm -rf book/_build build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find book resnet_tutorial tests \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
