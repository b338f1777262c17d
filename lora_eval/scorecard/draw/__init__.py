"""Drawing a plan's pictures into the run folder."""
