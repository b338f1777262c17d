"""Plan, draw, embed, measure, decide. Each stage reads the run folder and adds to it."""
