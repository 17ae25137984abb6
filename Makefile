# Two commands for a fresh machine: `make demo` and `make test`. Each makes its own environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# img2dataset and clip-retrieval, whose layouts are tested, want other versions than we do.
TOOLS := $(VENV)/tools

.PHONY: demo test tools clean

# Touched last, so that an interrupted install is done again.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m toyworld demo --output runs/demo

$(TOOLS)/.installed: tests/tools/constraints.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check -c $< img2dataset
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check -c $< --no-deps clip-retrieval
	touch $@

# open_clip's trainer, which benchmarks/trainer_open_clip.py runs, wants this webdataset; all else of
# it is ours.
$(TOOLS)/open_clip_train: $(TOOLS)/.installed
	rm -rf $@.part
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $@.part webdataset==0.2.86
	mv $@.part $@

tools: $(TOOLS)/.installed $(TOOLS)/open_clip_train

test: $(VENV)/.installed tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto

clean:
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
