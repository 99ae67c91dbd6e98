# make demo   set up, run the quickstart in a real kernel, leave build/01_quickstart.html
# make lab    the same notebook, live in JupyterLab
# make test   set up and run every test and check
# make quick  what a change to one room needs, in under 2 minutes: of the files that were changed, or
#             ROOM=paging, ROOM=notebook/live …
# make check  format, lint, types, the audit, the site, and the built JavaScript against a fresh one
# make docs   build the site of docs/ into build/docs
# make build  build the widget's JavaScript, after a change in js/src
# make pictures  take the README's pictures and its animation again, from a run in JupyterLab
# make accept-pictures  take the pictures that the visual checks compare with; look at each of them
# make support  write docs/models.md again, from what the last run of the tests found
# make torture  faults, hostile files, fuzzing, interrupts and a long run, for hours: rows in
#             tests/torture/results, and docs/torture.md; WHAT="soak fuzzing:chats" names some
# make bench  the benchmark, in under 30 minutes: rows in benchmarks/results, tables and figures of
#             docs/benchmarks.md, README's table
# make bench-short  a slice of it, in under 5
# make bench-peers  the same beside llama.cpp, which is built for it first (10 minutes more)
# make train  make the demo model again from nothing (hours)
#
# Everything lands in .venv, js/node_modules and build/; the benchmark makes models of 20 GB and
# more in BENCH=…, by default a folder in the user's cache, and takes routing from TRACES=….
# PYTHON=… chooses the interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo lab test quick check check-python check-docs check-js docs build pictures \
    accept-pictures support torture train clean js-test bench bench-short bench-peers

PYTHON ?= python3
BIN := .venv/bin
# On Linux MLX's backend is chosen by an extra, on macOS it comes by itself.
EXTRA := $(if $(filter Darwin,$(shell uname -s)),,[cpu])
# In a container one is often root, which JupyterLab refuses unless told.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
export PATH := $(CURDIR)/$(BIN):$(PATH)

demo: .venv/.ready
	python tools/run_example.py examples/01_quickstart.ipynb build/01_quickstart.html

lab: .venv/.ready
	jupyter lab $(AS_ROOT) examples/01_quickstart.ipynb

# Two at a time: Chromium is fetched beside Python's packages, mypy runs beside npm and the browser.
test:
	$(MAKE) -j2 check js-test .venv/.browser
	python -m pytest -m "not alone" -n 2
	python -m pytest -m alone -n 2

quick: .venv/.dev
	python tools/quick.py $(ROOM)

check: check-python check-docs check-js

check-python: .venv/.dev
	ruff format --check .
	ruff check .
	mypy
	python tools/audit.py

# Warnings are errors, wrong links within the site among them; links out of it would need a network.
SPHINX := python -m sphinx -q -W --keep-going -d build/doctrees docs build/docs

check-docs: .venv/.dev
	$(SPHINX) -E

docs: .venv/.dev
	$(SPHINX)

check-js: js/node_modules/.ready
	npm --prefix js run --silent check
	npm --prefix js run --silent verify

js-test: js/node_modules/.ready .venv/.browser
	CHROMIUM="$$(bash tools/need.sh chromium)" npm --prefix js test

build: js/node_modules/.ready
	npm --prefix js run build

pictures: .venv/.dev .venv/.browser
	python tools/take_pictures.py docs

accept-pictures: .venv/.browser js/node_modules/.ready
	ACCEPT_PICTURES=1 python -m pytest tests/browser/test_pictures.py

support: .venv/.dev
	python -m tests.support

# The fuzzer has wheels for Linux alone; without it inputs are changed at random.
torture: .venv/.dev
	pip install --quiet --group torture
	python -m tests.torture $(WHAT)

BENCH_FLAGS = $(if $(BENCH),--folder $(BENCH)) $(if $(TRACES),--traces $(TRACES))

bench: .venv/.dev .venv/.browser
	python -m benchmarks.bench $(BENCH_FLAGS)
	python -m benchmarks.report

bench-short: .venv/.dev
	python -m benchmarks.bench --short $(BENCH_FLAGS)

# Another Python that has llama-cpp-python and gguf can be named: PEERS=…
PEERS ?= build/peers/bin/python
bench-peers: .venv/.dev .venv/.browser $(if $(filter build/peers/bin/python,$(PEERS)),build/peers/.ready)
	python -m benchmarks.peers --python $(PEERS) $(BENCH_FLAGS)
	python -m benchmarks.report

build/peers/.ready:
	"$(PYTHON)" -m venv build/peers
	CMAKE_ARGS="-DGGML_NATIVE=ON" build/peers/bin/pip install --no-binary llama-cpp-python \
	    "llama-cpp-python>=0.3.16,<0.4" "gguf>=0.17,<1"
	touch $@

train: .venv/.dev
	pip install --quiet --group train
	python tools/train_demo.py

clean:
	rm -rf .venv build js/node_modules

.venv/.made: pyproject.toml tools/need.sh
	bash tools/need.sh python "$(PYTHON)"
	"$(PYTHON)" -m venv .venv
	pip install --quiet --upgrade "pip>=25.1"
	touch $@

.venv/.ready: .venv/.made
	pip install --quiet --editable ".$(EXTRA)" --group notebook
	touch $@

# Not after .ready, which it holds: what is resolved and unpacked in one go takes less time.
.venv/.dev: .venv/.made
	pip install --quiet --editable ".$(EXTRA)" --group dev
	touch .venv/.ready $@

.venv/.browser: .venv/.made tools/need.sh
	bash tools/need.sh chromium
	touch $@

js/node_modules/.ready: .venv/.dev js/package.json js/package-lock.json
	npm --prefix js ci --no-audit --no-fund --loglevel=error
	touch $@
