"""The things that a prompt names, for grounders that look for them."""

from __future__ import annotations

ASK = "Name every thing in this text, one in a line: {text}"
"""Asked of a model without an image; ``{text}`` becomes the prompt."""
