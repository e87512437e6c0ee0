.PHONY: format check test test-slow test-all test-min

format:
	ruff check --fix .
	ruff format .

check:
	ruff check .
	ruff format --check .
	mypy
	lint-imports

test:
	python -m pytest

# Tests of processes, signals, resume, recipes, training and the command line that take long: 20 to 30 minutes on 2 cores.
test-slow:
	python -m pytest -m slow tests/test_distributed.py tests/test_signals.py tests/test_resume.py tests/test_recipes.py \
		tests/training tests/cli tests/test_any_game.py tests/test_namespaces.py

test-all:
	python -m pytest -m ""

# With the oldest versions that pyproject.toml allows, in an environment of their own.
test-min:
	.ci/run --constraint tests/minimum.txt
