# Every target makes .venv by itself; a machine needs Python 3.11 or newer, pip, gcc and make.

.DEFAULT_GOAL := help
.PHONY: demo demo-ablation peers test test-long test-peers faults lint format bench bench-step bench-loader bench-gpu fuzz ui clean help

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

RUNS ?= runs/demo
FUZZ_S ?= 300
PEERS  := .venv-peers
BENCHES := augment checkpoint decode elastic engines growth kernels memory recompute shuffle startup

# python3.11 where there is one, else a python3 that is new enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)

help:        ## list the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(STAMP)        ## train, stop, resume and evaluate a small ViT on this machine
	$(BIN)/vitscale demo

demo-ablation: $(STAMP)  ## what position encodings are worth, after table 8 of the paper (10 minutes)
	$(BIN)/vitscale demo --ablation

test: $(STAMP)        ## run the tests, without the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-long: $(STAMP)   ## run all tests
	$(BIN)/python -m pytest

peers: $(PEERS)/.installed  ## install timm, open_clip, onnxruntime and the other peers, in an environment of their own

test-peers: $(STAMP) $(PEERS)/.installed  ## compare with timm, open_clip and onnxruntime; writes bench/results/peers.json
	PYTHONPATH=. $(PEERS)/bin/python -m pytest tests/peers

faults: $(STAMP)      ## run every test of faults: kills, hangs, lost nodes, full disks, damage
	$(BIN)/python -m pytest -m faults

lint: $(STAMP)        ## check format, rules and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/basedpyright

format: $(STAMP)      ## format the code and fix what can be fixed
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

bench: $(STAMP) bench-step bench-loader  ## run the benches in bench/, a few minutes each, and print a table
	for name in $(BENCHES); do echo "== $$name"; $(BIN)/python -m bench.$$name || exit 1; done
	$(BIN)/python -m bench.figures

bench-step: $(PEERS)/.installed  ## a training step against timm, transformers and plain torch
	PYTHONPATH=. $(PEERS)/bin/python -m bench.step

bench-loader: $(STAMP) $(PEERS)/.installed  ## our loader against webdataset, streaming and torchvision
	$(BIN)/python -m bench.loader --peers $(PEERS)/bin/python

bench-gpu: $(STAMP) $(PEERS)/.installed  ## step, ops, engines and recomputation on a GPU, and MFU
	PYTHONPATH=. $(PEERS)/bin/python -m bench.step --gpu
	for name in engines kernels recompute; do echo "== $$name"; $(BIN)/python -m bench.$$name --gpu || exit 1; done
	$(BIN)/python -m bench.figures

fuzz: $(STAMP)        ## attack the image decoder for FUZZ_S seconds, under the address sanitizer
	tests/fuzz/run.sh $(FUZZ_S)

ui: $(STAMP)          ## open the MLflow page of the demo, or of RUNS=folder
	$(BIN)/vitscale ui --home $(RUNS)

clean:                ## remove the environment and caches; runs and data stay
	rm -rf $(VENV) $(PEERS) .ruff_cache .pytest_cache build dist vitscale.egg-info
	find vitscale -name '*.so' -delete
	find vitscale launch tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# The pin of torch is the same everywhere: on a machine with a GPU pip takes the build with CUDA.
NATIVE := setup.py $(wildcard vitscale/data/native/*.c vitscale/data/native/*.h)
$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "vitscale needs Python 3.11 or newer; set PYTHON=/path/to/one"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

# Peers bring pins of their own, so they live apart.
$(PEERS)/.installed: bench/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check -q -r bench/peers.txt
	touch $@
