# make demo   from a fresh clone to a mesh: environment, training on the bundled Armadillo, extraction, evaluation
# make test   the tests that CI runs; `make test-slow` the long ones
# make docs   the documentation as a site in build/site; a broken link ends it
VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/python
export PYTHON

.PHONY: demo test test-slow lint docs setup clean

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

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build
	@echo "build/site/index.html: the documentation"

clean:
	rm -rf $(VENV) outputs build/site
