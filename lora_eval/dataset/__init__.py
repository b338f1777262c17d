"""A folder of pictures and captions: checked, bucketed, encoded once."""
