# On a fresh Debian machine: apt-get install make python3-venv, then `make demo` or `make test`.
PYTHON ?= python3
VENV := .venv
DEMO_VENV := .venv-demo
# Every version that the project is tested with; users of the library are not bound to them.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt
# `make test` takes some eight minutes on two cores; `make test SLOW=1` runs the slow tests as well.
MARKERS := $(if $(SLOW),-m "",)
# These measure time, or wait for it: they run one by one, after the others in two processes.
SERIAL := $(addprefix tests/benchmarks/test_,$(addsuffix .py,baseline decode harness live long_video roofline)) \
	$(addprefix tests/r2rt/live/test_,$(addsuffix .py,backlog decoding rtsp source watcher webhook))
# Two processes, each with a thread on either core, would wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1
CODE := r2rt training export kernels benchmarks tests demo docs examples

.PHONY: demo test format lint types pytest docs dist wheel clean help

help:            ## show this
	@grep -hE '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

demo: $(DEMO_VENV)/installed   ## find sentences in a video of this repository, without PyTorch
	@echo '$$ r2rt ground demo/emoji.mp4 "a panda"'
	@R2RT_HOME=$(DEMO_VENV)/home R2RT_MODEL=demo $(DEMO_VENV)/bin/r2rt ground demo/emoji.mp4 "a panda"
	@echo
	@echo '$$ python demo/compare.py'
	@$(DEMO_VENV)/bin/python demo/compare.py

test: format lint types pytest   ## everything that must hold: format, lint, strict types, tests

format: $(VENV)/installed        ## check the format
	$(VENV)/bin/ruff format --check $(CODE)

lint: $(VENV)/installed          ## check the rules
	$(VENV)/bin/ruff check $(CODE)

types: $(VENV)/installed         ## check the types
	$(VENV)/bin/mypy

pytest: $(VENV)/installed        ## run the tests; SLOW=1 for all
	status=0; \
	$(ONE_THREAD) $(VENV)/bin/python -m pytest $(MARKERS) -n 2 --dist loadfile --no-loadscope-reorder $(SERIAL:%=--ignore=%) || status=$$?; \
	$(VENV)/bin/python -m pytest $(MARKERS) $(SERIAL) || status=$$?; \
	exit $$status

docs: $(VENV)/installed          ## build the documentation site into build/docs/site
	$(VENV)/bin/python docs/build.py

dist: $(VENV)/installed          ## build what a release uploads into dist/, and check it
	rm -rf dist
	$(VENV)/bin/python -m build --outdir dist .
	$(VENV)/bin/python -m twine check --strict dist/*

wheel: $(VENV)/installed         ## build the runtime's wheel into dist/
	$(VENV)/bin/python -m build --wheel --outdir dist .

clean:           ## remove environments and build output
	rm -rf $(VENV) $(DEMO_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/installed: pyproject.toml constraints.txt
	@echo 'installing what development needs into $(VENV) (PyTorch included: some minutes)'
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python $(PIP_INSTALL) --no-compile --editable '.[dev]'
	@touch $@

$(DEMO_VENV)/installed: pyproject.toml constraints.txt $(shell find r2rt -type f -not -name '*.pyc')
	@echo 'installing the runtime into $(DEMO_VENV)'
	@$(PYTHON) -m venv $(DEMO_VENV)
	@$(DEMO_VENV)/bin/python $(PIP_INSTALL) .
	@touch $@
