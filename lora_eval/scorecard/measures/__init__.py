"""From the run's arrays to rows of numbers: one file per dimension, formulas in ``metrics``."""
