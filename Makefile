# make demo   from a fresh clone to a mesh: environment, training on the bundled Armadillo, extraction, evaluation
# make test   the tests that CI runs; `make test-slow` the long ones
VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/python
export PYTHON

.PHONY: demo test test-slow lint setup clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml scripts/setup.sh
	@bash scripts/setup.sh $(VENV)
	@touch $@

demo: setup
	@$(RUN) scripts/demo.py

test: setup
	@$(RUN) -m pytest -m "not slow"

test-slow: setup
	@$(RUN) -m pytest -m slow

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

clean:
	rm -rf $(VENV) outputs
