"""The grounder ``native``: the model itself finds the phrases of the prompt."""
