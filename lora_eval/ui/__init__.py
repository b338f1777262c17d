"""The two tabs. No logic: everything they do goes through the same functions as the command line."""
