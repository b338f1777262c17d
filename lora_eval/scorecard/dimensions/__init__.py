"""The six dimensions, each from its formulas to its rows of the summary."""
