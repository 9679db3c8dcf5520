"""The benchmark ``file``: your own prompts, scored from 0 to 100 by a model that sees the images."""
