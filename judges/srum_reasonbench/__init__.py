"""The benchmark ``t2i-reasonbench``: T2I-ReasonBench's questions, answered by a model that sees the images."""
