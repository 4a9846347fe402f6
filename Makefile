# make demo   sets everything up in .venv and runs the main job
# make test   sets everything up and runs lint, types and tests
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.ready
REFERENCE := .venv-reference/.ready
TRACKERS := .venv-trackers/.ready
VIEWERS := .venv-viewers/.ready

# Some machines forbid compiled files; every process that a test starts would compile torch again, for seconds.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint viewers clean
.DELETE_ON_ERROR:

demo: $(SETUP)
	$(BIN)/fastclip demo

# Two at a time: most tests wait for processes that start.
test: lint $(REFERENCE) $(TRACKERS)
	$(BIN)/pytest -q -rs --numprocesses 2 --dist loadfile

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# uv installs torch and DALI, 6 GB, in under a minute; pip needs several.
$(BIN)/uv:
	$(PYTHON) -m venv .venv || { echo "Debian keeps venv apart: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check uv

$(SETUP): $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

# OpenAI's own CLIP, CLIP_benchmark and others, which the tests compare with: never a dependency of fastclip.
$(REFERENCE): tests/reference/requirements.txt | $(SETUP)
	$(PYTHON) -m venv .venv-reference
	$(BIN)/uv pip install --quiet --python .venv-reference/bin/python --override tests/reference/overrides.txt \
		--requirement tests/reference/requirements.txt
	touch $@

# Experiment trackers, in which the tests run `fastclip track`. They exclude each other's versions of much else.
$(TRACKERS): tests/trackers/requirements.txt | $(SETUP)
	$(PYTHON) -m venv .venv-trackers
	$(BIN)/uv pip install --quiet --python .venv-trackers/bin/python --requirement $<
	touch $@

# Embedding Atlas, which `pytest -m slow tests/test_viewers.py` opens exports with. It needs Python 3.11.
viewers: $(VIEWERS)

$(VIEWERS): tests/viewers/requirements.txt | $(BIN)/uv
	$(PYTHON) -m venv .venv-viewers
	$(BIN)/uv pip install --quiet --python .venv-viewers/bin/python --no-deps --requirement tests/viewers/requirements.txt
	touch $@

clean:
	rm -rf .venv .venv-reference .venv-trackers .venv-viewers
