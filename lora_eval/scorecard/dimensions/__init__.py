"""The dimensions of a scorecard, each from its formulas to its rules and its words; see ``spec.py``."""
