# Two commands on a fresh machine (Python 3.11+, git, make): `make book` and `make test`.
# Every target makes the environment it needs: .venv, once, and again when the requirements change.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Where it is set, every process compiles anew what it imports of torch: five seconds a chapter.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env book test labs grade run bench compare hinton lint address clean

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

env: $(READY)  ## Make the environment in .venv.

$(READY): requirements.txt pyproject.toml
	@command -v $(PYTHON) > /dev/null || { \
		echo "'$(PYTHON)' is not found: install Python 3.11 or newer, or name it: make PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "'$(PYTHON)' is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed: make PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "'$(PYTHON)' lacks its venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Filling $(VENV): about 6 GB, most of it torch. This happens once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.txt)"
	@# uv is the faster; where it can't reach the index that pip is configured for, pip does the work.
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

book: $(READY)  ## Build the HTML and say where it is.
	@# After a failure all pages are read again: one that is not read again does not warn again.
	@$(BIN)/jupyter-book build --quiet --warningiserror --nitpick --keep-going . \
		|| { rm -rf _build/.doctrees; exit 1; }

test: $(READY)  ## Run every check: lint, types, the built book, all tests, all chapters.
	@status=0; \
	$(MAKE) --no-print-directory lint || status=1; \
	$(MAKE) --no-print-directory book || status=1; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov --numprocesses=$(JOBS) --dist=loadgroup || status=1; \
	exit $$status

labs: $(READY)  ## Write the students' notebooks into labs/, and the pages for their instructor.
	@$(BIN)/python tools/make_labs.py
	@$(BIN)/python tools/make_overview.py

run: $(READY)  ## Execute the chapters again, in place: make run, or make run CHAPTER=09-student.
	@$(BIN)/python tools/run_chapters.py $(CHAPTER)

bench: $(READY)  ## Measure again what is too slow, or too uncertain, for a chapter or a test.
	@for script in benchmarks/efficiency.py benchmarks/lab_times.py benchmarks/*_speed.py; do echo "$$script"; $(BIN)/python $$script || exit 1; done

compare: $(READY)  ## Compare all distillers again (two hours on two cores; goes on where it was cut off).
	@$(BIN)/python benchmarks/compare.py

SEEDS ?= 5
hinton: $(READY)  ## Reproduce Hinton et al. (2015), section 3: make hinton SEEDS=1 (a quarter of an hour a seed).
	@$(BIN)/python benchmarks/hinton2015.py --seeds $$(seq 1 $(SEEDS))

grade: $(READY)  ## Grade what a class handed in: make grade SUBMISSIONS=folder LAB=05 [OUT=folder].
	@test -n "$(SUBMISSIONS)" || { echo "Say where the notebooks are: make grade SUBMISSIONS=folder LAB=05"; exit 1; }
	@test -n "$(LAB)" || { echo "Say which lab it is: make grade SUBMISSIONS=$(SUBMISSIONS) LAB=05"; exit 1; }
	@$(BIN)/python tools/grade.py "$(SUBMISSIONS)" "$(LAB)" $(if $(OUT),--out "$(OUT)")

lint: $(READY)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

address: $(READY)  ## Point badges and install cells at a fork: make address REPO=https://github.com/you/fork [BRANCH=main].
	@$(BIN)/python tools/set_address.py $(REPO) $(BRANCH)

clean:  ## Remove what was built (the environment too).
	rm -rf $(VENV) _build build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
