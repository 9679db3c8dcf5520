"""The benchmark ``t2i-compbench``: T2I-CompBench's prompts, scored from 0 to 100 by a model that sees the images."""
