"""Reward maps, the aggregators that make them of judgements, and the objectives that train on them."""
