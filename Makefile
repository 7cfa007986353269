PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo/$(shell date +%Y-%m-%d_%H-%M-%S)

.PHONY: help demo test test-all test-gpu lint format docs clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/demo ## install, train on scikit-learn's digits (no download), test
	$(BIN)/python -m lightning_cifar fit --recipe demo --run_dir $(RUN)
	$(BIN)/python -m lightning_cifar test --ckpt_path $(RUN)/checkpoints/best.ckpt --run_dir $(RUN)/test
	@echo "next: source .venv/bin/activate, then python -m lightning_cifar --help"

test: .venv/test ## install the test extra, run the default suite (offline, two minutes)
	$(BIN)/python -m pytest

test-all: .venv/test ## run every test that needs no GPU, also those marked slow or long
	$(BIN)/python -m pytest -m "not gpu"

test-gpu: .venv/test ## run the tests that need a GPU
	CUDA_VISIBLE_DEVICES=0 $(BIN)/python -m pytest -m gpu -n 0

lint: .venv/test ## check style (ruff) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/test ## format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/docs ## build the site into site/, with warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "read it, with search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site"

clean: ## remove environment, site and caches; keep data/ and runs/
	rm -rf .venv site .mypy_cache .pytest_cache .ruff_cache *.egg-info

.venv/demo: setup.cfg pyproject.toml
	@echo "setting up .venv: about 2 minutes, 6 GB (torch comes with CUDA)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[digits]'
	@touch $@

.venv/test: .venv/demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

.venv/docs: .venv/demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@
