"""Regions that stand out, as a grounder for srum-plugins."""
