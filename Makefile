# `make demo` and `make test` need nothing but a Python (3.10 to 3.13), a C++ compiler and make.
#   PYTHON=python3.12   the Python to build .venv with      CUDA=0|1|auto   build the CUDA kernels never, always, or
#                                                           (default) where a GPU and nvcc are found
SHELL := /bin/bash
CUDA ?= auto

PY := .venv/bin/python
SETUP := scripts/setup_env.sh
STAMPS := .venv/stamps
# Without a wish, whatever build there is will do.
ifeq ($(CUDA),auto)
NATIVE := $(firstword $(wildcard $(STAMPS)/native-*) $(STAMPS)/native-auto)
else
NATIVE := $(STAMPS)/native-$(CUDA)
endif
NATIVE_SOURCES := $(shell find submodules -type f \( -name '*.py' -o -name '*.toml' -o -name '*.cpp' -o -name '*.cu' \
	-o -name '*.h' -o -name '*.cuh' \) -not -path '*/build/*' 2>/dev/null)

.DELETE_ON_ERROR:
.PHONY: help demo test env lint types cuda-compile pytest clean distclean

help:
	@echo "make demo          generate a subject, train, test; writes output/demo/report.html"
	@echo "make test          lint, types, CUDA sources (where nvcc is), tests"
	@echo "make env           only create .venv and build the extension packages"
	@echo "make lint | types | cuda-compile | pytest    one part of make test (ARGS='-k name' goes to pytest)"
	@echo "make clean         remove builds and caches; distclean also removes .venv"
	@echo "variables: PYTHON=python3.12  CUDA=0|1|auto  LPIPS_WEIGHTS=folder (where they cannot be downloaded)"

demo: env
	@# 130: stopped by Ctrl-C, which demo.py has said in words; make's own line would call it an error.
	@$(PY) scripts/demo.py $(if $(LPIPS_WEIGHTS),--lpips_weights $(LPIPS_WEIGHTS)) || { code=$$?; [ $$code = 130 ] || exit $$code; }

test: lint types cuda-compile pytest

env: $(NATIVE) $(STAMPS)/tracking

lint: $(STAMPS)/dev
	@echo "==> ruff"
	@$(PY) -m ruff check .

# mypy reads the loader that the build copies into each package.
types: env $(STAMPS)/dev
	@echo "==> mypy"
	@$(PY) -m mypy

cuda-compile: $(STAMPS)/packages
	@echo "==> CUDA sources"
	@$(PY) scripts/compile_cuda.py

# pytest exits with 5 when it collects nothing; make fails on that as on any other code.
pytest: env $(STAMPS)/dev
	@echo "==> pytest"
	@$(PY) -m pytest $(ARGS)

# A stamp is touched by the last command of its recipe, so a failed installation leaves none.
$(STAMPS)/venv:
	@$(SETUP) venv
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/packages: requirements.txt constraints.txt $(STAMPS)/venv
	@echo "==> installing the pinned packages (torch is large: minutes on a first run)"
	@$(SETUP) install -r requirements.txt
	@touch $@

# Without dependencies: requirements-tracking.txt says why. Training and testing do without it.
$(STAMPS)/tracking: requirements-tracking.txt $(STAMPS)/packages
	@$(SETUP) install --no-deps -r requirements-tracking.txt || \
		echo "==> mediapipe has no wheel for this machine: track.py will not run here, everything else does"
	@touch $@

$(STAMPS)/dev: requirements-dev.txt requirements-fleet.txt $(STAMPS)/packages
	@echo "==> installing the tools of the checks"
	@$(SETUP) install -r requirements-dev.txt
	@touch $@

$(STAMPS)/native-%: $(NATIVE_SOURCES) $(SETUP) $(STAMPS)/packages
	@rm -f $(STAMPS)/native-*
	@$(SETUP) native $*
	@touch $@

clean:
	rm -rf build dist submodules/*/build submodules/*/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
