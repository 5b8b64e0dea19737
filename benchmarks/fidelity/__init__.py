"""What a thief's copy is worth, with and without velvetrope in front of the model."""
