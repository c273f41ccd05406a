# The two commands: `make run` and `make test`. Both need only git, python3 (>= 3.11) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test test-fast test-failed test-all test-postgresql lint bench campaign fuzz chaos chaos-all nightly clean servers image-test
.PHONY: dashboards pictures sbom dist pins docs docs-generate

run: $(VENV)/.run  ## the monitor on embedded SQLite with config.yaml, else the example (or CONFIG=your.yaml)
	$(BIN)/mailwatch --config $(or $(CONFIG),$(wildcard config.yaml),config.example.yaml) run

# Without compiled modules each of the tests' processes would compile all of them again: half of what it costs to start.
export PYTHONDONTWRITEBYTECODE :=
# Most tests wait for servers: six at a time, on two processors. Which of them share a worker: tests/helpers/packing.py.
PYTEST := $(BIN)/pytest -n 6 --dist loadfile --no-loadscope-reorder
# What needs no more than this process: the marks are in tests/helpers/marks.py.
FAST := not (servers or e2e or slow or browser or fuzz or campaign or root or nightly)

test: $(VENV)/.dev servers lint  ## lint, types and the tests, on real servers
	$(PYTEST) -m "not nightly"

test-fast: $(VENV)/.dev  ## the tests that need no more than this process: under a minute
	MAILWATCH_TEST_FAST=1 $(BIN)/pytest -q -n 5 --dist worksteal -m "$(FAST)" tests/unit tests/integration

test-failed: $(VENV)/.dev  ## what failed last time
	$(BIN)/pytest -q --last-failed --last-failed-no-failures none

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.prose
	$(BIN)/codespell

bench: $(VENV)/.dev servers  ## ratios against peers, measured in one run
	$(BIN)/python -m benchmarks

campaign: $(VENV)/.dev  ## 500 simulated weeks of faults (or WEEKS=..., SEED=...); docs/explanation/campaign.md
	$(BIN)/python -m tests.campaign --weeks $(or $(WEEKS),500) --seed $(or $(SEED),20260105) --jobs 2
	$(BIN)/python -m tests.campaign --hub --weeks $(or $(WEEKS),500) --seed $(or $(SEED),20260105) --jobs 2

fuzz: $(VENV)/.dev  ## readers of strangers' bytes on changed inputs: 200,000 (or COUNT=..., SEED=...); docs/explanation/input.md
	$(BIN)/python -m tests.fuzz --count $(or $(COUNT),200000) $(if $(SEED),--seed $(SEED)) --jobs 2

chaos: $(VENV)/.dev servers  ## killed, starved, damaged, lied to (or ARGS="kills pages --seed 7"); docs/explanation/reliability.md
	$(BIN)/python -m tests.chaos $(ARGS)

chaos-all: $(VENV)/.dev servers  ## every case, and 214 kills
	$(BIN)/python -m tests.chaos --thorough --kills 214 --hours 3 --seed $(or $(SEED),1)

test-all: $(VENV)/.dev servers lint  ## also what `make test` has no time for
	MAILWATCH_MUTATIONS=20000 $(if $(SEED),MAILWATCH_TEST_SEED=$(SEED)) $(PYTEST)

test-postgresql: $(VENV)/.dev servers  ## the tests of the record again, with each ledger in PostgreSQL
	MAILWATCH_TEST_DATABASE=postgresql $(PYTEST) -m "not e2e and not fuzz" \
		tests/unit/store tests/unit/notify tests/unit/witness tests/integration/store tests/integration/evidence

# What is random has a seed of its own each night; `make nightly SEED=...` repeats one.
NIGHT := $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))
nightly:  ## everything; needs a Docker daemon
	@echo "seed $(NIGHT): make nightly SEED=$(NIGHT) repeats this night"
	$(MAKE) test-all test-postgresql campaign chaos-all bench image-test SEED=$(NIGHT)
	$(MAKE) fuzz COUNT=$(or $(COUNT),10000000) SEED=$(NIGHT)

image-test: $(VENV)/.dev  ## builds the image and tries it; needs a Docker daemon, so `make test` leaves it out
	$(BIN)/pytest -p no:cacheprovider tests/image.py

dashboards: $(VENV)/.dev  ## write grafana/dashboards and grafana/alerting anew
	$(BIN)/python -m grafana.generate

pictures: $(VENV)/.dev servers  ## draw the pictures of the report and the pages in docs/images/ anew
	$(BIN)/python -m tests.pictures

docs: build/venv-docs/.made  ## the documents as a site, in build/site; its tools have an environment of their own
	NO_MKDOCS_2_WARNING=1 build/venv-docs/bin/mkdocs build --strict --quiet
	$(PYTHON) -m tools.site build/site

docs-generate: $(VENV)/.dev  ## write the generated pages of docs/reference anew
	$(BIN)/python -m tools.generate

build/venv-docs/.made: requirements-docs.txt
	$(PYTHON) -m venv build/venv-docs
	build/venv-docs/bin/pip install --quiet --require-hashes --only-binary :all: -r requirements-docs.txt
	touch $@

servers:
	sh tests/install_servers.sh

# A virtual environment of the project's own; made anew when a pin changes.
$(VENV)/.run: requirements.txt requirements-build.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "MailWatch needs Python 3.11 or newer; try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV) || { echo "to fix it: apt-get install python3-venv"; exit 1; }
	@echo "installing what MailWatch needs into $(VENV), once: a minute or two"
	$(BIN)/pip install --quiet --require-hashes -r requirements-build.txt
	$(BIN)/pip install --quiet --require-hashes --no-build-isolation -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	@echo "installing what the tests need into $(VENV), once: a minute or two"
	$(BIN)/pip install --quiet --require-hashes --no-build-isolation -r requirements-dev.txt
	touch $@

pins:  ## write requirements*.txt anew from pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --strip-extras --no-header --upgrade --extra postgresql -o requirements.txt pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --strip-extras --allow-unsafe --no-header --upgrade --extra dev --extra postgresql -o requirements-dev.txt pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --strip-extras --allow-unsafe --no-header --upgrade -o requirements-build.txt requirements-build.in
	$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --strip-extras --allow-unsafe --no-header --upgrade -o requirements-docs.txt requirements-docs.in

sbom: $(VENV)/.run  ## the bill of materials (CycloneDX), on stdout; the image has its own in /opt/mailwatch/share
	@$(BIN)/python -m supply.sbom

dist: $(VENV)/.dev  ## sdist and wheel in dist/, built with the pinned tools
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist

clean:
	rm -rf dist $(VENV) .mypy_cache .ruff_cache .pytest_cache
