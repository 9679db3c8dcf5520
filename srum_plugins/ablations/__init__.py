"""Experiments of many runs that share what they have in common: ablations, and stress tests of the boxes."""
