"""From a config to checkpoints and a history, and what the curve says."""
