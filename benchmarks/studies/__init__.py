"""Studies: one folder for each subject; each study writes a JSON file to benchmarks/results."""
