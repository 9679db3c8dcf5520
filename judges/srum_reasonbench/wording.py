"""What is asked around T2I-ReasonBench's own questions. The judge is not told the prompt."""

from __future__ import annotations

DESCRIBE = "Describe this image: what it shows, how it is arranged, every text in it, and how well it is drawn."
"""Asked first about every image."""

EVALUATE = """\
An earlier look at this image found:
---
{description}
---
Answer these questions about the image. Each comes with what its scores mean; give it 1, 0.5 or 0.
{questions}
Answer by JSON only: {"reason": "<why, in short>", "score": [<one number for each question, in their order>]}"""
"""Asked about every image once a group of questions, each time anew; ``{questions}`` becomes the questions."""

QUESTION = "{number}. {question}\n   Scores: {criterion}"
"""One of ``{questions}``."""
