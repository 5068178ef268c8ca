"""Single-purpose utilities: files, run folders, validation, provenance, statistics, processes."""
