"""The grounder ``sam``: Segment Anything proposes regions by itself, with no phrase."""
