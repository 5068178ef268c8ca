"""The commands of `semattn`, one file each, and what they share."""
