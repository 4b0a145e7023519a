# The menu. `make demo` and `make test` need nothing but Python 3.11 and this folder.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Debian's names for what the tests run beside us
TOOLS := mosquitto mosquitto_sub openssl skopeo docker-registry strace gcc softhsm2-util systemd-analyze sshd ssh prometheus promtool chromium initdb
PACKAGES := mosquitto mosquitto-clients openssl skopeo docker-registry strace gcc libc6-dev softhsm2 \
  systemd openssh-server openssh-client prometheus chromium postgresql
# boards are emulated by these; where they cannot be had their tests are skipped, but not in CI
EMULATORS := qemu-aarch64 qemu-arm qemu-system-aarch64
EMULATOR_PACKAGES := qemu-user qemu-system-arm
# heavy frameworks and runtime versions, each in an environment that the user's cache folder keeps
# under a name made of its pins
ENVIRONMENTS := torch tensorflow runtimes
# tests of frameworks; they are skipped where those are absent, but not under `make test`
FRAMEWORKS := tests/convert/test_xgboost.py tests/convert/test_lightgbm.py \
  tests/convert/test_boosted_build.py tests/convert/test_boosted_tables.py \
  tests/convert/test_tflite_trees.py tests/convert/test_tflite_files.py \
  tests/host/test_build_tflite.py tests/agent/test_runtime_tflite.py \
  tests/agent/test_agent_on_old_runtime.py \
  tests/convert/test_tflite_dense.py tests/convert/test_tflite_quant.py tests/host/test_runtimes.py tests/host/test_witnesses.py \
  tests/convert/test_torch.py tests/convert/test_keras.py tests/convert/test_net_build.py \
  tests/convert/test_corpus.py tests/convert/test_reproducible.py tests/convert/test_real_tables.py \
  tests/convert/test_source_table.py tests/convert/test_random_families.py
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-long fuzz test-frameworks environments test-tools lint fmt unit docs docs-check wheel bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(VENV)/.host: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "installing Wherry into $(VENV) (a minute or two, once)"
	$(BIN)/pip install --quiet --editable '.[sklearn,agent]'
	@touch $@

$(VENV)/.dev: $(VENV)/.host
	@echo "installing what the tests need"
	$(BIN)/pip install --quiet --editable '.[sklearn,agent,dev]'
	@touch $@

$(VENV)/.frameworks: $(VENV)/.dev
	@echo "installing XGBoost, LightGBM and what writes TFLite"
	$(BIN)/pip install --quiet --editable '.[sklearn,xgboost,lightgbm,tflite-quant,agent,dev]' 'pandas>=2.2'
	@touch $@

$(VENV)/.board: $(VENV)/.host
	@$(BIN)/pip install --quiet --editable '.[sklearn,tflite,agent]'
	@touch $@

demo: $(if $(BOARD),$(VENV)/.board,$(VENV)/.host)  ## run the whole road on this machine; BOARD=pi3: agents on that board, emulated
	@$(BIN)/wherry demo $(if $(BOARD),--board $(BOARD))

test: export WHERRY_FRAMEWORKS = required
test: $(VENV)/.frameworks test-tools environments lint docs-check unit fuzz  ## install what tests need, and run them all

test-long: export OMP_NUM_THREADS = 1
test-long: export WHERRY_PATIENCE = 10
test-long: $(VENV)/.frameworks test-tools  ## the tests that take minutes: kills, failing disks, fuzzing
	$(BIN)/python -m pytest -m long -n 2 --dist worksteal

fuzz: export OMP_NUM_THREADS = 1
fuzz: $(VENV)/.dev  ## look for inputs that parsers fail on, a minute for each of the main ones
	$(BIN)/python -m pytest -q -m fuzz -n 2 --dist worksteal tests/faults/test_parsers.py

test-frameworks: export WHERRY_FRAMEWORKS = required
test-frameworks: $(VENV)/.frameworks environments  ## the tests of frameworks alone
	$(BIN)/python -m pytest -n 2 --dist worksteal $(FRAMEWORKS)

environments: $(VENV)/.frameworks  ## make or find the environments of heavy frameworks
	@$(MAKE) --no-print-directory -j 3 $(ENVIRONMENTS:%=environment-%)

environment-%: $(VENV)/.frameworks
	@$(BIN)/wherry doctor --install $* >/dev/null 2>$(VENV)/$*.log && echo "environment $* is there" \
	  || { cat $(VENV)/$*.log; exit 1; }

# what is missing of a list of programs is installed from a list of packages
define install
missing=; for tool in $(1); do \
  PATH="$$PATH:/usr/sbin:$$(echo /usr/lib/postgresql/*/bin)" command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
if [ -n "$$missing" ]; then \
  echo "installing$$missing"; as=; [ "$$(id -u)" = 0 ] || as="sudo -n"; \
  { $$as apt-get update -qq && $$as env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends $(2) >/dev/null; } \
  || { echo "as root, run: apt-get install $(2)"; $(3); }; fi
endef

test-tools:  ## install Debian's tools that tests run beside us
	@$(call install,$(TOOLS),$(PACKAGES),exit 1)
	@$(call install,$(EMULATORS),$(EMULATOR_PACKAGES),echo "until then boards are not tested"; [ "$$CI" != true ])

lint: $(VENV)/.dev  ## format, lint and type checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fmt: $(VENV)/.dev  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

unit: export OMP_NUM_THREADS = 1
unit: export OPENBLAS_NUM_THREADS = 1
unit: $(VENV)/.dev  ## the tests alone
	$(BIN)/python -m pytest -n 2 --dist loadfile

docs: $(VENV)/.dev  ## write the generated pages anew
	$(BIN)/python docs/cli_reference.py > docs/cli.md
	$(BIN)/wherry --quiet watch schemas -o contract/schemas

docs-check: $(VENV)/.dev  ## the generated pages are up to date
	@$(BIN)/python docs/cli_reference.py | diff -u docs/cli.md - \
	  || { echo "docs/cli.md is old; run: make docs"; exit 1; }

wheel: $(VENV)/.dev  ## build the wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

bench: $(VENV)/.dev  ## run the benchmarks, one after the other
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:  ## remove what make made
	rm -rf $(VENV) dist demo-run demo-report.html .mypy_cache .ruff_cache .pytest_cache .hypothesis
