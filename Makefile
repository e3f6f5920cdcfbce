# make demo   from a fresh clone to a mesh: environment, training on the bundled Armadillo, extraction, evaluation
# make test   the tests that CI runs; `make test-slow` the long ones
# make docs   the documentation as a site in build/site; a broken link ends it
# make oldest the tests without nerfstudio on the oldest versions that pyproject.toml allows (Python 3.10 or 3.11)
# make lock   writes requirements/development.txt from the environment; `make audit` looks it up among vulnerabilities
VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/python
OLDEST ?= build/oldest
export PYTHON

.PHONY: demo test test-slow lint docs oldest lock audit setup clean

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

oldest: $(OLDEST)/.installed
	@PYTHONPATH=$(CURDIR) NUMBA_CACHE_DIR=$(abspath $(OLDEST))/numba $(OLDEST)/bin/python -m pytest -m "not slow" \
		tests/sdf_tools $(addprefix tests/sasnet_ns/,kernels networks analysis training shapes fitting)

$(OLDEST)/.installed: pyproject.toml requirements/oldest.txt
	@$(PYTHON) -m venv $(OLDEST)
	@$(OLDEST)/bin/python -m pip install --quiet --prefer-binary -c requirements/oldest.txt \
		-e '.[fast,safetensors,scans,video,viewer,volumes,datasets]' \
		torchvision opencv-python-headless hypothesis pytest pytest-timeout
	@touch $@

lock: setup
	@PYTHONPATH=$(CURDIR) $(RUN) scripts/lock.py requirements/development.txt

audit: setup
	@$(RUN) scripts/audit.py

clean:
	rm -rf $(VENV) outputs build/site
