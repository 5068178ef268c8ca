"""Studies of attribution maps and of the interrelation of patches."""
