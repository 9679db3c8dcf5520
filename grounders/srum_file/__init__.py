"""The grounder ``file``: boxes that someone else found, from a JSONL file."""
