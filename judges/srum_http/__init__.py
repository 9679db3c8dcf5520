"""The judge ``http``: a model behind an OpenAI-compatible endpoint scores the images in words."""
