"""The command line: one file a command, what the commands share, and the writers of results."""
