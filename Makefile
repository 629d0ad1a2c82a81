.PHONY: help lint format types test fast faults wheel baselines docs

help:  ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /	/' | expand -t 14

lint:  ## ruff and mypy
	uv run ruff check . && uv run ruff format --check . && uv run mypy

format:  ## let ruff fix and format
	uv run ruff check --fix . && uv run ruff format .

test:  ## the whole suite
	uv run pytest -n auto --dist loadfile

fast:  ## the suite without tests over 10 s
	uv run pytest -n auto --dist loadfile -m "not slow"

faults:  ## the table of docs/results/reliability.md (an hour or more)
	uv run python benchmarks/reliability/run.py

docs:  ## the documentation's site, into site/; `uv run --group docs mkdocs serve` shows it
	NO_MKDOCS_2_WARNING=1 uv run --group docs mkdocs build --strict

wheel:  ## build the wheel into dist/
	uv build --wheel

baselines:  ## the table of docs/results/ot_conditional.md (hours)
	uv run python benchmarks/ot_conditional/run.py
