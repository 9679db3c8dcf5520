"""The weakest region counts, as an aggregator for srum-plugins."""
