# Every target works from a fresh clone. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.NOTPARALLEL:

LOCAL_KUBECONFIG := $(CURDIR)/.local/kubeconfig
# What is set by the caller wins; else the local cluster.
export KUBECONFIG ?= $(LOCAL_KUBECONFIG)
# kubectl of the cluster's version, where the cluster was built here.
export PATH := $(shell python3 -m tests.cluster binaries --print-dir || echo /nowhere):$(PATH)

CLUSTER := python3 -m tests.cluster
BIN := .venv/bin
SETUP := .venv/.complete
LOOK := .venv/.look
FETCH := .venv/.fetch
# Compiled while the package is installed; uv does not see when what was compiled is gone.
KERNELS := hatch_build.py inference_server/engine/qwen/kernels.c
REINSTALL := --reinstall-package llm-operator
PYTEST := $(BIN)/pytest --durations=10
# A process for each processor; more than four want more memory than they save time.
PARALLEL := -n logical --maxprocesses=4
# Tests that mostly wait: more of them at a time than there are processors.
WAITING := -n 3
# Each process has a control plane of its own, of 1 GB.
PLANES := -n 4
# Decisions without I/O, covered to the last branch.
PURE_FETCH := failures layout ownership plan progress ready retention retry
PURE_ENGINE := admission hardware sampling scheduler thinking writer

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(SETUP): pyproject.toml uv.lock scripts/uv.sh $(KERNELS)
	@echo "==> Python packages"
	"$$(scripts/uv.sh)" sync --frozen $(REINSTALL) --extra operator --extra server --extra fetch --extra llm --extra otel --extra dev
	touch $@

# Without torch, which is most of the packages' 6 GB: whoever only looks need not wait for it.
$(LOOK): pyproject.toml uv.lock scripts/uv.sh $(KERNELS)
	@echo "==> Python packages, without torch"
	"$$(scripts/uv.sh)" sync --frozen --inexact $(REINSTALL) --extra operator --extra server
	touch $@

ifeq ($(wildcard inference_server/engine/qwen/kernels-*.so),)
$(SETUP) $(LOOK) $(FETCH): FORCE
endif
.PHONY: FORCE
FORCE:

.PHONY: setup
setup: $(SETUP) ## Install the Python packages into .venv

# Without torch, too: a model can come while the rest is installed.
$(FETCH): pyproject.toml uv.lock scripts/uv.sh $(KERNELS)
	@echo "==> Python packages of fetch"
	"$$(scripts/uv.sh)" sync --frozen --inexact $(REINSTALL) --extra server --extra fetch
	touch $@

.PHONY: download-model
download-model: $(FETCH) ## Download the model into MODEL_CACHE_DIR (.env or the environment; else ./models)
	@grep -qs '^MODEL_CACHE_DIR=.' .env || export MODEL_CACHE_DIR="$${MODEL_CACHE_DIR:-models}"; \
	$(BIN)/python -m inference_server fetch

.PHONY: demo
demo: $(LOOK) deploy-local ## Cluster, images, operator, an LLMDeployment, a /triage reply: the main job
	@KUBECONFIG=$(LOCAL_KUBECONFIG) scripts/demo.sh

.PHONY: test
test: check unit integration e2e ## All tests, and what they need

.PHONY: check
check: $(SETUP) ## Format, lint, types, import rules, the CI workflow
	@echo "==> Checks"
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/mypy --strict -p tests.cluster -p tests.images -p tests.hub
	$(BIN)/lint-imports --no-logo
	"$$($(CLUSTER) binaries actionlint)" .github/workflows/*.yml

.PHONY: unit
unit: $(SETUP) ## Fast tests, no cluster; all decisions are covered to the last branch
	@# For the volumes that tests/unit/fetch mounts; without it, those tests are skipped and say so.
	@[ "$$(id -u)" != 0 ] || ! [ -w /dev/fuse ] || /sbin/ldconfig -p | grep -q 'libfuse3*\.so' || \
		{ apt-get -qq update && apt-get -qq -o DPkg::Lock::Timeout=300 install --yes libfuse2 >/dev/null; } || true
	@echo "==> Unit tests"
	$(PYTEST) $(PARALLEL) --dist worksteal -m "not integration and not e2e" \
		--cov=llm_operator.core $(PURE_FETCH:%=--cov=inference_server.fetch.%) \
		$(PURE_ENGINE:%=--cov=inference_server.engine.qwen.%) \
		--cov-branch --cov-fail-under=100 --cov-report=term-missing:skip-covered

.PHONY: integration
integration: $(SETUP) ## Tests on a real control plane with simulated nodes
	@echo "==> Integration tests"
	$(PYTEST) -m integration --ignore=tests/unit $(PLANES) --dist loadfile --no-loadscope-reorder

.PHONY: e2e
e2e: $(SETUP) deploy-local ## Tests on a real node: images, operator in a pod, real servers
	@echo "==> End-to-end tests; meanwhile the image that runs a model is built: 6 GB, some minutes (.local/model-image.log)"
	@[ "$$($(CLUSTER) status --provider)" = kwok ] || $(BIN)/python -m tests.e2e.model_image >.local/model-image.log 2>&1 & \
	code=0; KUBECONFIG=$(LOCAL_KUBECONFIG) $(PYTEST) -m e2e --ignore=tests/unit $(WAITING) --dist loadgroup || code=$$?; \
	wait; [ $$code = 0 ] || { tail -n 20 .local/model-image.log 2>/dev/null; exit $$code; }

.PHONY: bench
bench: $(SETUP) ## Measure, as ratios to a baseline in the same run: docs/performance.md, docs/model-cache.md
	$(BIN)/python -m bench.operator_scale --objects 100 500 2000
	$(BIN)/python -m bench.rollback_time
	$(BIN)/python -m bench.fetch_throughput
	$(BIN)/python -m bench.serving
	$(BIN)/python -m bench.serving --vocabulary 151936 --rounds 3
	$(BIN)/python -m bench.serving_http
	$(BIN)/python -m bench.start_time

.PHONY: fmt
fmt: $(SETUP) ## Format and fix what can be fixed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: generate
generate: $(SETUP) ## Write crds/, docs/api.md and tables of docs/ from the code
	$(BIN)/python -m llm_operator.api.crd > crds/llmdeployments.yaml
	$(BIN)/python -m llm_operator.api.reference > docs/api.md
	$(BIN)/python scripts/generate_docs.py

.PHONY: cluster-up
cluster-up: ## Make a local cluster be there: kind, or a node without Docker; kubeconfig at .local/kubeconfig
	$(CLUSTER) up

.PHONY: cluster-down
cluster-down: ## Remove the local cluster with all it put on this machine
	$(CLUSTER) down

.PHONY: images
images: ## Build the container images
	python3 -m tests.images build

.PHONY: deploy
deploy: ## Put CRD, RBAC and operator into the cluster that KUBECONFIG names (default: the local one)
	scripts/deploy.sh

.PHONY: deploy-local
deploy-local: cluster-up
	KUBECONFIG=$(LOCAL_KUBECONFIG) scripts/deploy.sh

.PHONY: clean
clean: ## Remove what the targets made, but for the cluster and the caches outside this folder
	python3 -m tests.images clean
	rm -rf .venv .coverage .local/deploy .local/tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
