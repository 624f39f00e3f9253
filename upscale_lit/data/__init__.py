"""Photos, and the pairs of low and high pictures that are made from photos."""
