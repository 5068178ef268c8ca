"""The command line: one file for each command, and the files that the commands share."""
