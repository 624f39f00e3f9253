"""Apply trained networks: upscale pictures, measure networks and export them."""
