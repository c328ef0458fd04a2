# Everything a newcomer needs: `make demo`, `make test`, `make lint`, `make docs`. Each makes .venv first, with what it needs.
PYTHON ?= python3
BIN := .venv/bin
# Processes that share the tests.
WORKERS ?= 2
# auto: the system's torch if it is new enough, else PyPI's; new: always PyPI's; cpu: without CUDA; or an index of wheels.
TORCH ?= auto

.PHONY: demo test lint install slow browser docs docs-serve notebooks wheel clean

demo: install
	$(BIN)/vldistill demo --run runs/demo

test: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

slow: .venv/dev
	$(BIN)/python -m pytest -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

# The site, in site/: without a network, and a warning is a failure.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: .venv/docs
	$(BIN)/mkdocs serve

# The tutorials, run again with what they print: docs/tutorials/*.ipynb from the *.py beside them.
notebooks: .venv/notebooks
	$(BIN)/python scripts/notebooks.py $(NAMES)

# What a release uploads, in dist/, with its metadata checked (RELEASING.md).
wheel: .venv/dev
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# The report's tests drive a real browser; without one they are skipped. On Debian and its kin, as root.
browser:
	command -v chromium >/dev/null && command -v chromedriver >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; }

install: .venv/package

.venv/package: pyproject.toml
	$(PYTHON) scripts/make_venv.py --torch '$(TORCH)'
	touch $@

.venv/dev .venv/docs .venv/notebooks: pyproject.toml
	$(PYTHON) scripts/make_venv.py --torch '$(TORCH)' --extra $(@F)
	touch $@ .venv/package

clean:
	rm -rf .venv runs site dist
