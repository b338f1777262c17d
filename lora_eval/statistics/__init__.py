"""Intervals, tests and robust summaries; numpy only."""
