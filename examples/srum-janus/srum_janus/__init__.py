"""Janus as a model of srum-plugins."""
