# Development commands. `make help` lists them; each creates .venv if it is missing or out of date.

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := all,docs,notebooks
INSTALLED := .venv/installed
FAST := not slow and not gpu
# Tests that start processes or use real models take half of the time, so `make check` skips them.
UNIT := not fork and not processes and not concurrency_real
UNIT_TESTS := $(wildcard tests/test_types.py tests/test_config.py tests/core tests/engine tests/langchain tests/llama_index)
INFINITY := .peers/infinity/installed
WORK ?= training/runs
CONFIG ?= training/config.toml
SETS ?= $(DATA)/..

.DEFAULT_GOAL := help
.PHONY: help install check lint format test test-slow test-notebooks test-lowest test-latest
.PHONY: demo docs notebooks build licenses audit mutants peers model constraints clean

help: ## list the commands
	@sed -n 's|^\([a-z -]*\):[^#]*## |\1: |p' Makefile

install: $(INSTALLED) ## create .venv with all extras and the development tools

# pip is upgraded first: the one that Python 3.11 bundles cannot read dependency groups.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --constraint constraints.txt pip
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable ".[$(EXTRAS)]" --group dev
	@touch $@

check: lint ## lint, types and unit tests: run this before each commit
	$(BIN)/python -m pytest -q -x -m "$(FAST)" -k "$(UNIT)" $(UNIT_TESTS)

lint: $(INSTALLED) ## ruff, mypy, codespell and the checks of the GitHub files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*_*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --offline --quiet .github .pre-commit-config.yaml

format: $(INSTALLED) ## fix and format the code with ruff
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

ifdef T
test: $(INSTALLED)
	$(BIN)/python -m pytest $(T)
else
test: $(INSTALLED) ## all tests but the slow ones, with coverage; T=path runs one file or test
	$(BIN)/coverage run -m pytest -m "$(FAST)"
	$(BIN)/coverage report
endif

test-slow: $(INSTALLED) ## the slow tests: the wheel, the documentation's commands, servers, the demo
	$(BIN)/python -m pytest -m "slow and not gpu"

# tests/offline blocks network access in the kernels and their child processes.
test-notebooks: $(INSTALLED) ## run the notebooks without a network; each takes up to five minutes
	PYTHONPATH="$(CURDIR)/tests/offline" $(BIN)/python -m pytest --nbmake --timeout=300 notebooks

# Both create an environment of their own. uv reads UV_CONSTRAINT, for example to choose a CPU build
# of torch.
test-lowest: RESOLUTION := lowest-direct
test-latest: RESOLUTION := highest
test-lowest test-latest: test-%: $(INSTALLED) ## the tests with the lowest or the newest allowed dependencies
	$(BIN)/uv venv --quiet --clear --python "$$(command -v $(PYTHON))" .$*
	$(BIN)/uv pip install --quiet --python .$*/bin/python --resolution $(RESOLUTION) --editable ".[all]" --group dev
	.$*/bin/python -m pytest -m "$(FAST)"

demo: $(INSTALLED) ## two-stage retrieval on real text through LangChain and LlamaIndex
	$(BIN)/rerank-plugins demo

# The variable silences an announcement of mkdocs-material.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(INSTALLED) ## build the documentation in build/site and check every link
	$(BIN)/mkdocs build --strict --quiet

# Timestamps and versions are removed: they would differ after each run.
notebooks: $(INSTALLED) ## run the notebooks and save their output
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
		--ClearMetadataPreprocessor.enabled=True \
		--ClearMetadataPreprocessor.preserve_nb_metadata_mask='{("language_info", "name"), ("kernelspec",)}' \
		notebooks/*.ipynb

build: $(INSTALLED) ## sdist, wheel and an SBOM (CycloneDX) of the environment in dist/
	$(BIN)/python -m build --no-isolation
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.cdx.json

licenses: $(INSTALLED) ## check the licenses of all dependencies
	$(BIN)/pip-licenses --summary > /dev/null

audit: licenses ## licenses and known vulnerabilities of all dependencies (needs a network)
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

mutants: $(INSTALLED) ## mutation tests of core and engine; MUTANTS='rerank_plugins.core.ranking*' limits them
	$(BIN)/mutmut run $(MUTANTS)
	$(BIN)/mutmut results

# Infinity pins dependencies that conflict with this package, so it has its own environment.
$(INFINITY): benchmarks/speed/requirements/infinity.txt
	$(PYTHON) -m venv .peers/infinity
	.peers/infinity/bin/python -m pip install -qq --requirement $<
	@touch $@

peers: $(INFINITY) ## install Infinity's server for the tests and benchmarks that compare with it

# Each step resumes from the files of the previous one; training resumes from its checkpoint.
MODEL_OPTIONS = --work $(WORK) --config $(CONFIG)
model: $(INSTALLED) ## train the embedded model: DATA=groups [SETS=retrieval sets] [WORK=folder] [CONFIG=file]
	@test -n "$(DATA)" || { echo "DATA must name the folder of the training groups: make model DATA=folder"; exit 2; }
	test -f $(WORK)/groups/manuals.jsonl.gz || $(BIN)/python -m training manuals $(WORK)/groups --config $(CONFIG)
	test -f $(WORK)/prepared/prepared.json.gz || $(BIN)/python -m training prepare $(DATA) $(WORK)/groups $(MODEL_OPTIONS)
	test -f $(WORK)/prepared/lists.npz || $(BIN)/python -m training mine $(MODEL_OPTIONS)
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m training train $(MODEL_OPTIONS)
	$(BIN)/python -m training export $(MODEL_OPTIONS)
	$(BIN)/python -m training evaluate $(SETS) --work $(WORK)
	$(BIN)/python -m training card --work $(WORK)

constraints: $(INSTALLED) ## add new dependencies to constraints.txt; UPGRADE=--upgrade updates all pins
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --group dev \
		--no-header --no-annotate $(UPGRADE) --output-file constraints.txt pyproject.toml

clean: ## remove .venv and all generated files
	rm -rf .venv .lowest .latest .peers build dist mutants .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
