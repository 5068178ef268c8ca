"""Fuzzing and reliability runs: `make fuzz`, or a single one by `python -m tests.fuzz.NAME`."""
