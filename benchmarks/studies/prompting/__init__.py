"""Studies of prompting."""
