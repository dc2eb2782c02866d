# Two commands for people: `make demo` and `make test`. VENV, PYTHON and PIP_ARGS may be set.
VENV ?= .venv
RUN ?= runs/quickstart
TESTS ?= tests
ACTIVE = $(VENV)/bin

.PHONY: demo test install install-test lint clean

demo: install
	@if [ -e $(RUN) ]; then kept=$(RUN)-$$(date -r $(RUN) +%Y%m%d-%H%M%S); mv $(RUN) $$kept; echo "The earlier run is kept as $$kept"; fi
	$(ACTIVE)/ttq-energy profile quickstart --out $(RUN)

test: install-test lint
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(ACTIVE)/pytest -n 2 $(TESTS)

lint: install-test
	$(ACTIVE)/ruff check .
	$(ACTIVE)/ruff format --check .
	$(ACTIVE)/mypy

install:
	@scripts/install $(VENV)

install-test:
	@scripts/install $(VENV) '[test]'

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
