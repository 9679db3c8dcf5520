"""Named by transformers when it is imported."""
