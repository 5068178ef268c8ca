"""Training of the head of the embedded model."""
