.PHONY: format check test test-all

format:
	ruff check --fix .
	ruff format .

check:
	ruff check .
	ruff format --check .
	mypy

test:
	python -m pytest

test-all:
	python -m pytest -m ""
