# The two commands: `make train ARGS="schedule=exp eta=0.0"` and `make test`. Each makes .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
# Two workers, and files in the order of tests/conftest.py
TWO := -n 2 --dist loadfile --no-loadscope-reorder

train: .venv/installed
	$(BIN)/python train.py $(ARGS)

# The first tier: what starts no command.
test: .venv/installed
	$(BIN)/python -m pytest $(TWO) --ignore tests/commands $(ARGS)

# Both tiers.
test-all: .venv/installed
	$(BIN)/python -m pytest $(TWO) $(ARGS)

# The third tier.
attack: .venv/installed
	$(BIN)/python -m pytest -m attack $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# The site of the docs, in site/; a broken link fails it.
docs: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing into .venv (once; a few minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: train test test-all attack lint docs
