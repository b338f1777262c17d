"""Training curve."""
