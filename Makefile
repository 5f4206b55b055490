# framecache: `make train` sets up, renders sample clips, extracts their features and trains on them.
#
#   make extract DATA=videos/manifest.csv ARGS="--reduce gap gmp"
#   make train SET=efficientnet-lite0.gap MANIFEST=videos/manifest.csv ARGS="--model bilstm"

PYTHON ?= python3
VENV   ?= .venv
CACHE  ?= features
SAMPLE ?= sample
DATA   ?= $(SAMPLE)/manifest.csv
SET    ?= efficientnet-lite0.gap
ARGS   ?=

BIN := $(VENV)/bin
# Without a SET of their own, users get the sample extracted before it is trained on.
SAMPLE_RUN := $(if $(filter file,$(origin SET)),$(if $(MANIFEST),,yes))
MANIFEST ?= $(if $(SAMPLE_RUN),$(SAMPLE)/manifest.csv)

# How long make soak is: processes killed, broken clips decoded, bits flipped.
export KILLS   ?= 500
export MUTANTS ?= 4000
export FLIPS   ?= 50000
export SEED    ?= 0

.PHONY: help train extract test soak bench picture lint format typecheck clean
.DELETE_ON_ERROR:

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## */make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

train: $(VENV)/.installed $(if $(SAMPLE_RUN),sample-features)  ## train on SET with MANIFEST and ARGS; alone: on the sample, all set-up included
	$(if $(MANIFEST),,$(error name the labels of $(SET) with MANIFEST=FILE))
	$(BIN)/framecache-train fit $(SET) --manifest $(MANIFEST) --cache $(CACHE) $(ARGS)

extract: $(VENV)/.installed $(if $(filter $(SAMPLE)/manifest.csv,$(DATA)),$(SAMPLE)/manifest.csv)  ## features of DATA into CACHE with ARGS
	$(BIN)/framecache-extract $(DATA) --cache $(CACHE) $(ARGS)

.PHONY: sample-features
sample-features: $(SAMPLE)/manifest.csv
	$(BIN)/framecache-extract $(SAMPLE)/manifest.csv --cache $(CACHE)

$(SAMPLE)/manifest.csv: | $(VENV)/.installed
	$(BIN)/python -m framecache.extract.render $(SAMPLE)

test: $(VENV)/.installed-dev  ## run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

soak: $(VENV)/.installed-dev  ## kill KILLS extractions, decode MUTANTS broken clips, flip FLIPS bits (an hour)
	$(BIN)/python -m pytest tests/soak -m soak -s --timeout 0 $(ARGS)

bench: $(VENV)/.installed-bench  ## how fast it is, beside its peers; ARGS="training" for one section
	$(BIN)/python tests/bench $(ARGS)

picture: $(VENV)/.installed sample-features  ## draw the README's picture again, from the sample
	$(BIN)/python tests/readme/picture.py $(SAMPLE) $(CACHE) .github

lint: $(VENV)/.installed-dev  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev  ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The folders are mapped to framecache.*; a tree of links shows the type checker the packages as they are imported.
typecheck: $(VENV)/.installed-dev  ## check types
	@mkdir -p build/typecheck/framecache
	@for room in cache extract train; do ln -sfn ../../../$$room build/typecheck/framecache/$$room; done
	MYPYPATH=build/typecheck $(BIN)/mypy -p framecache.cache -p framecache.extract -p framecache.train

clean:  ## remove what was built; features and runs stay
	rm -rf $(VENV) $(SAMPLE) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.installed-bench: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@
