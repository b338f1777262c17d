"""Each figure of the README, one command each: ``python -m benchmarks NAME``."""
