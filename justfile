# Everyday commands. `just` comes with the dev extra (PyPI: rust-just).

python := ".venv/bin/python"

# List the commands.
default:
    @just --list

# Make .venv and install everything.
setup:
    scripts/setup dev

# Format the code.
fmt:
    {{python}} -m ruff format .
    {{python}} -m ruff check --fix .

# Look for faults of style.
lint:
    {{python}} -m ruff format --check .
    {{python}} -m ruff check .

# Check the types.
types:
    {{python}} -m mypy

# Check that arrows between modules point down only.
arch:
    .venv/bin/lint-imports

# Run the tests (arguments go to pytest).
test *arguments:
    scripts/test {{arguments}}

# Run the faults, whole, and print what came of them: kills, power cuts, full disks at every call, the worst days.
faults:
    COVEY_EVERY_CALL=1 {{python}} -m pytest tests/faults

# Let the controller live many more lives than the tests do, and look for the shortest that breaks a promise.
fuzz lives="300":
    COVEY_FUZZ_EXAMPLES={{lives}} COVEY_FUZZ_SHRINK=1 {{python}} -m pytest -n 0 --timeout 0 tests/unit/cloud_/test_controller_fuzz.py

# Check the pages of docs/ against the code.
docs:
    {{python}} -m pytest tests/contract/test_docs.py

# Watch the whole loop.
demo *arguments:
    scripts/demo {{arguments}}

# Do what CI does.
ci:
    .ci/run
