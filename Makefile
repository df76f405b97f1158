# Every target works as the first command in a fresh checkout: what it needs is set up on the way.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GEN := .venv-protos
RIVALS := .venv-bench
DEPLOY := .venv-deploy
SITE := .venv-docs
BENCH = PYTHONPATH=benchmarks:tests $(BIN)/python -m reward_bench
PROTOS := $(sort $(wildcard protos/rewardservice/v1/*.proto))
STUBS := clients/python
GOOGLEAPIS := .build/googleapis

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "RewardService needs Python 3.11 or newer; say which with: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "Setting up the environment (about a minute, once)…"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(GEN)/.ready: requirements-protos.lock
	@echo "Setting up the generators (half a minute, once)…"
	@$(PYTHON) -m venv $(GEN)
	@$(GEN)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-protos.lock
	@touch $@

$(RIVALS)/.ready: requirements-bench.lock
	@echo "Setting up what is measured beside the service (half a minute, once)…"
	@$(PYTHON) -m venv $(RIVALS)
	@$(RIVALS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

$(DEPLOY)/.ready: requirements-deploy.lock
	@echo "Setting up what checks deploy/ (a quarter of a minute, once)…"
	@$(PYTHON) -m venv $(DEPLOY)
	@$(DEPLOY)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-deploy.lock
	@touch $@

$(SITE)/.ready: requirements-docs.lock
	@echo "Setting up what builds the pages (a quarter of a minute, once)…"
	@$(PYTHON) -m venv $(SITE)
	@$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## Create the virtual environment (the other targets do it by themselves)

.PHONY: run
run: $(VENV)/.ready ## Run the server and the supplier sandbox until Ctrl-C
	@$(BIN)/python -m reward_server.dev

.PHONY: demo
demo: $(VENV)/.ready ## Order one product of each supplier from the running service and watch the cards arrive
	@$(BIN)/rewardctl demo || { code=$$?; \
	  test $$code -ne 6 || echo "Is the service running? Start it in another terminal: make run" >&2; exit $$code; }

# Two workers more than cores: a good part of the tests waits for deadlines, leases and processes.
.PHONY: test
test: $(VENV)/.ready ## Run every Python test
	$(BIN)/python -m pytest --ignore=tests/clients --numprocesses=$$($(BIN)/python -c 'import os; print(min(6, (os.cpu_count() or 1) + 2))') --dist=loadfile

# Each language's tests mostly wait: for servers that play dead, and for one another's compilers.
.PHONY: test-clients
test-clients: $(VENV)/.ready $(GOOGLEAPIS)/.ready ## Build the clients in Go, Java and TypeScript and try each with the kit and the real server
	$(BIN)/python -m pytest tests/clients --numprocesses=3 --dist=loadfile

.PHONY: torture
torture: $(VENV)/.ready torture-streams torture-replicas ## Kill the server 500 times at random while it buys, and judge what came of it (OPTIONS="--kills 100 --seed 7")
	PYTHONPATH=tests $(BIN)/python -m crash.torture $(OPTIONS)
	PYTHONPATH=tests $(BIN)/python -m crash.torture --store postgres $(OPTIONS)

.PHONY: torture-streams
torture-streams: $(VENV)/.ready ## Cut 50 subscribers' connections at random while 10,000 orders run (STREAMS="--orders 500 --seed 7")
	PYTHONPATH=tests $(BIN)/python -m streams.torture $(STREAMS)

.PHONY: torture-replicas
torture-replicas: $(VENV)/.ready ## Kill and freeze 3 replicas and restart their PostgreSQL while 5,000 orders run (REPLICAS="--orders 500 --seed 7")
	PYTHONPATH=tests $(BIN)/python -m replicas.torture $(REPLICAS)

.PHONY: bench
bench: $(VENV)/.ready $(RIVALS)/.ready ## Measure everything on a calm machine in half an hour and write docs/benchmarks; one part: make bench-create, … (OPTIONS="--rounds 3")
	$(BENCH) all $(OPTIONS)

.PHONY: bench-quick
bench-quick: $(VENV)/.ready ## Compare the main ratios with the committed ones, in two minutes
	$(BENCH) quick $(OPTIONS)

.PHONY: bench-growth
bench-growth: $(VENV)/.ready ## Measure with ten million orders stored: an hour and 40 GiB of disk (BENCH_FOLDER says where)
	$(BENCH) growth-large $(OPTIONS)

.PHONY: bench-rivals
bench-rivals: $(VENV)/.ready $(RIVALS)/.ready
	$(BENCH) rivals $(OPTIONS)

bench-%: $(VENV)/.ready
	$(BENCH) $* $(OPTIONS)

.PHONY: simulate
simulate: $(VENV)/.ready ## Play 100,000 orders with every fault on a virtual clock (OPTIONS="--seeds 7 --orders 50")
	PYTHONPATH=tests $(BIN)/python -m simulation --seeds 0-1999 --orders 50 $(OPTIONS)

.PHONY: fuzz
fuzz: $(VENV)/.ready ## Try inputs that nobody expects for a minute and count them (OPTIONS="--seconds 3600", "--inputs 20000 --only rpc")
	PYTHONPATH=tests $(BIN)/python -m fuzz $(OPTIONS)

# Strict: what PyPI (or a mirror of it) can't say anything about counts as a failure, not as fine.
.PHONY: audit
audit: ## Ask PyPI about known weaknesses of all dependencies; without the network see docs/security.md
	@test -x .build/audit/bin/pip-audit || { $(PYTHON) -m venv .build/audit && \
	  .build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	@failed=0; for lock in requirements*.lock; do echo "$$lock:"; \
	  .build/audit/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r $$lock || failed=1; \
	done; exit $$failed

.PHONY: check
check: $(VENV)/.ready $(GEN)/.ready $(GOOGLEAPIS)/.ready ## Format, lint, types, import contracts, proto lint and breaking, stub freshness
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/buf breaking protos --against protos/baseline.binpb
	$(MAKE) --no-print-directory check-stubs

.PHONY: check-deploy
check-deploy: $(VENV)/.ready $(DEPLOY)/.ready ## Check container file, compose file, systemd unit, Kubernetes manifests and alerts; nothing is built or started
	$(DEPLOY)/bin/python deploy/check.py

# Strict: a broken link is an error. What zensical leaves over is looked at in the finished pages.
.PHONY: docs
docs: $(VENV)/.ready $(SITE)/.ready ## Build the documentation into .build/site, without the network, and check every link
	@PYTHONPATH=tests $(BIN)/python -m docs.site lay-out
	@$(SITE)/bin/zensical build --clean --strict --config-file zensical.toml
	@PYTHONPATH=tests $(BIN)/python -m docs.site check

.PHONY: notices
notices: $(VENV)/.ready ## Write THIRD-PARTY-NOTICES.md from the installed packages
	$(BIN)/python deploy/notices.py

.PHONY: format
format: $(VENV)/.ready ## Format and mend what can be mended by machine
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/buf format --write protos

# The google/type protos come from the googleapis wheel; buf wants them as a module beside ours.
$(GOOGLEAPIS)/.ready: $(VENV)/.ready
	@mkdir -p $(GOOGLEAPIS)/google/type
	@site=$$($(BIN)/python -c 'import pathlib, google.type; print(pathlib.Path(google.type.__path__[0]))') && \
	  cp $$site/date.proto $$site/money.proto $(GOOGLEAPIS)/google/type/
	@touch $@

define generate
	$(GEN)/bin/python -m grpc_tools.protoc -I protos -I $(GOOGLEAPIS) --plugin=protoc-gen-mypy=$(GEN)/bin/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=$(GEN)/bin/protoc-gen-mypy_grpc --python_out=$(1) --grpc_python_out=$(1) \
	  --mypy_out=$(1) --mypy_grpc_out=$(1) $(PROTOS)
endef

.PHONY: protos
protos: $(GEN)/.ready $(GOOGLEAPIS)/.ready ## Regenerate the Python stubs
	rm -f $(STUBS)/rewardservice/v1/*_pb2*
	$(call generate,$(STUBS))

.PHONY: check-stubs
check-stubs: $(GEN)/.ready $(GOOGLEAPIS)/.ready
	rm -rf .build/stubs && mkdir -p .build/stubs
	@$(call generate,.build/stubs)
	@diff -r -x '*.py' -x __pycache__ -x py.typed .build/stubs/rewardservice/v1 $(STUBS)/rewardservice/v1 >/dev/null; \
	for f in .build/stubs/rewardservice/v1/*; do cmp -s $$f $(STUBS)/rewardservice/v1/$$(basename $$f) || \
	  { echo "stale stub: $$(basename $$f). Run make protos and commit the result."; exit 1; }; done

.PHONY: clients
clients: $(VENV)/.ready $(GOOGLEAPIS)/.ready ## Regenerate the stubs of the clients in Go, Java and TypeScript
	@set -e; for script in $(wildcard clients/*/generate); do echo $$script; $$script; done

.PHONY: baseline
baseline: $(VENV)/.ready $(GOOGLEAPIS)/.ready ## Freeze the contract as the baseline that buf breaking compares with (on release)
	$(BIN)/buf build protos -o protos/baseline.binpb

.PHONY: lock
lock: $(VENV)/.ready ## Renew the lock files
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" -o requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --group pyproject.toml:protos --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" -o requirements-protos.lock
	$(BIN)/uv pip compile --quiet --upgrade --group pyproject.toml:bench --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" -o requirements-bench.lock
	$(BIN)/uv pip compile --quiet --upgrade --group pyproject.toml:deploy --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" -o requirements-deploy.lock
	$(BIN)/uv pip compile --quiet --upgrade --group pyproject.toml:docs --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" -o requirements-docs.lock
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra cli --extra server --extra postgres --extra otel \
	  --constraint requirements.lock --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
	  -o requirements-server.lock

.PHONY: clean
clean: ## Remove environments, caches and the data of make run
	rm -rf $(VENV) $(GEN) $(RIVALS) $(DEPLOY) $(SITE) .build .run .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf clients/typescript/dist clients/typescript/node_modules clients/typescript/src/gen clients/java/target
