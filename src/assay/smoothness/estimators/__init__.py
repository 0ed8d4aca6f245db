"""Ways to measure the kinks of outputs along a path: exactly on lines, by events, statistically, from samples."""
