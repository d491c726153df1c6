# `make help` lists the targets. Each installs what it needs into .venv first; the second run is quick.

PYTHON ?= python3
VENV ?= .venv

# The torch that the tests run with. PyPI's build for Linux brings gigabytes of CUDA; for the CPU one:
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SPEAK := $(VENV)/.installed-speak
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help speak test lint bench demo-voice clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

speak: $(SPEAK) ## say two sentences with the built-in demo voice, into hello.wav
	$(BIN)/dia-ort speak "[S1] hello world. [S2] this is dia." -o hello.wav

test: $(DEV) ## run all tests
	$(BIN)/python -m pytest -n auto

lint: $(DEV) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(DEV) ## measure against transformers; FULL=1 for the 1.6B model, DOCS=1 to write it down
	$(BIN)/python tools/bench.py $(if $(FULL),--model full-random) --json build/bench.json \
		$(if $(DOCS),--docs docs/performance.md)

demo-voice: $(DEV) ## train the built-in demo anew: DEVICE=cuda INSTALL=1 to ship it, or QUICK=1 a rougher one
	$(BIN)/python tools/demo_voice $(if $(DEVICE),--device $(DEVICE)) $(if $(QUICK),--quick) \
		$(if $(INSTALL),--install)

clean: ## remove the environment, caches and build outputs
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis hello.wav
	find models export runtime tests tools -name __pycache__ -prune -exec rm -rf {} +

# pip knows --group since 25.1.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("$(PYTHON) is too old: \
	dia-ort needs Python 3.11 or later. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	@touch $@

$(SPEAK): $(VENV)/.created pyproject.toml
	$(PIP) install --quiet --editable ".[cpu]"
	@touch $@

# descript-audio-codec's dependencies pin a protobuf that onnx cannot use; its model needs none of them.
$(DEV): $(VENV)/.created pyproject.toml
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) install --quiet --editable ".[cpu,serve,export]" --group dev
	$(PIP) install --quiet --no-deps descript-audio-codec==1.0.0
	@touch $@ $(SPEAK)
