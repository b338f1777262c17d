"""From pictures to numbers: features, style and distortion statistics, references."""
