"""What a run says, as CSV, HTML and JSON."""
