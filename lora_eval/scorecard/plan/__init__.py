"""What a scorecard draws: checkpoints, weights, prompts and seeds."""
