"""Text files that people or other programs wrote: encodings, YAML and delimited tables, read without a change."""
