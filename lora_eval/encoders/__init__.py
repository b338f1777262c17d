"""Image and text encoders whose features the scorecard compares."""
