"""Coloured patches, as a model adapter for srum-plugins."""
