"""The stages of SRUM, one module each: generate, ground, judge, reward, train, evaluate."""
