.PHONY: format check test test-all test-min

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

test-all:
	python -m pytest -m ""

# With the oldest versions that pyproject.toml allows, in an environment of their own.
test-min:
	.ci/run --constraint tests/minimum.txt
