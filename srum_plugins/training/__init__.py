"""Training: data, optimizers, what goes from step to step, checkpoints, and how several processes make one step."""
