"""Studies of the discovery of spurious correlations."""
