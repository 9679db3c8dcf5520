"""The drawn world: a laptop-size task with an exact oracle, its prompts, benchmark and small model."""
