"""Exit codes of the command line."""

GOOD = 0
"""It went well."""
BAD = 1
"""The thing asked about is bad: a dataset with errors, no weight to recommend."""
FAILED = 2
"""The command could not run."""
STOPPED = 130
"""Interrupted; what was done is kept."""
