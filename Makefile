# Two commands: `make demo` and `make test`. Each makes .venv when it is missing or stale.

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := langchain,llama-index,mini,flag,remote,cache,cli,openvino,evaluation,pandas,plot,serve,batch,ray,docs,notebooks,tracing
STAMP := .venv/installed
INFINITY := .peers/infinity/installed
ENVIRONMENTS := lowest latest python3.10 python3.12 python3.13
WORK ?= training/runs
CONFIG ?= training/config.toml
SETS ?= $(DATA)/..
MADE = --work $(WORK) --config $(CONFIG)
COVERED := rerank_plugins/core/*,rerank_plugins/langchain/*,rerank_plugins/llama_index/*

.DEFAULT_GOAL := help
.PHONY: help install demo lint format test test-slow $(addprefix test-,$(ENVIRONMENTS)) test-notebooks notebooks
.PHONY: mutants peers model build audit docs constraints clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile

install: $(STAMP) ## make .venv with everything that the demo and the tests need

# pip first: reading the dependency group `dev` needs a newer one than Python 3.11 brings.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --constraint constraints.txt pip
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable ".[$(EXTRAS)]" --group dev
	@touch $@

demo: $(STAMP) ## two-stage retrieval on real text, through LangChain and LlamaIndex
	$(BIN)/rerank-plugins demo

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP) ## let ruff fix what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test: lint ## lint, and the quick tests with their coverage
	$(BIN)/coverage run -m pytest -m "not slow and not gpu"
	@$(BIN)/coverage report --include="$(COVERED)" --fail-under=95

test-slow: $(STAMP) ## the tests that take longer: wheel, documentation, demo
	$(BIN)/python -m pytest -m "slow and not gpu"

# tests/offline keeps the kernels and their children from reaching beyond the machine.
test-notebooks: $(STAMP) ## run the notebooks; each takes one or two minutes, and five at most
	PYTHONPATH="$(CURDIR)/tests/offline" $(BIN)/python -m pytest --nbmake --timeout=300 notebooks

# Without times and versions, which would differ each time.
notebooks: $(STAMP) ## run the notebooks and keep what they show
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
		--ClearMetadataPreprocessor.enabled=True \
		--ClearMetadataPreprocessor.preserve_nb_metadata_mask='{("language_info", "name"), ("kernelspec",)}' \
		notebooks/*.ipynb

mutants: $(STAMP) ## the core's tests on a random sample of small mistakes
	$(BIN)/python -m supply.mutants

# Its dependencies exclude ours, so it has an environment of its own.
$(INFINITY): benchmarks/speed/requirements/infinity.txt
	$(PYTHON) -m venv .peers/infinity
	.peers/infinity/bin/python -m pip install -qq --requirement $<
	@touch $@

peers: $(INFINITY) ## servers of others that ours is compared with; without them their tests skip

# Every step goes on from the files of the one before; training goes on from its checkpoint.
model: $(STAMP) ## make the embedded model: DATA=groups [SETS=retrieval sets] [WORK=folder] [CONFIG=file]
	@test -n "$(DATA)" || { echo "give the folder of the training groups: make model DATA=folder"; exit 2; }
	test -f $(WORK)/groups/manuals.jsonl.gz || $(BIN)/python -m training manuals $(WORK)/groups --config $(CONFIG)
	test -f $(WORK)/prepared/prepared.json.gz || $(BIN)/python -m training prepare $(DATA) $(WORK)/groups $(MADE)
	test -f $(WORK)/prepared/lists.npz || $(BIN)/python -m training mine $(MADE)
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m training train $(MADE)
	$(BIN)/python -m training export $(MADE)
	$(BIN)/python -m training evaluate $(SETS) --work $(WORK)
	$(BIN)/python -m training card --work $(WORK)

build: $(STAMP) ## sdist, wheel and their bill of materials (CycloneDX) in dist/
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m supply.sbom dist

# AUDIT=--skip-unreachable only warns where no service of weaknesses can be reached;
# LICENCES=--check leaves the page as it is, and fails if a dependency is not on it.
audit: $(STAMP) ## licences and known weaknesses of all dependencies
	$(BIN)/python -m supply.licences $(LICENCES)
	$(BIN)/python -m supply.audit $(AUDIT)

# Environments of their own. TORCH="torch==2.13.0" takes that one instead of what the resolution
# gives, where a build without CUDA is at hand (UV_FIND_LINKS).
.lowest/installed: RESOLUTION := lowest-direct
.latest/installed: RESOLUTION := highest
.lowest/installed .latest/installed: pyproject.toml | $(STAMP)
	$(BIN)/uv venv --quiet --clear --python "$$(command -v $(PYTHON))" $(@D)
	echo "$(TORCH)" > $(@D)/torch.txt
	$(BIN)/uv pip compile --quiet --python $(@D)/bin/python --resolution $(RESOLUTION) --all-extras --group dev \
		--no-header --no-annotate --constraint $(@D)/torch.txt --output-file $(@D)/versions.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python $(@D)/bin/python --requirement $(@D)/versions.txt --editable .
	@touch $@

# With what constraints.txt pins.
.python%/installed: pyproject.toml constraints.txt | $(STAMP)
	$(BIN)/uv venv --quiet --clear --python python$* $(@D)
	$(BIN)/uv pip install --quiet --python $(@D)/bin/python --constraint constraints.txt \
		--editable ".[$(EXTRAS)]" --group dev
	@touch $@

test-lowest: ## the quick tests with the lowest versions that are allowed
test-latest: ## the quick tests with the newest versions that there are
$(addprefix test-,$(ENVIRONMENTS)): test-%: .%/installed
	.$*/bin/python -m pytest -m "not slow and not gpu" --junitxml=.$*/report.xml
	.$*/bin/python -m supply.versions $* .$*/report.xml
	.$*/bin/python -m benchmarks tables

# The banner of the theme's makers is no warning of ours.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(STAMP) ## the documentation as a site in build/site, every link checked
	$(BIN)/mkdocs build --strict --quiet

# Keeps what is pinned; UPGRADE="--upgrade-package NAME" or UPGRADE=--upgrade chooses anew.
constraints: ## complete constraints.txt after a change of dependencies (needs uv)
	uv pip compile --quiet --universal --python-version 3.10 --all-extras --group dev \
		--no-header --no-annotate $(UPGRADE) --output-file constraints.txt pyproject.toml

clean: ## remove .venv and everything that is generated
	rm -rf .venv $(addprefix .,$(ENVIRONMENTS)) .peers build dist mutants .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
