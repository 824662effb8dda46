# Two commands: `make demo` (the reactor runs itself) and `make test`. Each has a virtual environment of its own.
PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv-test
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint lock checkpoints clean

demo: $(DEMO)/.installed
	$(DEMO)/bin/homeostat demo $(ARGS)

test: $(TEST)/.installed
	$(TEST)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(TEST)/.installed
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/pyright --pythonpath $(TEST)/bin/python

# torch first, by exact version: an open range would pull the CUDA build and its gigabytes.
$(DEMO)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install -q -c constraints.txt torch==2.13.0
	$(DEMO)/bin/pip install -q -c constraints.txt -e .
	touch $@

$(TEST)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/pip install -q -c constraints.txt torch==2.13.0
	$(TEST)/bin/pip install -q -c constraints.txt -e ".[test]"
	touch $@

lock: $(TEST)/.installed
	(echo "# Exact versions CI and both make targets install with. Regenerate: make lock"; \
	 $(TEST)/bin/pip freeze --exclude-editable | grep -v "@" | sed 's/+cpu//') > constraints.txt

# The checkpoints in the repository: each made by the commands its card names (about an hour in all).
checkpoints: $(DEMO)/.installed
	$(DEMO)/bin/homeostat excite reactor --lock-step --data-dir .homeostat/made
	$(DEMO)/bin/homeostat train reactor --data-dir .homeostat/made --out models/library/reactor
	$(DEMO)/bin/homeostat excite reactor_bare --lock-step --runs 2400 --incidents 600 --data-dir .homeostat/made
	$(DEMO)/bin/homeostat train reactor_bare --data-dir .homeostat/made --out models/library/reactor_bare
	$(DEMO)/bin/homeostat excite vandevusse --lock-step --incidents 600 --data-dir .homeostat/made
	$(DEMO)/bin/homeostat train vandevusse --data-dir .homeostat/made --out models/library/vandevusse
	$(DEMO)/bin/homeostat excite turbofan --lock-step --runs 800 --data-dir .homeostat/made
	$(DEMO)/bin/homeostat train turbofan --data-dir .homeostat/made --out models/library/turbofan
	$(DEMO)/bin/homeostat excite glucose --lock-step --runs 800 --data-dir .homeostat/made
	$(DEMO)/bin/homeostat train glucose --data-dir .homeostat/made --out models/library/glucose
	$(DEMO)/bin/python -m benchmarks.glucose_forecast --out models/library/glucose_forecast

clean:
	rm -rf $(DEMO) $(TEST) build *.egg-info .pytest_cache .ruff_cache .hypothesis
