"""The grounder ``components``: connected regions that differ from the background, found without any model."""
