"""Benchmarks of semattn: studies, the data sets and trained heads that they use, and tools."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS_DIR = ROOT / "benchmarks" / "results"
