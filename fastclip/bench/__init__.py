"""The speed of this machine. Every figure is a record with its conditions."""
