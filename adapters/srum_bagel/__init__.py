"""BAGEL: a mixture-of-transformers that understands and generates, at any size."""
