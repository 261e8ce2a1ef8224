# `make demo` and `make test` are the two commands to begin with; `make help` lists the others.

CARGO ?= cargo
PYTHON ?= python3
# The one for MLServer, which takes none newer than 3.12.
OIP_PYTHON ?= $(PYTHON)
VENV := .venv
OIP_VENV := .venv-oip
BIN := target/release/tidemill
BENCH = target/release/tidemill-bench-engine --server $(BIN)
MODEL := .models/all-MiniLM-L6-v2

# Extra arguments, such as `make crash ARGS="--seed 1234"` or `make bench-engine ARGS="--concurrency 200"`.
ARGS ?=

# The shim is for Linux.
DISK := $(if $(filter Linux,$(shell uname)),disk)

# Tests share the cores and the build folder; side by side they would only disturb each other.
.NOTPARALLEL:

.PHONY: help build demo demo-engine test unit wire pipelines pipelines-apart pipelines-full python pyright crash crash-short crash-long disk power damage soak fuzz bench bench-engine bench-open bench-closed bench-limits bench-idle bench-payload bench-pipeline bench-accelerator bench-documents sim check lint fmt clippy typos deny clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# The whole workspace at once, so that features resolve the same way here and in `unit`, and nothing
# that both need is compiled twice.
build: ## Build the release binary, target/release/tidemill
	$(CARGO) build --release --locked --workspace

demo: build $(MODEL)/.ready ## Embed a folder of documents, kill -9 in the middle, go on, search
	scripts/demo.sh

demo-engine: build $(VENV)/.ready ## Run a workflow, kill -9 the engine in the middle, restart, show the result
	scripts/demo-engine.sh

test: build unit wire pipelines pipelines-apart python crash-short $(DISK) ## Everything that has to pass: Rust, real SDKs over the wire, the Python package, crashes

# No documentation has code to run: rustdoc would read every crate for nothing.
unit: $(VENV)/.ready $(OIP_VENV)/.ready $(MODEL)/.ready ## The Rust tests, the official Rust SDK's among them
	$(CARGO) test --release --locked --workspace --tests

wire: build $(VENV)/.ready ## The official Python SDK and raw protocol calls against the binary
	$(VENV)/bin/pytest -q tests/wire $(ARGS)

pipelines: build $(VENV)/.python ## The examples and the commands from end to end, kill -9 included
	$(VENV)/bin/pytest -q -p no:xdist tests/pipelines $(ARGS)

# Those to which it makes a difference, with engine and worker as processes apart; TIDEMILL_TEST_ENGINE=HOST:PORT runs `pipelines`
# against an engine that runs already, Tidemill's or a Temporal server.
pipelines-apart: build $(VENV)/.python ## Those of it that differ with engine and worker apart
	$(VENV)/bin/pytest -q -p no:xdist tests/pipelines --mode apart $(ARGS)

pipelines-full: build $(VENV)/.python ## 20 kills, 100,000 items, 10,000 waiting runs, 142,000 items under a limit
	$(VENV)/bin/pytest -q -s -p no:xdist --full --mode apart tests/pipelines/test_kills.py tests/pipelines/test_items.py \
		tests/pipelines/test_waiting.py tests/pipelines/test_limits.py $(ARGS)

python: build $(VENV)/.python ## The Python package: ruff, its tests against the binary
	cd python && ../$(VENV)/bin/ruff check . ../examples/python-batch ../examples/python-stage
	cd python && ../$(VENV)/bin/ruff format --check . ../examples/python-batch ../examples/python-stage
	cd python && ../$(VENV)/bin/pytest -q $(ARGS)

crash-short: build $(VENV)/.ready ## 60 workflows, 6 kills of the engine, 2 of the worker
	$(VENV)/bin/pytest -q -s tests/crash

crash: build $(VENV)/.ready ## 200 workflows, 30 kills of the engine, 5 of the worker
	$(VENV)/bin/python tests/crash/crash.py --full $(ARGS)

sim: ## The engine in a simulated world, seed after seed until stopped; ARGS="--seed 7" repeats one, --shrink cuts it down
	$(CARGO) run --release --locked -p tidemill-sim -- $(ARGS)

# Large values beside the load, so that kills fall into writing the tables and the data file; and backups.
crash-long: build $(VENV)/.ready ## 1,000 kills of the engine in ten rounds, into backups too; some 25 minutes
	$(VENV)/bin/python tests/crash/crash.py --kills 1000 $(ARGS)

disk: build $(VENV)/.ready ## Ten power cuts, flushes that fail, a disk that is full, read-only or broken for a while, and changed bytes
	$(VENV)/bin/pytest -q -p no:xdist tests/disk
	$(VENV)/bin/pytest -q -p no:xdist tests/soak

# ARGS="--lie log-" is a disk that forgets syncs of the log: that must fail.
power: build $(VENV)/.ready ## 300 power cuts of an engine under load; ARGS="--cuts 1000 --seconds 60"
	PYTHONPATH=tests/crash:tests/wire $(VENV)/bin/python tests/disk/power.py --cuts 300 --seconds 30 $(ARGS)

damage: build $(VENV)/.ready ## Flips bytes in data files and logs: none may be served; who notices, and when? ARGS="--flips 1000"
	PYTHONPATH=tests/crash:tests/wire $(VENV)/bin/python tests/disk/damage.py --flips 400 $(ARGS)

