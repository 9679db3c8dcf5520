"""What ``srum doctor`` looks at. Nothing of it loads weights, downloads or writes."""
