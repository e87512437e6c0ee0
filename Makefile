.PHONY: format check test test-slow test-all test-min test-newest docs wheel

format:
	ruff check --fix .
	ruff format .

check:
	ruff check .
	ruff format --check .
	mypy
	lint-imports

# The site, in site/; a broken link, a missing page or an unknown name fails.
docs:
	mkdocs build --strict

test:
	python -m pytest

# Tests of processes, signals, resume, recipes and whole commands: 20 to 30 minutes on 2 cores.
test-slow:
	python -m pytest -m "slow and not gpu and not network"

test-all:
	python -m pytest -m ""

# With the oldest versions that pyproject.toml allows, in an environment of their own.
test-min:
	.ci/run --constraint tests/minimum.txt

# With the newest Lightning, also one that is not released yet.
test-newest:
	.ci/run "pytorch-lightning>=2.6.6rc0,<3" "lightning>=2.6.6rc0,<3"

wheel:
	python -m hatchling build
