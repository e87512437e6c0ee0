"""Building blocks of a training step."""
