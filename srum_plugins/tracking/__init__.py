"""Tracking of runs in MLflow, as a listener plugin."""
