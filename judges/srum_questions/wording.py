"""What the judge ``questions`` asks."""

from __future__ import annotations

WRITE = """\
Write the questions that decide if an image fits this description, one in a line.
Each is answered by yes if the image fits, and by no if it does not: {text}"""
"""Asked without an image, once a prompt; ``{text}`` becomes the prompt."""