soak: build $(VENV)/.ready ## Constant load with retention on, SECONDS=1800: memory, file and latency stay
	PYTHONPATH=tests/crash:tests/wire $(VENV)/bin/python tests/soak/soak.py --seconds $(or $(SECONDS),1800) $(ARGS)

# Needs a nightly compiler and cargo-fuzz (`cargo install --locked cargo-fuzz`). What is found lies in
# fuzz/artifacts; what led to new code stays in fuzz/corpus, which is nobody's but yours.
FUZZ_TARGETS ?= $(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs))

fuzz: ## Every fuzz target for a minute: make fuzz SECONDS=600 FUZZ_TARGETS=filters
	$(CARGO) +nightly fuzz build --sanitizer none
	for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/corpus/$$target && \
		$(CARGO) +nightly fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(or $(SECONDS),60) -max_len=4096 -timeout=60 -rss_limit_mb=4096 || exit 1; \
	done

# ADDRESS=HOST:PORT measures a server that already runs; SERVER_PID and METRICS_ADDRESS say where to read
# what it used.
bench-engine: build ## What a workflow of three activities costs; the last line is one JSON object
	$(BENCH) $(ARGS)

# The full sizes take about an hour and some 5 GB of disk; ARGS="--percent 2" takes a minute or two.
bench: build ## All parts below on engines of their own, one table; the last line is one JSON object
	$(BENCH) all $(ARGS)

bench-open: build ## A million runs on a timer: memory, starts, restart, dispatch; ARGS="--runs 20000"
	$(BENCH) open $(ARGS)

bench-closed: build ## A million closed runs: dispatch beside them, lists, counts; ARGS="--runs 20000"
	$(BENCH) closed $(ARGS)

bench-limits: build ## One run of 50,000 events, 2,000 activities, 10,000 signals; ARGS="--events 10000"
	$(BENCH) limits $(ARGS)

bench-idle: build ## Start, memory and wake-ups of an engine that nobody uses; ARGS="--watch-s 30"
	$(BENCH) idle $(ARGS)

bench-payload: build ## Activities with results of a megabyte; ARGS="--workflows 50"
	$(BENCH) payload $(ARGS)

# Overhead of pipelines: engine, interpreter and worker together, with an embedder that costs nothing.
bench-pipeline: build ## 100,000 rows through load, split, embed, upsert; the last line is one JSON object
	$(PYTHON) bench/pipeline/bench.py $(ARGS)

# Starts runs with Temporal's client, which the environment of the tests has.
bench-accelerator: build $(VENV)/.ready ## How busy a (simulated) accelerator is kept; the last line is one JSON object
	$(VENV)/bin/python bench/accelerator/bench.py $(ARGS)

# SOURCE is a folder of HTML, or Debian's package postgresql-doc-15, which is its measure.
bench-documents: build ## Real pages into an index, SOURCE=...; the last line is one JSON object
	$(PYTHON) bench/documents/bench.py $(SOURCE) $(ARGS)

# Fetches its own program from npm's registry on the first run: not part of `test`.
pyright: $(VENV)/.python ## Types of the Python package
	cd python && ../$(VENV)/bin/pyright --pythonpath ../$(VENV)/bin/python

lint: fmt typos clippy ## Formatting, spelling, lints

check: lint pyright ## All that, types of the Python package, and dependencies where cargo-deny is installed
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check; \
	else echo "cargo-deny is not installed: dependencies not checked (make deny installs it)"; fi

fmt:
	$(CARGO) fmt --all --check

# The release profile shares build scripts and macros with `build`.
clippy:
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

typos: $(VENV)/.checkers
	$(VENV)/bin/typos

# Compiles cargo-deny when it is missing, which takes minutes: not part of `check`.
deny: ## Licences, advisories, sources and bans of the dependency tree
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check

clean: ## Remove what was built, the Python environments included
	$(CARGO) clean
	rm -rf $(VENV) $(OIP_VENV)

$(VENV)/.ready: tests/wire/requirements.txt tests/servers/requirements.txt tests/pipelines/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check $(patsubst %,-r %,$^)
	touch $@

# MLServer takes 330 MB, and an older protobuf than the other servers.
$(OIP_VENV)/.ready: tests/servers/oip-requirements.txt
	@$(OIP_PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || { \
		echo "MLServer, which tests of the Open Inference Protocol need, takes Python 3.10 to 3.12, and" \
			"$(OIP_PYTHON) is none of them: name one with make OIP_PYTHON=python3.12" >&2; exit 1; }
	rm -rf $(OIP_VENV)
	$(OIP_PYTHON) -m venv $(OIP_VENV)
	$(OIP_VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

# Some 90 MB, once. Tests look for it here, or where TIDEMILL_TEST_MODEL says.
$(MODEL)/.ready: scripts/fetch_model.py | $(VENV)/.ready
	$(VENV)/bin/python $< $(MODEL)
	touch $@

$(VENV)/.python: $(VENV)/.ready python/requirements-dev.txt python/pyproject.toml
	cd python && ../$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(VENV)/.checkers: $(VENV)/.ready
	$(VENV)/bin/pip install --quiet --disable-pip-version-check typos==1.52.0
	touch $@
