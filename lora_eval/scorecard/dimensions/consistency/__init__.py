"""Visual consistency."""
