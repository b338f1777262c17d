"""From measured rows to the advised checkpoint and weight, the verdict and the advice."""
