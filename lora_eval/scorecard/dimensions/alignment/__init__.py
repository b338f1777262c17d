"""Text-image alignment."""
