"""Grounders that look at no image: ``whole-image`` and ``grid``, for controls and stress tests."""
