"""The monitors of training that come with the core."""
