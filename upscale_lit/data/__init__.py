"""Photos, and pairs of low and high pictures made of them."""
