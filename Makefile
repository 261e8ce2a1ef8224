# `make demo` and `make test` are the two commands to begin with; `make help` lists the others.

CARGO ?= cargo
PYTHON ?= python3
VENV := .venv
BIN := target/release/tidemill

# Extra arguments, such as `make crash ARGS="--seed 1234"` or `make bench-engine ARGS="--concurrency 200"`.
ARGS ?=

# Tests share the cores and the build folder; side by side they would only disturb each other.
.NOTPARALLEL:

.PHONY: help build demo test unit wire crash crash-short bench-engine check fmt clippy typos deny clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# The whole workspace at once, so that features resolve the same way here and in `unit`, and nothing
# that both need is compiled twice.
build: ## Build the release binary, target/release/tidemill
	$(CARGO) build --release --locked --workspace

demo: build $(VENV)/.ready ## Run a workflow, kill -9 the engine in the middle, restart, show the result
	scripts/demo.sh

test: build unit wire crash-short ## Everything that has to pass: Rust, real SDKs over the wire, crashes

unit: $(VENV)/.ready ## The Rust tests, the official Rust SDK's among them
	$(CARGO) test --release --locked --workspace

wire: build $(VENV)/.ready ## The official Python SDK and raw protocol calls against the binary
	$(VENV)/bin/pytest -q tests/wire $(ARGS)

crash-short: build $(VENV)/.ready ## 60 workflows, 6 kills of the engine, 2 of the worker
	$(VENV)/bin/pytest -q -s tests/crash

crash: build $(VENV)/.ready ## 200 workflows, 30 kills of the engine, 5 of the worker
	$(VENV)/bin/python tests/crash/crash.py --full $(ARGS)

# ADDRESS=HOST:PORT measures a server that already runs; SERVER_PID and METRICS_ADDRESS say where to read
# what it used.
bench-engine: build ## What a workflow of three activities costs; the last line is one JSON object
	target/release/tidemill-bench-engine --server $(BIN) $(ARGS)

check: fmt clippy typos ## Formatting, lints, spelling, and dependencies where cargo-deny is installed
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

clean: ## Remove what was built, the Python environment included
	$(CARGO) clean
	rm -rf $(VENV)

$(VENV)/.ready: tests/wire/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(VENV)/.checkers: $(VENV)/.ready
	$(VENV)/bin/pip install --quiet --disable-pip-version-check typos==1.52.0
	touch $@
