"""Studies of guided masked pre-training."""
