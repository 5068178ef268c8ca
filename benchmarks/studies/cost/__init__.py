"""Time and memory of each part."""
