"""Features as files that other programs read."""
