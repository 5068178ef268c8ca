# The one definition of every check and chore; continuous integration calls these targets too.
# A machine with Python >= 3.10 (and its venv module) is enough: the first target makes the rest.

PYTHON ?= python3
VENV ?= .venv
OUT ?= demo
OLDEST ?= python3.10
PHOTO ?= examples/flower.jpg
PIP_ARGS ?=
UV_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.semattn-installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env gradio demo test lint types unit coverage format tables picture docs notebooks gallery dist check-wheel check-installs oldest clean distclean peers opencv

help: ## list the targets
	@echo 'semattn: make TARGET [PYTHON=python3.12] [VENV=.venv] [PHOTO=photo.jpg] [OUT=demo]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP) ## make the environment in $(VENV); quick once it stands

demo: env ## explain a photograph with the embedded model; pictures go to ./demo
	$(BIN)/semattn explain $(PHOTO) --out $(OUT)

test: lint types unit ## everything that must hold: lint, types, tests with the packaged weights

lint: env ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env ## mypy on semattn
	$(BIN)/mypy

unit: env ## the tests, those with the packaged weights included, side by side
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n auto --maxprocesses 4 --dist worksteal

coverage: env ## the tests that need no weights, with coverage by branch
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage report

format: env ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: env ## hostile and generated input, threads, kills; hours, results in benchmarks/results
	$(BIN)/python -m tests.fuzz.reliability_fuzz
	$(BIN)/python -m tests.fuzz.reliability_files
	$(BIN)/python -m tests.fuzz.reliability_threads
	$(BIN)/python -m tests.fuzz.reliability_audit

tables: env ## write the tables of README.md and docs from the committed results
	$(BIN)/python -m benchmarks.tools.render_tables

picture: demo ## make the pictures of README.md anew; some minutes
	$(BIN)/semattn compare $(PHOTO) --out $(OUT)/compare
	$(BIN)/semattn prompt examples/photographer.jpg --region 10,50,270,512 --out $(OUT)/prompt
	$(BIN)/python -c 'from PIL import Image; \
	  shrink = lambda large: large.resize((1600, round(large.height * 1600 / large.width)), Image.Resampling.LANCZOS); \
	  [shrink(Image.open("$(OUT)/" + made).convert("RGB")).save("docs/" + kept, quality=88, subsampling=0, optimize=True) \
	   for made, kept in (("figure.png", "explain.jpg"), ("compare/compare.png", "compare.jpg"), ("prompt/prompt.png", "prompt.jpg"))]'

docs: env ## the site, in docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

notebooks: env ## run the notebooks of docs/notebooks and keep their outputs; some minutes
	$(BIN)/python docs/notebooks/make.py

gallery: env ## run the examples and keep what they draw in docs/gallery; some minutes
	$(BIN)/python docs/gallery/make.py

dist: env ## wheel and source distribution, in ./dist
	rm -rf dist
	$(BIN)/python -m build

check-wheel: dist ## use the wheel as a user does: fresh environment, another folder, mypy --strict; minutes
	PYTHON=$(PYTHON) PIP_ARGS='$(PIP_ARGS)' .ci/check-wheel

check-installs: dist ## fresh environments by pip and by uv, base and [all]: doctor, demo; table in docs/versions.md; minutes
	PIP_ARGS="$(PIP_ARGS)" UV_ARGS="$(UV_ARGS)" $(BIN)/python -m benchmarks.tools.check_installs --python $(PYTHON)
	$(BIN)/python -m benchmarks.tools.render_tables

oldest: ## the tests with the oldest releases that setup.cfg allows; $(OLDEST) says which Python
	$(OLDEST) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
	  --constraint .ci/oldest.txt --editable '.[test]'
	@$(MAKE) --no-print-directory peers opencv VENV=.venv-oldest PIP_ARGS='$(PIP_ARGS) --constraint .ci/oldest.txt'
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -m 'not slow' -n auto --maxprocesses 4 --dist worksteal

clean: ## remove what the tools and the demo left
	rm -rf build dist docs/_build *.egg-info .coverage .hypothesis htmlcov .mypy_cache .pytest_cache .ruff_cache demo
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## and the environment
	rm -rf $(VENV) .venv-oldest

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo 'error: PYTHON: expected Python >= 3.10, got '"$$($(PYTHON) --version 2>/dev/null || echo none)"' — run make PYTHON=python3.12'; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'error: PYTHON: expected the venv module, got none — on Debian and Ubuntu: apt install python3-venv'; exit 2; }
	@echo 'making the environment in $(VENV): several GB, mostly PyTorch; minutes, and once'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --editable '.[test,docs]'
	@$(MAKE) --no-print-directory peers gradio opencv
	@touch $@

# Peers that require the headless build of OpenCV are installed without their dependencies, which the
# extra `test` has: two builds in one environment overwrite each other.
peers:
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps 'grad-cam >= 1.5'

# Gradio requires a Pillow below 13, but works with it. Everything else stays as it is, and the tests
# run with the newest Pillow. Where that is not possible, the tests of the demo are skipped.
gradio:
	@$(BIN)/python -m pip list --disable-pip-version-check --format=freeze | grep -iv '^pillow=' > $(VENV)/installed.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --constraint $(VENV)/installed.txt 'gradio >= 6' && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --upgrade Pillow || \
	  echo 'gradio: not installed; the tests of the demo are skipped'

# Leave one build of OpenCV: opencv-python, or the headless build where the system lacks libGL.
REPAIR := from semattn.keypoints.opencv import installation_problem; \
  print(installation_problem()[1].get("pip", ""))

opencv:
	@command=$$($(BIN)/python -c '$(REPAIR)') && \
	  { [ -z "$$command" ] || { echo "$$command" && sh -c "$$command $(PIP_ARGS)"; }; } && \
	  $(BIN)/python -c 'import cv2'
