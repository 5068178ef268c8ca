"""Data sets of the studies: drawn, composed, or downloaded."""
