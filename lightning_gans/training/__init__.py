"""How a training step works: parts that models are put together from."""
