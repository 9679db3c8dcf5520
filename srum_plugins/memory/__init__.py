"""How much memory a run needs on its device: a rehearsal on tensors that have none."""
